#include "model/kv_cache.h"

#include <algorithm>

#include "core/parallel.h"
#include "model/integer_kernels.h"

namespace llmc {

int64_t cache_span(int64_t head_dim) {
  constexpr int64_t most = 64;
  const int64_t spans = (head_dim + most - 1) / most;
  return (head_dim + spans - 1) / spans;
}

void round_cache(MatrixView rows, int64_t head_dim, int bits) {
  const InputQuantization cache{.scheme = {.bits = bits, .mapping = Mapping::linear, .range = InputRange::per_token}, .grid = {}};
  const int64_t span = cache_span(head_dim);
  parallel_pieces(rows.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t head = 0; head < rows.cols; head += head_dim)
        for (int64_t start = 0; start < head_dim; start += span) {
          const std::span<float> values = rows.row_span(r).subspan(static_cast<size_t>(head + start), static_cast<size_t>(std::min(span, head_dim - start)));
          round_input(cache, values, values);
        }
  });
}

}  // namespace llmc
