// Any two files as the shards of a split GGUF file give tensors whose every byte can be read, or an llmc::Error. The input is both.
#include <cstddef>
#include <cstdint>

#include "formats/gguf.h"
#include "tests/fuzz/scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const auto files = fuzz::split_files({reinterpret_cast<const char*>(data), size});
  if (files.size() != 2) return 0;
  for (int64_t i = 0; i < 2; ++i) fuzz::write("f" + gguf_shard_ending(i, 2), files[static_cast<size_t>(i)]);
  fuzz::expect_no_bug([] {
    const GgufFiles all = open_gguf(fuzz::scratch() / ("f" + gguf_shard_ending(0, 2)));
    unsigned sum = 0;
    for (const GgufTensor& tensor : all.tensors)
      for (std::byte value : tensor.bytes) sum += std::to_integer<unsigned>(value);
    if (sum == 0x7fffffffu) __builtin_trap();  // so that the sum is made
  });
  return 0;
}
