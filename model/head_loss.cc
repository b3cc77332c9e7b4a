#include "model/head_loss.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "core/parallel.h"
#include "model/attention.h"
#include "model/backward_kernels.h"
#include "model/kernels.h"
#include "model/trainable_parts.h"

namespace llmc {
namespace {

/// Losses of one row, and the gradient of their weighted sum in place of the student's logits.
struct RowLoss {
  const LossWeights& weights;
  double share;        ///< 1 / positions
  double label_share;  ///< 1 / those with a label

  /// `teacher` is used up; `scratch` is of the same size.
  HeadLosses run(std::span<float> student, std::span<float> teacher, int32_t label, std::span<float> scratch) const {
    HeadLosses losses;
    std::ranges::copy(student, scratch.begin());
    std::ranges::fill(student, 0.0f);
    if (weights.cross_entropy != 0 && label >= 0) {
      const auto at = static_cast<size_t>(label);
      const double norm = log_sum_exp(scratch);
      losses.cross_entropy = norm - scratch[at];
      std::ranges::copy(scratch, student.begin());
      softmax(student);
      student[at] -= 1;
      scale(student, weights.cross_entropy * label_share);
    }
    if (weights.kl != 0) {
      if (weights.temperature != 1) scale(scratch, 1 / weights.temperature);
      const double norm = log_sum_exp(scratch);
      if (weights.targets == Targets::top) spread_rest(teacher, scratch, norm);
      else if (weights.temperature != 1) scale(teacher, 1 / weights.temperature);
      const double teacher_norm = log_sum_exp(teacher);
      for (size_t i = 0; i < teacher.size(); ++i) {
        const double log_p = teacher[i] - teacher_norm;
        losses.kl += std::exp(static_cast<float>(log_p)) * (log_p - (scratch[i] - norm));
      }
      softmax(scratch);
      softmax(teacher);
      const auto factor = static_cast<float>(weights.kl * weights.temperature * share);
      add_scaled(student, factor, scratch);
      add_scaled(student, -factor, teacher);
    }
    return losses;
  }

 private:
  /// What is left of the teacher's 1 goes to the tokens that it does not name in the student's own proportions: they add one
  /// term to the divergence, that of the rest, and its gradient.
  static void spread_rest(std::span<float> teacher, std::span<const float> student, double student_norm) {
    double named = 0, of_student = 0;
    for (size_t i = 0; i < teacher.size(); ++i) {
      if (teacher[i] == -std::numeric_limits<float>::infinity()) of_student += std::exp(student[i] - student_norm);
      else named += std::exp(double{teacher[i]});
    }
    if (of_student == 0) return;  // every token is named
    const double rest = std::log(std::max(1 - named, 1e-12)) - std::log(of_student) - student_norm;
    for (size_t i = 0; i < teacher.size(); ++i)
      if (teacher[i] == -std::numeric_limits<float>::infinity()) teacher[i] = static_cast<float>(student[i] + rest);
  }
  static void scale(std::span<float> row, double factor) {
    for (float& value : row) value *= static_cast<float>(factor);
  }
};

}  // namespace

struct TrainableHead::Weights {
  ModelConfig config;
  Precision precision = Precision::f32;
  MatmulBackend backend = MatmulBackend::eigen;
  float cap = 0;  ///< of logits; 0: none
  TrainableNorm norm;
  std::optional<TrainableLinear> output;
};

TrainableHead::TrainableHead(const ModelConfig& config, Precision precision, MatmulBackend backend)
    : weights_(std::make_unique<Weights>(Weights{.config = config, .precision = precision, .backend = backend, .cap = static_cast<float>(config.logit_cap), .norm = TrainableNorm(config), .output = {}})) {}
TrainableHead::~TrainableHead() = default;
TrainableHead::TrainableHead(TrainableHead&&) noexcept = default;

void TrainableHead::set(const BlockTensors& values) {
  weights_->norm.set(values, Role::final_norm);
  if (const Matrix* output = values.find(Role::output_head)) weights_->output.emplace(*output, values.find(Role::output_head, Part::bias), weights_->precision, weights_->backend);
}

void TrainableHead::run(ConstMatrixView hidden, MatrixView logits) const {
  for_each_tile(hidden.rows, [&](int64_t first, int64_t rows) {
    const MatrixView normed = scratch_tile<7>(rows, hidden.cols);
    weights_->norm.apply(hidden.row_range(first, rows), normed);
    weights_->output->forward.apply(normed, logits.row_range(first, rows));
    for (int64_t r = first; r < first + rows && weights_->cap > 0; ++r) cap_values(weights_->cap, logits.row_span(r));
  });
}

HeadLosses TrainableHead::backpropagate(const SequenceRows& sequences, ConstMatrixView hidden, const LossWeights& weights, const Teacher& teacher, std::span<const int32_t> labels, MatrixView d_hidden, BlockTensors& gradients) const {
  const Weights& w = *weights_;
  const int64_t rows = sequences.rows, vocabulary = w.config.vocabulary;
  assert(hidden.rows == rows && d_hidden.rows == rows && (weights.cross_entropy == 0 || static_cast<int64_t>(labels.size()) == rows));
  std::vector<char> counts(static_cast<size_t>(rows));
  for (const auto& [first, length] : sequences.ranges) std::fill_n(counts.begin() + first, length, 1);
  int64_t positions = 0, labelled = 0;
  for (size_t r = 0; r < counts.size(); ++r)
    if (counts[r]) ++positions, labelled += !labels.empty() && labels[r] >= 0;
  const RowLoss loss{.weights = weights, .share = 1 / static_cast<double>(std::max<int64_t>(1, positions)), .label_share = 1 / static_cast<double>(std::max<int64_t>(1, labelled))};

  Matrix* d_output = gradients.find(Role::output_head);
  Matrix all_d_logits(d_output ? rows : 0, vocabulary), all_normed(d_output ? rows : 0, hidden.cols);
  NormGradients norm_gradients(gradients, Role::final_norm, (rows + trainable_tile - 1) / trainable_tile, hidden.cols);
  std::vector<HeadLosses> losses(static_cast<size_t>(rows));
  for_each_tile(rows, [&](int64_t first, int64_t count) {
    const MatrixView normed = scratch_tile<4>(count, hidden.cols);
    const MatrixView logits = scratch_tile<5>(count, vocabulary);
    const MatrixView other = scratch_tile<6>(count + 1, vocabulary);
    w.norm.apply(hidden.row_range(first, count), normed);
    w.output->forward.apply(normed, logits);
    const MatrixView capped = scratch_tile<7>(w.cap > 0 ? count : 0, vocabulary);
    for (int64_t r = 0; r < capped.rows; ++r) {
      cap_values(w.cap, logits.row_span(r));
      std::ranges::copy(logits.row_span(r), capped.row(r));
    }
    if (weights.kl != 0) teacher(first, other.row_range(0, count));
    for (int64_t r = 0; r < count; ++r) {
      const auto at = static_cast<size_t>(first + r);
      if (counts[at]) losses[at] = loss.run(logits.row_span(r), other.row_span(r), labels.empty() ? -1 : labels[at], other.row_span(count));
      else std::ranges::fill(logits.row_span(r), 0.0f);
      if (w.cap > 0) cap_values_back(w.cap, capped.row_span(r), logits.row_span(r));
    }
    if (d_output) {
      for (int64_t r = 0; r < count; ++r) std::ranges::copy(logits.row_span(r), all_d_logits.row(first + r));
      for (int64_t r = 0; r < count; ++r) std::ranges::copy(normed.row_span(r), all_normed.row(first + r));
    }
    w.output->backward.apply(logits, d_hidden.row_range(first, count));
    const int64_t index = first / trainable_tile;
    w.norm.apply_back(hidden.row_range(first, count), d_hidden.row_range(first, count), norm_gradients.weight_share(index), norm_gradients.bias_share(index));
  });
  norm_gradients.finish();
  if (d_output) add_weight_gradient(w.backend, w.precision, all_d_logits.view(), all_normed.view(), d_output->view());
  HeadLosses mean;
  for (const HeadLosses& row : losses) mean.kl += row.kl * loss.share, mean.cross_entropy += row.cross_entropy * loss.label_share;
  return mean;
}

}  // namespace llmc
