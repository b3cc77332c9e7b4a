#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "formats/activation_scheme.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("heads are cut into the fewest equal spans of at most 64", "[kv_cache]") {
  CHECK(cache_span(1) == 1);
  CHECK(cache_span(32) == 32);
  CHECK(cache_span(64) == 64);
  CHECK(cache_span(80) == 40);
  CHECK(cache_span(128) == 64);
  CHECK(cache_span(129) == 43);
}

TEST_CASE("each token, head and span is rounded on the grid of its own range", "[kv_cache]") {
  for (int bits : {8, 4})
    for (int64_t head_dim : {1, 31, 64, 80, 129})
      for (int64_t rows : {1, 33, 130}) {
        CAPTURE(bits, head_dim, rows);
        const Matrix x = test::random_matrix(rows, 3 * head_dim, "cache");
        Matrix rounded = x, whole(rows, 3 * head_dim + 5);
        round_cache(rounded.view(), head_dim, bits);
        // Rows with a stride, as attention has them, on other threads: the same values.
        for (int64_t r = 0; r < rows; ++r) std::ranges::copy(x.view().row_span(r), whole.row(r) + 2);
        with_threads(3, [&] { round_cache(whole.view().column_range(2, 3 * head_dim), head_dim, bits); });
        const ActivationScheme scheme{.bits = bits, .mapping = Mapping::linear};
        bool is_right = true, is_same = true;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t head = 0; head < 3; ++head)
            for (int64_t start = 0; start < head_dim; start += cache_span(head_dim)) {
              const int64_t first = head * head_dim + start, last = std::min(first + cache_span(head_dim), (head + 1) * head_dim);
              float low = 0, high = 0;
              for (int64_t c = first; c < last; ++c) low = std::min(low, x.row(r)[c]), high = std::max(high, x.row(r)[c]);
              const InputGrid grid = make_dynamic_grid(scheme, low, high);
              for (int64_t c = first; c < last; ++c) is_right &= rounded.row(r)[c] == static_cast<float>(quantize_value(scheme, grid, x.row(r)[c]) - grid.zero_point) * grid.scale;
            }
          is_same &= std::ranges::equal(rounded.view().row_span(r), whole.view().column_range(2, 3 * head_dim).row_span(r)) && whole.row(r)[0] == 0 && whole.row(r)[3 * head_dim + 2] == 0;
        }
        CHECK(is_right);
        CHECK(is_same);
      }
}

TEST_CASE("what is not finite stays so, in its span alone", "[kv_cache]") {
  for (float wrong : {NAN, INFINITY}) {
    Matrix x = test::random_matrix(3, 64, "cache");
    x.row(1)[40] = wrong;
    round_cache(x.view(), 32, 4);
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t c = 0; c < 64; ++c) CHECK(std::isfinite(x.row(r)[c]) == !(r == 1 && c >= 32));
  }
}
