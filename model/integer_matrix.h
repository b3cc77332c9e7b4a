// Owns the seam between integer products and the libraries that compute them.
#pragma once

#include <cstdint>
#include <memory>

#include "model/linear.h"

namespace llmc {

/// One matrix of signed codes in the layout its backend multiplies fastest. Safe to call from several threads.
class IntegerMatrix {
 public:
  virtual ~IntegerMatrix() = default;
  /// sums [tile_rows, out] = codes [tile_rows, in] · Wᵀ on this thread alone, exact, for the first `rows` of
  /// PackedMatrix::tile_rows rows; what the other rows of `sums` get is no matter.
  virtual void multiply(const uint8_t* codes, int64_t rows, int32_t* sums) const = 0;
};

/// Codes [out, in] with `stride` from one row to the next, read during the call only.
struct CodesView {
  const int8_t* data = nullptr;
  int64_t out = 0;
  int64_t in = 0;
  int64_t stride = 0;
};

/// The longest row whose sums of (q_x − z_x) · (q_w − z_w), at most 255 · 255 each, fit 32 bits.
inline constexpr int64_t most_integer_columns = 33'025;

/// With the backend, or Eigen where it has no exact product.
std::unique_ptr<IntegerMatrix> pack_codes(const CodesView& codes, MatmulBackend backend);

std::unique_ptr<IntegerMatrix> pack_codes_eigen(const CodesView& codes);
#ifdef LLMC_ONEDNN
/// nullptr where the processor has no exact instructions for it: before VNNI, sums of pairs saturate in 16 bits.
std::unique_ptr<IntegerMatrix> pack_codes_onednn(const CodesView& codes);
#endif

}  // namespace llmc
