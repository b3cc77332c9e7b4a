// A directory of any config.json and any model.safetensors gives decoded tensors or an llmc::Error, in both containers of
// quantized weights. The input is the text of config.json, a zero byte, and the bytes of the safetensors file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <unistd.h>

#include "core/error.h"
#include "formats/checkpoint.h"

namespace {

/// One directory for all inputs, in memory where there is such a place; gone when the fuzzer ends.
class Scratch {
 public:
  Scratch() {
    std::string pattern = std::filesystem::exists("/dev/shm") ? "/dev/shm/llmc-fuzz-XXXXXX" : "/tmp/llmc-fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) std::abort();
    path_ = pattern;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

const std::filesystem::path& scratch() {
  static const Scratch directory;
  return directory.path();
}

void write(const char* name, const uint8_t* data, size_t size) {
  std::FILE* file = std::fopen((scratch() / name).c_str(), "wb");
  if (!file || std::fwrite(data, 1, size, file) != size) std::abort();
  std::fclose(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const size_t config_size = static_cast<size_t>(std::find(data, data + size, 0) - data);
  if (config_size == size) return 0;
  write("config.json", data, config_size);
  write("model.safetensors", data + config_size + 1, size - config_size - 1);
  try {
    Checkpoint checkpoint = open_checkpoint(scratch());
    for (StoredTensor& tensor : checkpoint.tensors)
      if (tensor.count() < (1 << 16)) decode(tensor);
  } catch (const Error&) {
  }
  return 0;
}
