#include "model/fused_heads.h"

#include <algorithm>

namespace llmc {
namespace {

/// Calls body(first column in the fused row, part, first column there) for every head; `part` is 0 for q, 1 for k, 2 for v.
template <typename Body>
void for_each_head(const ModelConfig& config, const Body& body) {
  for (int64_t head = 0; head < config.heads; ++head) body(config.fused_query(head), 0, head * config.head_dim);
  for (int64_t head = 0; head < config.kv_heads; ++head) body(config.fused_key(head), 1, head * config.head_dim), body(config.fused_value(head), 2, head * config.head_dim);
}

}  // namespace

void split_fused(const ModelConfig& config, ConstMatrixView fused, MatrixView q, MatrixView k, MatrixView v) {
  const MatrixView parts[] = {q, k, v};
  for (int64_t r = 0; r < fused.rows; ++r)
    for_each_head(config, [&](int64_t from, int part, int64_t to) { std::copy_n(fused.row(r) + from, config.head_dim, parts[part].row(r) + to); });
}

void join_fused(const ModelConfig& config, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView fused) {
  const ConstMatrixView parts[] = {q, k, v};
  for (int64_t r = 0; r < fused.rows; ++r)
    for_each_head(config, [&](int64_t to, int part, int64_t from) { std::copy_n(parts[part].row(r) + from, config.head_dim, fused.row(r) + to); });
}

}  // namespace llmc
