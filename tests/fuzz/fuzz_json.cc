// Any text gives an llmc::Error or a JSON value that is written and read back the same; no text with a zero byte is accepted.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "tests/fuzz/scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::expect_no_bug([&] {
    const nlohmann::json value = parse_json(text, "fuzz");
    if (text.find('\0') != std::string_view::npos) std::abort();
    for (const std::string& again : {value.dump(), format_json(value)}) {
      try {
        if (parse_json(again, "again") != value) std::abort();
      } catch (const Error&) {
        std::abort();
      }
    }
  });
  return 0;
}
