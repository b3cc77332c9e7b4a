// Any bytes give a parsed header or an llmc::Error; and a packed container on top of it the same.
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "formats/packed_container.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  try {
    const SafetensorsContent content = parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
    std::map<std::string, TensorView> tensors;
    for (const NamedTensor& entry : content.tensors) tensors[entry.name] = entry.tensor;
    for (StoredTensor& tensor : group_packed_parts(content.metadata, tensors, "fuzz"))
      if (tensor.count() < (1 << 16)) decode(tensor);
  } catch (const Error&) {
  }
  return 0;
}
