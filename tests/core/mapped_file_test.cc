#include "core/mapped_file.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <thread>
#include <vector>

#include "core/output.h"
#include "core/printable.h"

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("a mapped file that becomes shorter ends the process with its name", "[mapped_file]") {
  const bool read = GENERATE(true, false);  // or written
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "weights\x1b", other = temporary.path() / "other";
  for (const auto& file : {path, other}) std::ofstream(file) << std::string(100'000, 'x');
  std::array<int, 2> told{};
  REQUIRE(::pipe(told.data()) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(told[1], STDERR_FILENO);
    exit_on_lost_pages(3);
    const MappedFile beside(other), mapped(path);
    MappedFile moved(other);
    moved = MappedFile(path);
    std::filesystem::resize_file(path, 10);
    if (read) {
      std::vector<std::thread> threads(8);
      for (std::thread& thread : threads) thread = std::thread([&] { *static_cast<const volatile char*>(&mapped.text().back()); });
      for (std::thread& thread : threads) thread.join();
    } else {
      OutputFile(temporary.path() / "out").write(mapped.bytes());
    }
    ::_exit(70);
  }
  ::close(told[1]);
  std::string text(4096, '\0');
  text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(told[0], text.data(), text.size()))));
  for (std::string more(4096, '\0'); more.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(told[0], more.data(), more.size())))), !more.empty();) text += more;
  ::close(told[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  INFO(text);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 3);
  CHECK(text == "llmc: error: " + printable(path.string()) + ": cannot be read any more; it has become shorter, or its disk fails\n");
}
