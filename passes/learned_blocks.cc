#include "passes/learned_blocks.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/parallel.h"
#include "formats/codecs/gguf_codecs.h"

namespace llmc {
namespace {

constexpr int64_t learned_rows_at_once = 16;  ///< rows that one task works on
constexpr float most_fall = -0.5f, most_rise = 1.0f;

float changed(float start, float change) { return round_to(DType::f16, start * (1 + change)); }

}  // namespace

bool has_block_scales(const StoredTensor& tensor) {
  const GgufTypeInfo* type = find_gguf_type_of(tensor);
  return type && !type->dtype && (type->grid.scale == BlockScale::f16 || type->grid.scale == BlockScale::integer);
}

LearnedBlocks::LearnedBlocks(const StoredTensor& tensor) : start_(unpack(*find_gguf_type_of(tensor), tensor.rows(), tensor.cols(), read_gguf_blocks(tensor))), scale_change_(start_.d.size()), scale_mean_(start_.d.size()), scale_square_(start_.d.size()) {
  assert(has_block_scales(tensor));
  if (start_.type->grid.min == BlockMin::none) return;
  for (auto* list : {&min_change_, &min_mean_, &min_square_}) list->resize(start_.dmin.size());
}

BlockMatrix LearnedBlocks::now() const {
  BlockMatrix result = start_;
  for (size_t i = 0; i < scale_change_.size(); ++i) result.d[i] = changed(start_.d[i], scale_change_[i]);
  for (size_t i = 0; i < min_change_.size(); ++i) result.dmin[i] = changed(start_.dmin[i], min_change_[i]);
  return result;
}

void LearnedBlocks::write_values(Matrix& values) const { values = evaluate(now()); }

void LearnedBlocks::update(const Matrix& gradient, float rate) {
  const AdamStep step(rate, {}, ++steps_);
  const BlockGrid& grid = start_.type->grid;
  const int64_t size = start_.type->block, span = grid.span;
  parallel_pieces(start_.rows, learned_rows_at_once, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t begin = 0; begin < start_.cols; begin += size) {
        const auto at = static_cast<size_t>(start_.block_index(r, begin));
        float toward_scale = 0, toward_min = 0;
        for (int64_t c = begin; c < begin + size; c += span) {
          const auto span_at = static_cast<size_t>(start_.span_index(r, c));
          const uint8_t* codes = start_.codes.data() + r * start_.cols + c;
          const float* pull = gradient.row(r) + c;
          float levels = 0, ones = 0;
          for (int64_t i = 0; i < span; ++i) {
            levels += pull[i] * static_cast<float>(grid.levels[codes[i]]);
            ones += pull[i];
          }
          toward_scale += start_.scales[span_at] * levels;
          toward_min -= start_.mins[span_at] * ones;
        }
        const auto move = [&](float toward, float start, float& change, float& mean, float& square) { change = std::clamp(change - step.move(toward * start, mean, square), most_fall, most_rise); };
        move(toward_scale, start_.d[at], scale_change_[at], scale_mean_[at], scale_square_[at]);
        if (!min_change_.empty()) move(toward_min, start_.dmin[at], min_change_[at], min_mean_[at], min_square_[at]);
      }
  });
}

void LearnedBlocks::store(StoredTensor& tensor) const { set_gguf_blocks(tensor, *start_.type, pack(now())); }

}  // namespace llmc
