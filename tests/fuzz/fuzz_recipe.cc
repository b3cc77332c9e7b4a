// Any text as a recipe gives a recipe that reads back the same, or an llmc::Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "passes/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  try {
    const Recipe recipe = parse_recipe({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (to_json(parse_recipe(to_yaml(recipe), "again")) != to_json(recipe)) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
