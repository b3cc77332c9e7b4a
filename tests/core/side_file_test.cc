#include "core/side_file.h"

#include <fstream>

#include "core/error.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

TEST_CASE("a file beside the weights is there, missing, or refused", "[side_file]") {
  const test::TemporaryDirectory temporary;
  const auto make = [&](const char* name) { return temporary.path() / name; };
  std::ofstream(make("file")) << "text";
  fs::create_symlink("file", make("link"));
  fs::create_symlink("nowhere", make("dangling"));
  fs::create_symlink("loop", make("loop"));
  fs::create_directory(make("folder"));
  CHECK(find_text_file(make("file")) == "text");
  CHECK(find_text_file(make("link")) == "text");
  CHECK_FALSE(find_text_file(make("absent")));
  CHECK_FALSE(find_text_file(make("absent") / "file"));
  CHECK_FALSE(find_text_file(make("file") / "file"));
  for (const char* name : {"dangling", "loop", "folder"}) {
    CHECK(has_entry(make(name)));
    CHECK_THROWS_WITH(find_text_file(make(name)), Contains(make(name).string()));
  }
  CHECK_THROWS_WITH(find_text_file(make("loop") / "file"), Contains("cannot open"));
}
