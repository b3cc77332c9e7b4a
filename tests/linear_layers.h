// Owns what tests of linear layers share: every backend of matrix products that this build has, and a layer's output.
#pragma once

#include <vector>

#include "model/linear.h"
#include "model/matmul.h"

namespace llmc::test {

inline std::vector<MatmulBackend> backends() {
  std::vector<MatmulBackend> list;
  for (MatmulBackend backend : {MatmulBackend::amx, MatmulBackend::onednn, MatmulBackend::highway, MatmulBackend::eigen})
    if (has_backend(backend)) list.push_back(backend);
  return list;
}

inline Matrix apply(const Linear& linear, ConstMatrixView x) {
  Matrix y(x.rows, linear.out());
  linear.apply(x, y.view());
  return y;
}

}  // namespace llmc::test
