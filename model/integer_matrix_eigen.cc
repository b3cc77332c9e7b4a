// Eigen must not start OpenMP threads of its own: llmc cuts the work itself.
#include <Eigen/Core>
#include <vector>

#include "model/integer_matrix.h"
#include "model/matmul.h"

namespace llmc {
namespace {

using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Integer sums through f32: in chunks of 512 columns every partial sum is an integer of at most 255 · 128 · 512 < 2^24,
/// which f32 holds exactly, in whatever order they are added.
class EigenIntegerMatrix final : public IntegerMatrix {
 public:
  explicit EigenIntegerMatrix(const CodesView& codes) : in_(codes.in), out_(codes.out) {
    using Codes = Eigen::Matrix<int8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Map<const Codes, 0, Eigen::OuterStride<>> map(codes.data, codes.out, codes.in, Eigen::OuterStride<>(codes.stride));
    for (int64_t first = 0; first < codes.in; first += chunk) chunks_.emplace_back(map.middleCols(first, std::min(chunk, codes.in - first)).cast<float>());
  }

  void multiply(const uint8_t* codes, int64_t rows, int32_t* sums) const override {
    using Codes = Eigen::Matrix<uint8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Sums = Eigen::Matrix<int32_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Map<const Codes> x(codes, rows, in_);
    Eigen::Map<Sums> y(sums, rows, out_);
    y.setZero();
    for (size_t i = 0; i < chunks_.size(); ++i) {
      const Floats part = x.middleCols(static_cast<int64_t>(i) * chunk, chunks_[i].cols()).cast<float>() * chunks_[i].transpose();
      y += part.cast<int32_t>();
    }
  }

 private:
  static constexpr int64_t chunk = 512;

  int64_t in_, out_;
  std::vector<Floats> chunks_;  ///< [out, 512] each, the last one what is left
};

}  // namespace

std::unique_ptr<IntegerMatrix> pack_codes_eigen(const CodesView& codes) { return std::make_unique<EigenIntegerMatrix>(codes); }

}  // namespace llmc
