// Owns what tests share: random matrices and models, temporary directories.
#pragma once

#include <filesystem>
#include <string>
#include <unistd.h>

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
