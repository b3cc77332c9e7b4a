#include "core/output.h"

#include <fstream>

#include "core/error.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

size_t entries(const fs::path& path) { return static_cast<size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator())); }

}  // namespace

TEST_CASE("a staged directory appears whole or not at all", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path target = temporary.path() / "out";
  {
    StagedDirectory staged(target, Overwrite::refuse);
    put(staged.path() / "a", "1");
  }
  CHECK(entries(temporary.path()) == 0);  // not committed: nothing is left
  {
    StagedDirectory staged(target, Overwrite::refuse);
    put(staged.path() / "llmc.json", "{}");
    CHECK_FALSE(fs::exists(target));
    staged.commit();
  }
  CHECK(read_text_file(target / "llmc.json") == "{}");
  CHECK(entries(temporary.path()) == 1);
  CHECK_THROWS_WITH(StagedDirectory(target, Overwrite::refuse), Contains("already exists") && Contains("--force"));
  {
    StagedDirectory staged(target, Overwrite::replace);
    put(staged.path() / "llmc.json", "new");
    CHECK(read_text_file(target / "llmc.json") == "{}");  // the old one stays until the new one is whole
    staged.commit();
  }
  CHECK(read_text_file(target / "llmc.json") == "new");
  CHECK(entries(temporary.path()) == 1);
}

TEST_CASE("only artifacts and empty directories are replaced", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path target = temporary.path() / "home";
  fs::create_directory(target);
  put(target / "thesis.txt", "precious");
  CHECK_THROWS_WITH(StagedDirectory(target, Overwrite::replace), Contains("replaces only"));
  put(temporary.path() / "file", "x");
  CHECK_THROWS_WITH(StagedDirectory(temporary.path() / "file", Overwrite::replace), Contains("replaces only"));
  CHECK_THROWS_WITH(StagedDirectory(temporary.path() / "no" / "such", Overwrite::refuse), Contains("does not exist"));
  CHECK(read_text_file(target / "thesis.txt") == "precious");
  CHECK(entries(temporary.path()) == 2);
}

TEST_CASE("an artifact with files of the user's is not replaced", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path target = temporary.path() / "out";
  fs::create_directories(target / "student");
  for (const char* name : {"llmc.json", "config.json", "model-00001-of-00002.safetensors", "sensitivity-2.svg", "tokenizer.json", "train.py", "student/model.safetensors"}) put(target / name, "x");
  CHECK_NOTHROW(StagedDirectory(target, Overwrite::replace));
  for (const char* name : {"thesis.txt", "model-1-of-x.safetensors", "report.json.bak", "training-.svg", "student/notes.md"}) {
    put(target / name, "precious");
    CHECK_THROWS_WITH(StagedDirectory(target, Overwrite::replace), Contains("replaces only what llmc wrote") && Contains(name));
    CHECK(read_text_file(target / name) == "precious");
    fs::remove(target / name);
  }
  for (const char* name : {"a", "b", "c", "d", "e"}) fs::create_directory(target / name);
  CHECK_THROWS_WITH(StagedDirectory(target, Overwrite::replace), Contains("holds a, b, c and 2 more;"));
  CHECK(entries(temporary.path()) == 1);
}

TEST_CASE("outputs at links that lead to themselves are refused", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path loop = temporary.path() / "loop";
  fs::create_symlink(loop, loop);
  CHECK_THROWS_WITH(StagedDirectory(loop, Overwrite::refuse), Contains("already exists"));
  CHECK_THROWS_WITH(StagedDirectory(loop, Overwrite::replace), Contains("replaces only"));
  CHECK_THROWS_WITH(StagedDirectory(loop / "x", Overwrite::refuse), Contains("Too many levels"));
}

TEST_CASE("left-overs of dead runs go, those of living ones stay", "[output]") {
  const test::TemporaryDirectory temporary;
  fs::create_directory(temporary.path() / ".out.llmc-partial-999999");
  StagedDirectory living(temporary.path() / "other", Overwrite::refuse);
  StagedDirectory staged(temporary.path() / "out", Overwrite::refuse);
  CHECK_FALSE(fs::exists(temporary.path() / ".out.llmc-partial-999999"));
  CHECK(fs::exists(living.path()));
}

TEST_CASE("files are written at positions, atomically and with free space checked", "[output]") {
  const test::TemporaryDirectory temporary;
  {
    OutputFile file(temporary.path() / "f");
    file.write("head");
    file.write_at(8, std::as_bytes(std::span("tail", 4)));
    file.write_at(4, std::as_bytes(std::span("body", 4)));
    file.close();
  }
  CHECK(read_text_file(temporary.path() / "f") == "headbodytail");
  CHECK_THROWS_WITH(OutputFile(temporary.path() / "f"), Contains("cannot create"));
  write_file_atomically(temporary.path() / "g", "1");
  write_file_atomically(temporary.path() / "g", "2");
  CHECK(read_text_file(temporary.path() / "g") == "2");
  CHECK(entries(temporary.path()) == 2);
  CHECK_THROWS_WITH(require_free_space(temporary.path(), uint64_t{1} << 62), Contains("free disk space"));
}
