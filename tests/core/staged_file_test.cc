#include "core/staged_file.h"

#include <fstream>

#include "core/error.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

void put_file(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

void stage(const fs::path& target, Overwrite overwrite) {
  StagedFile staged(target, overwrite);
  put_file(staged.path(), "GGUFnew");
  put_file(staged.directory() / "report.json", "{\"llmc_version\": 1}");
  staged.commit();
}

}  // namespace

TEST_CASE("a GGUF file replaces only GGUF files, empty files and reports", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path target = temporary.path() / "out.gguf", report = temporary.path() / "out.report.json";
  stage(target, Overwrite::refuse);
  CHECK_THROWS_WITH(StagedFile(target, Overwrite::refuse), Contains("already exists"));
  stage(target, Overwrite::replace);
  for (const char* foreign : {"%PDF", "GGU", "{}"}) {
    put_file(target, foreign);
    CHECK_THROWS_WITH(StagedFile(target, Overwrite::replace), Contains("out.gguf") && Contains("no GGUF file"));
    CHECK(read_text_file(target) == foreign);
  }
  put_file(target, "");
  stage(target, Overwrite::replace);
  CHECK(read_text_file(target) == "GGUFnew");

  put_file(report, "{\"sales\": 5}");
  CHECK_THROWS_WITH(StagedFile(target, Overwrite::replace).check_beside("report.json"), Contains("out.report.json") && Contains("no report"));
  put_file(target, "GGUFold");
  CHECK_THROWS_WITH(stage(target, Overwrite::replace), Contains("out.report.json"));  // found late: nothing was renamed
  CHECK(read_text_file(target) == "GGUFold");
  CHECK(read_text_file(report) == "{\"sales\": 5}");
  fs::remove(target);
  CHECK_THROWS_WITH(StagedFile(target, Overwrite::refuse).check_beside("report.json"), Contains("already exists"));
  CHECK_THROWS_WITH(stage(target, Overwrite::refuse), Contains("out.report.json") && Contains("already exists"));
  CHECK_FALSE(fs::exists(target));
}

TEST_CASE("names as long as the file system has them are written", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path file = temporary.path() / (std::string(250, 'n') + ".gguf"), directory = temporary.path() / std::string(255, 'd');
  {
    StagedFile staged(file, Overwrite::refuse);
    put_file(staged.path(), "GGUF");
    CHECK_THROWS_WITH(staged.check_beside("report.json"), Contains("File name too long"));
    staged.commit();
  }
  CHECK(fs::exists(file));
  {
    StagedDirectory staged(directory, Overwrite::refuse);
    put_file(staged.path() / "llmc.json", "{}");
    staged.commit();
  }
  CHECK(fs::exists(directory / "llmc.json"));
  write_file_atomically(temporary.path() / std::string(255, 'f'), "text");
  CHECK(fs::exists(temporary.path() / std::string(255, 'f')));
  fs::create_directory(temporary.path() / ("." + name_to_extend(directory) + ".llmc-partial-999999"));  // of a killed run
  StagedDirectory again(directory, Overwrite::replace);
  CHECK_FALSE(fs::exists(temporary.path() / ("." + name_to_extend(directory) + ".llmc-partial-999999")));
  CHECK_THROWS_WITH(StagedDirectory(temporary.path() / std::string(256, 'd'), Overwrite::refuse), Contains("File name too long"));
}
