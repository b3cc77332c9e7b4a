#include "formats/imatrix.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>

#include "core/error.h"
#include "formats/gguf.h"
#include "tests/catch.h"
#include "tests/formats/gguf_bytes.h"
#include "tests/support.h"

using namespace llmc;
using namespace llmc::test;
using Catch::Matchers::Contains;

namespace {

constexpr uint32_t f32 = 0, f16 = 1;

Imatrix parse_imatrix_text(const std::string& file) { return parse_imatrix(std::as_bytes(std::span(file)), "i.dat"); }

std::string i32(int32_t value) { return number_bytes(value); }
std::string floats(const std::vector<float>& values) {
  std::string bytes;
  for (float value : values) bytes += number_bytes(value);
  return bytes;
}

/// An entry of the old kind.
std::string old_entry(const std::string& name, int32_t calls, const std::vector<float>& sums) { return i32(static_cast<int32_t>(name.size())) + name + i32(calls) + i32(static_cast<int32_t>(sums.size())) + floats(sums); }
/// As imatrix.cpp's save_imatrix_legacy writes it.
std::string old_file() { return i32(2) + old_entry("a.weight", 4, {8, 0, 2}) + old_entry("b.weight", 2, {1}) + i32(4) + i32(5) + "t.txt"; }

std::string padded(std::string bytes) {
  bytes.resize((bytes.size() + 31) / 32 * 32, '\0');
  return bytes;
}

/// Two entries, as imatrix.cpp's save_imatrix writes them.
GgufBytes new_file() {
  return {.entries = {entry("general.type", value_string, text("imatrix")), entry("imatrix.datasets", value_array, u32(value_string) + u64(1) + text("t.txt")), entry("imatrix.chunk_count", value_u32, u32(4)), entry("imatrix.chunk_size", value_u32, u32(512))},
          .tensors = {tensor("a.weight.in_sum2", {3}, f32, 0), tensor("a.weight.counts", {1}, f32, 32), tensor("b.weight.in_sum2", {1, 1}, f32, 64), tensor("b.weight.counts", {1, 1}, f32, 96)},
          .data = padded(floats({8, 0, 2})) + padded(floats({4})) + padded(floats({1})) + padded(floats({2}))};
}

/// The file with one float of its data another: each of the four tensors lies in 32 bytes.
std::string with_float(size_t number, float value) {
  GgufBytes file = new_file();
  file.data.replace(32 * number, 4, number_bytes(value));
  return file.bytes();
}

std::string changed(const std::function<void(GgufBytes&)>& change) {
  GgufBytes file = new_file();
  change(file);
  return file.bytes();
}

}  // namespace

TEST_CASE("Importance matrices of both kinds are read", "[imatrix]") {
  for (const std::string& file : {new_file().bytes(), old_file()}) {
    const Imatrix imatrix = parse_imatrix_text(file);
    REQUIRE(imatrix.entries.size() == 2);
    const ImatrixEntry& a = imatrix.entries.at("a.weight");
    CHECK(a.sums == std::vector<float>{8, 0, 2});
    CHECK(a.count == 4);
    CHECK(a.mean_square() == std::vector<float>{2, 0, 0.5});
    CHECK(imatrix.entries.at("b.weight").mean_square() == std::vector<float>{0.5});
    CHECK(imatrix.datasets == std::vector<std::string>{"t.txt"});
    CHECK(imatrix.chunk_count == 4);
  }
  CHECK(parse_imatrix_text(new_file().bytes()).chunk_size == 512);
  CHECK(parse_imatrix_text(old_file()).chunk_size == 0);
}

TEST_CASE("Old importance matrices may end after the entries, or name no dataset", "[imatrix]") {
  CHECK(parse_imatrix_text(i32(1) + old_entry("a", 1, {1})).datasets.empty());
  CHECK(parse_imatrix_text(i32(1) + old_entry("a", 1, {1}) + i32(7) + i32(0)).chunk_count == 7);
}

TEST_CASE("An importance matrix that is written is read back the same, and by its GGUF names", "[imatrix]") {
  const TemporaryDirectory directory;
  Imatrix imatrix{.entries = {}, .datasets = {"one", "tw\xc3\xb6"}, .chunk_count = 3, .chunk_size = 512};
  imatrix.entries["output.weight"] = {.sums = {1.5f, 0, 3e30f}, .count = 1536};
  imatrix.entries["blk.0.ffn_down.weight"] = {.sums = std::vector<float>(33, 0.25f), .count = 1 << 24};
  write_imatrix(directory.path() / "i.gguf", imatrix);
  const GgufFiles file = open_gguf(directory.path() / "i.gguf");
  REQUIRE(file.tensors.size() == 4);
  CHECK(file.tensors[0].name == "blk.0.ffn_down.weight.in_sum2");
  CHECK(file.tensors[1].name == "blk.0.ffn_down.weight.counts");
  CHECK(file.tensors[2].name == "output.weight.in_sum2");
  CHECK(file.tensors[2].shape == Shape{3});
  CHECK(file.tensors[3].shape == Shape{1});
  const MappedFile bytes(directory.path() / "i.gguf");
  CHECK(parse_imatrix(bytes.bytes(), "i.gguf") == imatrix);
  imatrix.entries["output.weight"].count = (1 << 24) + 1;  // f32 does not hold it: what is on disk is not what was meant
  std::filesystem::remove(directory.path() / "i.gguf");
  CHECK_THROWS_WITH(write_imatrix(directory.path() / "i.gguf", imatrix), Contains("i.gguf: what was read back"));
}

TEST_CASE("Everything that an importance matrix of the GGUF kind can lie about is refused", "[imatrix]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const auto without = [](size_t i) { return changed([i](GgufBytes& f) { f.entries.erase(f.entries.begin() + static_cast<std::ptrdiff_t>(i)); }); };
  const auto with_key = [](size_t i, const std::string& key) { return changed([&](GgufBytes& f) { f.entries[i] = key; }); };
  const auto with_tensor = [](size_t i, const std::string& row) { return changed([&](GgufBytes& f) { f.tensors[i] = row; }); };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {with_key(0, entry("general.type", value_string, text("model"))), "key general.type: expected imatrix, found model"},
      {with_key(0, entry("general.type", value_u32, u32(1))), "key general.type: expected a string"},
      {without(0), "key general.type is missing"},
      {without(1), "key imatrix.datasets is missing"},
      {with_key(1, entry("imatrix.datasets", value_string, text("t"))), "key imatrix.datasets: expected an array of strings"},
      {without(2), "key imatrix.chunk_count: expected a number from 0, it is missing"},
      {without(3), "key imatrix.chunk_size: expected a number from 0, it is missing"},
      {with_key(2, entry("imatrix.chunk_count", value_i32, number_bytes(int32_t{-1}))), "key imatrix.chunk_count: expected a number from 0, found -1"},
      {with_tensor(0, tensor("a.weight", {3}, f32, 0)), "tensor a.weight: expected a name that ends in .in_sum2 or .counts"},
      {with_tensor(0, tensor(".in_sum2", {3}, f32, 0)), "tensor .in_sum2: expected a name that ends"},
      {with_tensor(0, tensor("c.weight.in_sum2", {3}, f32, 0)), "entry a.weight: expected tensors that end in .in_sum2 and .counts, the one in .in_sum2 is missing"},
      {with_tensor(0, tensor("c.weight.in_sum2", {3}, f32, 0)), "entry c.weight: expected tensors that end in .in_sum2 and .counts, the one in .counts is missing"},
      {with_tensor(0, tensor("a.weight.in_sum2", {3}, f16, 0)), "entry a.weight: a.weight.in_sum2: expected F32, found F16"},
      {with_tensor(1, tensor("a.weight.counts", {1}, f16, 32)), "entry a.weight: a.weight.counts: expected F32, found F16"},
      {with_tensor(1, tensor("a.weight.counts", {2}, f32, 32)), "entry a.weight: holds sums [3] and counts [2]; expected those of one matrix"},
      {with_tensor(0, tensor("a.weight.in_sum2", {3, 2}, f32, 0)), "entry a.weight: holds sums [2, 3] and counts [1]"},
      {with_tensor(2, tensor("a.weight.in_sum2", {1}, f32, 64)), "appears twice"},
      {with_tensor(0, tensor("a.weight.in_sum2", {uint64_t{1} << 40}, f32, 0)), "truncated"},
      {with_float(0, nan), "entry a.weight: column 0: expected a sum of squares, found nan"},
      {with_float(0, -1), "entry a.weight: column 0: expected a sum of squares, found -1"},
      {with_float(2, infinity), "entry b.weight: column 0: expected a sum of squares, found inf"},
      {with_float(1, 0), "entry a.weight: count: expected a whole number from 1, found 0"},
      {with_float(1, -4), "entry a.weight: count: expected a whole number from 1, found -4"},
      {with_float(1, 1.5f), "entry a.weight: count: expected a whole number from 1, found 1.5"},
      {with_float(1, nan), "entry a.weight: count: expected a whole number from 1, found nan"},
      {with_float(3, infinity), "entry b.weight: count: expected a whole number from 1, found inf"},
      {with_float(3, 1e30f), "entry b.weight: count: expected a whole number from 1, found 1e+30"},
      {changed([](GgufBytes& f) { f.tensors.clear(), f.data.clear(); }), "holds no entry"},
  };
  for (const auto& [file, message] : cases) {
    INFO(message);
    CHECK_THROWS_WITH(parse_imatrix_text(file), Contains("i.dat") && Contains(message));
  }
  const std::string whole = new_file().bytes();
  constexpr size_t padding = 28;  // behind the last tensor, which a file may lack
  for (size_t size = 0; size < whole.size() - padding; ++size) CHECK_THROWS_AS(parse_imatrix_text(whole.substr(0, size)), Error);
}

TEST_CASE("Everything that an old importance matrix can lie about is refused", "[imatrix]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::string good = old_entry("a", 1, {1});
  const std::vector<std::pair<std::string, std::string>> cases = {
      {i32(0), "number of entries: expected at least 1, found 0"},
      {i32(-2) + good, "number of entries: expected at least 1, found -2"},
      {i32(1 << 30) + good, "is no imatrix: 1073741824 entries do not fit into a file of 21 bytes"},
      {"# A text\n", "is no imatrix"},
      {i32(1) + i32(0) + std::string(30, 'x'), "entry 1 of 1: length of its name: expected at least 1, found 0"},
      {i32(1) + i32(-1) + std::string(30, 'x'), "entry 1 of 1: length of its name: expected at least 1, found -1"},
      {i32(1) + i32(64) + std::string(80, 'x'), "entry 1 of 1: expected a name of 1 to 63 bytes, found 64"},
      {i32(1) + i32(60) + std::string(30, 'x'), "truncated: entry 1 of 1: name needs 60 bytes, found 30"},
      {i32(1) + old_entry("a", 0, {1}), "entry a: number of calls: expected at least 1, found 0"},
      {i32(1) + old_entry("a", -3, {1}), "entry a: number of calls: expected at least 1, found -3"},
      {i32(1) + old_entry("a", 1, {}) + i32(1), "entry a: number of columns: expected at least 1, found 0"},
      {i32(1) + i32(1) + "a" + i32(1) + i32(INT32_MAX) + floats({1}), "truncated: entry a needs 8589934588 bytes, found 4"},
      {i32(1) + i32(1) + "a" + i32(1) + i32(-1) + floats({1}), "entry a: number of columns: expected at least 1, found -1"},
      {i32(2) + good + good, "entry a: appears twice"},
      {i32(1) + old_entry("a", 1, {1, nan}), "entry a: column 1: expected a sum of squares, found nan"},
      {i32(1) + old_entry("a", 1, {infinity}), "entry a: column 0: expected a sum of squares, found inf"},
      {i32(1) + old_entry("a", 1, {-0.5f}), "entry a: column 0: expected a sum of squares, found -0.5"},
      {i32(1) + good + i32(-1) + i32(0), "number of chunks: expected at least 0, found -1"},
      {i32(1) + good + i32(1), "truncated: length of the dataset's name needs 4 bytes, found 0"},
      {i32(1) + good + i32(1) + i32(-5), "length of the dataset's name: expected at least 0, found -5"},
      {i32(1) + good + i32(1) + i32(5) + "t", "truncated: name of the dataset needs 5 bytes, found 1"},
      {i32(1) + good + i32(1) + i32(1) + "tx", "1 bytes are left after the name of the dataset"},
  };
  for (const auto& [file, message] : cases) {
    INFO(message);
    CHECK_THROWS_WITH(parse_imatrix_text(file), Contains("i.dat: ") && Contains(message));
  }
  const std::string whole = old_file();
  const size_t entries = whole.size() - 4 - 4 - 5;  // the oldest files end there
  for (size_t size = 0; size < whole.size(); ++size)
    if (size != entries) CHECK_THROWS_AS(parse_imatrix_text(whole.substr(0, size)), Error);
}
