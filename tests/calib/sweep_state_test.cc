#include "calib/sweep_state.h"

#include <fstream>

#include "core/error.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

TEST_CASE("what a kill left of a state is taken away, what is not a state's is refused", "[sweep]") {
  const test::TemporaryDirectory temporary;
  const fs::path half = temporary.path() / "state.json.llmc-partial-4711";
  std::ofstream(half) << "{";
  std::ofstream(temporary.path() / "block-0.safetensors") << "x";
  CHECK(SweepState(temporary.path(), Persistence::resumable, {}).finished() == 0);
  CHECK_FALSE(fs::exists(half));
  CHECK(fs::exists(temporary.path() / "block-0.safetensors"));

  std::ofstream(half) << "{";  // of the second state
  std::ofstream(temporary.path() / "state.json") << R"({"format": "llmc-sweep", "version": 1, "signature": {"a": 1}, "finished": 1, "notes": null})";
  CHECK(SweepState(temporary.path(), Persistence::resumable, {{"a", 1}}).finished() == 1);
  CHECK_FALSE(fs::exists(half));

  fs::remove(temporary.path() / "state.json");
  std::ofstream(temporary.path() / "letter.txt") << "mine";
  CHECK_THROWS_WITH(SweepState(temporary.path(), Persistence::resumable, {}), Contains("letter.txt") && Contains("empty directory"));

  const fs::path loop = temporary.path() / "loop";
  fs::create_directory(loop);
  fs::create_symlink("state.json", loop / "state.json");
  CHECK_THROWS_WITH(SweepState(loop, Persistence::resumable, {}), Contains("state.json") && Contains("Too many levels"));
}
