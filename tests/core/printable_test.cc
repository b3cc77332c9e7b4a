#include "core/printable.h"

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;

TEST_CASE("control characters are written as numbers, text stays", "[printable]") {
  CHECK(printable("a\tb\nÄ€😀") == "a\tb\nÄ€😀");
  CHECK(printable(std::string_view("\0\x1b[31m\r\x7f", 8)) == "\\x00\\x1b[31m\\x0d\\x7f");
  CHECK(printable("\xc2\x9b" "2J") == "\\xc2\\x9b2J");  // U+009B begins commands too
  CHECK(printable("\xff" "a\xe2\x82") == "\\xffa\\xe2\\x82");  // no UTF-8
  CHECK(printable("\xed\xb2\x80" "\xc0\x80" "\xf4\x90\x80\x80" "\xed\x9f\xbf") == "\\xed\\xb2\\x80\\xc0\\x80\\xf4\\x90\\x80\\x80\xed\x9f\xbf");  // a surrogate, an overlong form, past the end
  CHECK(printable(printable("\x1b")) == "\\x1b");
}

TEST_CASE("long text loses its middle, at whole characters", "[printable]") {
  CHECK(shorten("abcdefgh", 8) == "abcdefgh");
  CHECK(shorten("abcdefghi", 8) == "abcdef … (1 bytes more) … hi");
  CHECK(shorten("aaaaäääää", 8) == "aaaaä … (6 bytes more) … ä");
}

TEST_CASE("an error's message is whole and printable", "[printable]") {
  CHECK(std::string(Error(ErrorKind::input, std::string("tensor a\0b\x1b: missing", 20)).what()) == "tensor a\\x00b\\x1b: missing");
}
