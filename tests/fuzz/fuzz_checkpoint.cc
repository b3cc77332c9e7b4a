// A directory of any config.json and any model.safetensors gives decoded tensors, and the model that they are, or an llmc::Error, in both
// containers of quantized weights. The input is the text of config.json, a zero byte, and the bytes of the safetensors file.
#include <cstddef>
#include <cstdint>

#include "formats/checkpoint.h"
#include "model/model.h"
#include "tests/fuzz/scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t config_size = input.find('\0');
  if (config_size == std::string_view::npos) return 0;
  fuzz::write("config.json", input.substr(0, config_size));
  fuzz::write("model.safetensors", input.substr(config_size + 1));
  fuzz::expect_no_bug([] {
    Checkpoint checkpoint = open_checkpoint(fuzz::scratch());
    for (StoredTensor& tensor : checkpoint.tensors)
      if (tensor.count() < (1 << 16)) decode(tensor);
    place_tensors(std::move(checkpoint), {});
  });
  return 0;
}
