// Any text as config.json gives a config or an llmc::Error.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "formats/codecs/compressed_tensors_config.h"
#include "model/architecture.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  try {
    const nlohmann::json object = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (object.is_object() && object.contains("quantization_config")) read_quantization_config(object.at("quantization_config"), {"model.layers.0.mlp.up_proj", "lm_head"}, "fuzz");
    for (const Architecture& architecture : architecture_list()) read_config(object, architecture, {}, "fuzz");
  } catch (const Error&) {
  }
  return 0;
}
