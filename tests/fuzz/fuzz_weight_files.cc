// Any index and any shards give tensors whose every byte can be read, or an llmc::Error. The input is a letter, "s" for safetensors or
// another for PyTorch, with the text of the index behind it, and up to three shards, whose names are "1", "2" and "3".
#include <cstddef>
#include <cstdint>

#include "formats/weight_files.h"
#include "tests/fuzz/scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const auto files = fuzz::split_files({reinterpret_cast<const char*>(data), size});
  if (files[0].empty() || files.size() > 4) return 0;
  fuzz::clear();
  fuzz::write(files[0][0] == 's' ? weights_index_name : "pytorch_model.bin.index.json", files[0].substr(1));
  for (size_t i = 1; i < files.size(); ++i) fuzz::write(std::to_string(i), files[i]);
  fuzz::expect_no_bug([&] {
    const WeightFiles weights = open_weight_files(fuzz::scratch());
    unsigned sum = 0;
    for (const auto& [name, tensor] : weights.tensors)
      for (std::byte value : tensor.bytes) sum += std::to_integer<unsigned>(value);
    if (sum == 0x7fffffffu) __builtin_trap();  // so that the sum is made
  });
  return 0;
}
