#include "core/result_file.h"

#include <sys/stat.h>

#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr ResultFileKind xml = {.flag = "--junit", .begins = "<?xml", .called = "XML file"};

void put_result(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

TEST_CASE("a result file replaces only an earlier one", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path path = temporary.path() / "gates.xml";
  ResultFile(xml, path, {}).write("<?xml 1");
  ResultFile(xml, path, {}).write("<?xml 2");
  CHECK(read_text_file(path) == "<?xml 2");
  put_result(path, "");
  const ResultFile late(xml, path, {});
  put_result(path, "precious");
  CHECK_THROWS_WITH(late.write("<?xml 3"), Contains("gates.xml") && Contains("no XML file"));
  CHECK_THROWS_WITH(ResultFile(xml, path, {}), Contains("no XML file") && Contains("--junit"));
  CHECK(read_text_file(path) == "precious");

  const fs::path link = temporary.path() / "link", loop = temporary.path() / "loop", pipe = temporary.path() / "pipe";
  fs::create_symlink(path, link);
  fs::create_symlink(loop, loop);
  CHECK_THROWS_WITH(ResultFile(xml, link, {}), Contains("no regular file"));
  CHECK_THROWS_WITH(ResultFile(xml, loop, {}), Contains("Too many levels"));
  CHECK_THROWS_WITH(ResultFile(xml, temporary.path(), {}), Contains("no regular file"));
  CHECK_THROWS_WITH(ResultFile(xml, temporary.path() / "no" / "x", {}), Contains("does not exist"));
  CHECK(fs::is_symlink(link));
  ResultFile(xml, "/dev/null", {}).write("<?xml 1");
  CHECK_THROWS_WITH(ResultFile(xml, "/dev/full", {}).write("<?xml 1"), Contains("/dev/full") && Contains("No space left"));
  CHECK(fs::is_character_file("/dev/full"));
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("a result file is none of the run's own", "[output]") {
  const test::TemporaryDirectory temporary;
  const fs::path model = temporary.path() / "model", data = temporary.path() / "data.xml", link = temporary.path() / "link";
  fs::create_directory(model);
  fs::create_directory_symlink(model, link);
  put_result(data, "<?xml");
  const std::vector<fs::path> own = {model, data};
  CHECK_THROWS_WITH(ResultFile(xml, data, own), Contains("is") && Contains("reads or writes"));
  for (const fs::path& path : {model / "new.xml", link / "new.xml", model / "sub" / "new.xml", temporary.path() / "x" / ".." / "model" / "new.xml"}) CHECK_THROWS_WITH(ResultFile(xml, path, own), Contains("lies in") && Contains("reads or writes"));
  CHECK_NOTHROW(ResultFile(xml, temporary.path() / "model.xml", own));
}
