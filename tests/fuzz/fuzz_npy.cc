// Fuzzes reading a .npy file: only llmc::Error may come out, and the view must lie in the file.
#include "calib/npy.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const llmc::TensorView array = llmc::parse_npy(bytes, "x.npy");
    const auto count = static_cast<size_t>(llmc::element_count(array.shape, "x.npy"));
    if (array.bytes.size() != count * llmc::get_info(array.dtype).bytes) __builtin_trap();
    if (array.bytes.data() < bytes.data() || array.bytes.data() + array.bytes.size() != bytes.data() + bytes.size()) __builtin_trap();
  } catch (const llmc::Error&) {
  }
  return 0;
}
