// Owns what tests share: random matrices and models, temporary directories.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include "core/random.h"
#include "core/run_context.h"
#include "core/tensor.h"
#include "formats/stored_tensor.h"

namespace llmc::test {

inline SilentSink& silent() {
  static SilentSink sink;
  return sink;
}
inline RunContext context() { return {.sink = silent(), .stop = {}}; }

inline Matrix random_matrix(int64_t rows, int64_t cols, const std::string& name, double deviation = 1) {
  Random random(7, name);
  Matrix matrix(rows, cols);
  for (float& value : matrix.values()) value = static_cast<float>(deviation * random.normal());
  return matrix;
}

inline std::vector<float> random_values(size_t count, double deviation, const std::string& name) {
  std::vector<float> values(count);
  Random random(1, name);
  for (float& value : values) value = static_cast<float>(deviation * random.normal());
  return values;
}

inline bool same_bits(ConstMatrixView a, ConstMatrixView b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int64_t r = 0; r < a.rows; ++r)
    if (std::memcmp(a.row(r), b.row(r), static_cast<size_t>(a.cols) * sizeof(float)) != 0) return false;
  return true;
}
inline bool same_bits(const Matrix& a, const Matrix& b) { return same_bits(a.view(), b.view()); }

/// max |a − b|
inline double largest_difference(const Matrix& a, const Matrix& b) {
  double largest = 0;
  for (size_t i = 0; i < a.values().size(); ++i) largest = std::max(largest, std::abs(double{a.values()[i]} - b.values()[i]));
  return largest;
}

/// Σ(x − y)² of the values x and what the codes mean.
inline double squared_error(const Matrix& values, const QuantizedMatrix& matrix) {
  const Matrix back = dequantize(matrix);
  double sum = 0;
  for (size_t i = 0; i < values.values().size(); ++i) sum += std::pow(double{values.values()[i]} - back.values()[i], 2);
  return sum;
}

/// A dense tensor that owns the values, rounded to the dtype.
inline StoredTensor make_tensor(const std::string& name, DType dtype, const Matrix& logical, bool transposed = false) {
  StoredTensor tensor{.name = name, .dtype = dtype, .shape = transposed ? Shape{logical.cols(), logical.rows()} : Shape{logical.rows(), logical.cols()}, .transposed = transposed};
  tensor.form = make_floats(tensor, logical.view());
  return tensor;
}

/// A directory that goes when the test does.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "llmc-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace llmc::test
