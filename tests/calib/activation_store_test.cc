#include "calib/activation_store.h"

#include <filesystem>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

constexpr int64_t lengths[] = {3, 1, 5};

void fill(ActivationStore& store, const std::string& name) {
  for (int64_t i = 0; i < store.sequences(); ++i) store.write(i, test::random_matrix(store.length(i), store.width(), name + std::to_string(i)).view());
}

bool holds(const ActivationStore& store, const std::string& name) {
  for (int64_t i = 0; i < store.sequences(); ++i)
    if (!std::ranges::equal(store.read(i).values(), test::random_matrix(store.length(i), store.width(), name + std::to_string(i)).values())) return false;
  return true;
}

}  // namespace

TEST_CASE("a store in the memory of another holds its own values, and saves no more than those") {
  ActivationStore wide(lengths, 40, DType::f32, std::nullopt);
  fill(wide, "wide");
  PageMemory memory = std::move(wide).take_memory();
  const std::byte* const place = memory.bytes().data();
  ActivationStore narrow(lengths, 7, DType::f32, std::nullopt, std::move(memory));
  fill(narrow, "narrow");
  CHECK(holds(narrow, "narrow"));
  const test::TemporaryDirectory folder;
  narrow.save(folder.path() / "saved");
  CHECK(std::filesystem::file_size(folder.path() / "saved") == ActivationStore::size_of(9, 7, DType::f32));
  ActivationStore loaded(lengths, 7, DType::f32, std::nullopt);
  loaded.load(folder.path() / "saved");
  CHECK(holds(loaded, "narrow"));

  PageMemory again = std::move(narrow).take_memory();
  CHECK(again.bytes().data() == place);  // it really was used
  PageMemory pages(size_t{9} << 20);
  std::ranges::fill(pages.bytes(), std::byte{7});
  pages.shrink((size_t{3} << 20) + 1);  // whole huge pages stay
  CHECK(pages.bytes().size() == size_t{4} << 20);
  CHECK(std::ranges::count(pages.bytes(), std::byte{7}) == std::ptrdiff_t{4} << 20);
  ActivationStore larger(lengths, 80, DType::f32, std::nullopt, std::move(again));  // too small: new memory
  fill(larger, "larger");
  CHECK(holds(larger, "larger"));
}
