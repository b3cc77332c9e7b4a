// Any bytes give an importance matrix that can be used, or an llmc::Error.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "formats/imatrix.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const llmc::Imatrix imatrix = llmc::parse_imatrix(std::as_bytes(std::span(data, size)), "fuzz");
    if (imatrix.entries.empty() || imatrix.chunk_count < 0 || imatrix.chunk_size < 0) __builtin_trap();
    for (const auto& [name, entry] : imatrix.entries) {
      if (name.empty() || entry.sums.empty() || entry.sums.size() * sizeof(float) > size) __builtin_trap();
      for (float value : entry.mean_square())
        if (!(value >= 0) || !std::isfinite(value)) __builtin_trap();
    }
  } catch (const llmc::Error&) {
  }
  return 0;
}
