#include "model/integer_matrix.h"

namespace llmc {

std::unique_ptr<IntegerMatrix> pack_codes(const CodesView& codes, [[maybe_unused]] MatmulBackend backend) {
#ifdef LLMC_ONEDNN
  if (backend != MatmulBackend::eigen)
    if (auto packed = pack_codes_onednn(codes)) return packed;
#endif
  return pack_codes_eigen(codes);
}

}  // namespace llmc
