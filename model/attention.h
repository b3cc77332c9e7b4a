// Owns causal attention over one sequence: the scores of one tile of queries at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"
#include "model/linear.h"

namespace llmc {

/// Queries that are worked on together. Keys and values are taken in as many rows as well.
inline constexpr int64_t attention_tile = 64;

/// The first key, in whole tiles, that the tile of queries from `first` on looks at.
int64_t first_key(const ModelConfig& config, int64_t first);

/// Of every head, what its scores get for each position that a key lies before the query, times −1 (Press 2021): 2^(−8/n),
/// 2^(−16/n), … for n heads; where n is no power of two, those of the next lower one, then every other one of twice as many.
std::vector<float> alibi_slopes(int64_t heads);
/// The same of a model's heads, rounded where it rounds them; zeros where there is no ALiBi.
std::vector<float> find_slopes(const ModelConfig& config);

/// x = cap · tanh(x / cap)
void cap_values(float cap, std::span<float> values);
/// From the gradient of capped values to that of the values, in place.
void cap_values_back(float cap, std::span<const float> capped, std::span<float> d);

/// Scores of one query of a head in place, which are of the keys from position `first` up to and with its own: soft cap, then ALiBi.
/// `slope` 0: none.
void shape_scores(const ModelConfig& config, float slope, int64_t first, std::span<float> scores);

/// out = softmax(shaped Q · Kᵀ · scale, causal, within the window) · V for each head, of the first `length` rows of q [rows, query_width] and
/// k, v [rows, kv_width]; query heads share key and value heads in equal groups, in order. `rows` is a multiple of
/// attention_tile and the rows from `length` on are zero: so the products have the same shapes for any length, and what
/// a query finds depends, bit for bit, on nothing after it. In bf16 the operands of both products are rounded by the backends whose
/// products are faster then, of which oneDNN is none.
void attend(const ModelConfig& config, MatmulBackend backend, Precision precision, int64_t length, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView out);

/// Keys and values of sequences that grow together, one position at a time, in one decoder block.
class KeyValueCache {
 public:
  /// For up to `capacity` positions of each sequence. Memory: 2 · sequences · kv_width floats for each position there is room for, which
  /// doubles as it is used up.
  KeyValueCache(const ModelConfig& config, int64_t sequences, int64_t capacity);

  int64_t length() const { return length_; }
  /// Puts the same positions into every sequence of an empty cache, k and v [positions, kv_width], which the capacity must hold.
  void fill(ConstMatrixView k, ConstMatrixView v);
  /// Adds the next position of every sequence, k and v [sequences, kv_width], and attends to it and all before it that it sees: q and out
  /// [sequences, query_width]. The capacity must not be used up.
  void attend_next(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView out);

 private:
  MatrixView keys(int64_t sequence) { return keys_.view().row_range(sequence * config_.kv_width(), config_.kv_width()); }
  MatrixView values(int64_t sequence) { return values_.view().row_range(sequence * room(), room()); }

  int64_t room() const { return values_.rows() / sequences_; }
  /// Room for that many positions.
  void reserve(int64_t positions);

  static constexpr int64_t key_step = 128;  ///< keys are taken in whole vectors

  ModelConfig config_;
  int64_t sequences_;
  int64_t capacity_;
  Matrix keys_;    ///< of each sequence [kv_width, room, up to the next key_step]
  Matrix values_;  ///< of each sequence [room, kv_width]
  int64_t length_ = 0;
};

/// Views of queries, keys and values [rows, …] as `attend` takes them, or of their gradients.
template <typename View>
struct AttentionOperands {
  View q, k, v;
};

/// What another model looks at in the same sequence: its queries [rows, query_width] and keys [rows, kv_width] as `attend` takes them.
struct AttentionTarget {
  const ModelConfig* config = nullptr;  ///< of its block; as many heads, and the same window
  ConstMatrixView q, k;
};

/// The backward pass of `attend` for one head of keys and values and the queries that share it, on this thread alone:
/// overwrites that head's columns of `d` with the gradients of `of`, given d_out [rows, query_width]. The scores are
/// computed again, one tile of queries at a time.
/// With a target it adds the gradient of `weight` · Σ KL(target's attention ‖ own) over these heads and the first `length` queries
/// (Sun 2020, MobileBERT, [arXiv 2004.02984](https://arxiv.org/abs/2004.02984), section 3.3), and returns that sum without weight, in nats; else 0.
double attend_backward(const ModelConfig& config, MatmulBackend backend, int64_t kv_head, int64_t length, const AttentionOperands<ConstMatrixView>& of, ConstMatrixView d_out, const AttentionOperands<MatrixView>& d, const AttentionTarget* target = nullptr, float weight = 0);

}  // namespace llmc
