// Any bytes give the tensors that a pickle describes or an llmc::Error.
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "formats/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  try {
    read_state_dict(std::as_bytes(std::span(data, size)), "fuzz");
  } catch (const Error&) {
  }
  return 0;
}
