#include "calib/imatrix_collector.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/process_memory.h"
#include "model/gguf_model.h"

namespace llmc {
namespace {

using ColumnSums = std::vector<double>;

void add_squares(ConstMatrixView x, ColumnSums& sums) {
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < x.cols; ++c) sums[static_cast<size_t>(c)] += double{x.row(r)[c]} * x.row(r)[c];
}

class Collection {
 public:
  Collection(const Model& model, const Sequences& sequences, const SweepOptions& options, const RunContext& context)
      : model_(model), sequences_(sequences), forward_(model, options.forward), hidden_(make_store(options)), stage_(context, "collect the imatrix", (model.config().layers + 1) * std::ssize(sequences)) {}

  Imatrix run() {
    parallel_for(hidden_.sequences(), [&](int64_t i) {
      Matrix buffer;
      const MatrixView states = hidden_.open(i, buffer);
      forward_.embed(sequences_[static_cast<size_t>(i)], states);
      hidden_.commit(i, states);
    });
    for (int64_t block = 0; block < model_.config().layers; ++block) {
      run_block(block);
      model_.checkpoint().release_pages();
    }
    run_head();
    return std::move(imatrix_);
  }

 private:
  ActivationStore make_store(const SweepOptions& options) {
    std::vector<int64_t> lengths;
    for (const auto& sequence : sequences_) lengths.push_back(std::ssize(sequence)), tokens_ += lengths.back();
    if (tokens_ == 0) throw Error(ErrorKind::input, "imatrix: no calibration token");
    const int64_t width = model_.config().hidden;
    const bool spills = options.max_memory > 0 && current_memory_bytes() + ActivationStore::size_of(tokens_, width, options.activations) > options.max_memory;
    std::error_code ignored;  // a directory that cannot be made takes no file either, and that is told
    if (spills) std::filesystem::create_directories(options.spill_directory, ignored);
    return ActivationStore(lengths, width, options.activations, spills ? std::optional(options.spill_directory) : std::nullopt);
  }

  /// Sums for matrices of these widths, to which body(i, sums) adds what sequence i has. The sums of a few sequences are made side by
  /// side and joined in their order.
  template <typename Body>
  std::vector<ColumnSums> add_up(std::span<const int64_t> widths, const Body& body) {
    constexpr int64_t at_once = 64;
    std::vector<ColumnSums> zeros;
    for (int64_t width : widths) zeros.emplace_back(static_cast<size_t>(width));
    std::vector<ColumnSums> total = zeros;
    for (int64_t first = 0; first < hidden_.sequences(); first += at_once) {
      std::vector<std::vector<ColumnSums>> parts(static_cast<size_t>(std::min(at_once, hidden_.sequences() - first)), zeros);
      parallel_for(std::ssize(parts), [&](int64_t i) {
        body(first + i, parts[static_cast<size_t>(i)]);
        stage_.advance();
      });
      for (const std::vector<ColumnSums>& part : parts)
        for (size_t m = 0; m < total.size(); ++m)
          for (size_t c = 0; c < total[m].size(); ++c) total[m][c] += part[m][c];
    }
    return total;
  }

  void run_block(int64_t block) {
    const auto entry = forward_.load_entry(block);
    std::array<std::shared_ptr<const StageWeights>, all_taps.size()> stages;
    std::array<int64_t, all_taps.size()> widths{};
    for (size_t t = 0; t < all_taps.size(); ++t) stages[t] = forward_.load_stage(block, all_taps[t]), widths[t] = get_width(all_taps[t], model_.config());
    const auto sums = add_up(widths, [&](int64_t i, std::vector<ColumnSums>& part) {
      Matrix buffer = hidden_.read(i);
      const MatrixView states = buffer.view();
      Matrix input(states.rows, widths[0]);
      forward_.enter_block(*entry, states, input.view());
      for (size_t t = 0; t < all_taps.size(); ++t) {
        add_squares(input.view(), part[t]);
        const bool is_last = t + 1 == all_taps.size();
        Matrix next(is_last ? 0 : states.rows, is_last ? 0 : widths[t + 1]);
        forward_.run_stage(*stages[t], input.view(), states, next.view());
        input = std::move(next);
      }
      hidden_.write(i, states);
    });
    for (const PlacedTensor& placed : model_.tensors()) {
      if (placed.block != block || placed.part != Part::weight) continue;
      if (const auto tap = find_tap(placed.row->role)) store(placed, sums[static_cast<size_t>(*tap)]);
    }
  }

  void run_head() {
    const auto norm = forward_.load_head_entry();
    const std::array widths = {model_.config().embedding_width()};
    const auto sums = add_up(widths, [&](int64_t i, std::vector<ColumnSums>& part) {
      Matrix buffer;
      const ConstMatrixView states = hidden_.view(i, buffer);
      Matrix input(states.rows, model_.config().embedding_width());
      forward_.enter_block(*norm, states, input.view());
      add_squares(input.view(), part[0]);
    });
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.tensor == &model_.get(Role::output_head)) store(placed, sums[0]);
  }

  void store(const PlacedTensor& weight, const ColumnSums& sums) {
    const std::string name = gguf_tensor_name(weight);
    ImatrixEntry entry{.sums = {}, .count = static_cast<int64_t>(static_cast<float>(tokens_))};
    for (size_t c = 0; c < sums.size(); ++c) {
      entry.sums.push_back(static_cast<float>(sums[c]));
      if (!std::isfinite(entry.sums.back())) throw Error(ErrorKind::input, fmt::format("imatrix: input of {}: column {}: the calibration activations are not finite", name, c));
    }
    imatrix_.entries.emplace(name, std::move(entry));
  }

  const Model& model_;
  const Sequences& sequences_;
  int64_t tokens_ = 0;
  Forward forward_;
  ActivationStore hidden_;
  Stage stage_;
  Imatrix imatrix_;
};

}  // namespace

void refuse_experts(const Model& model) {
  if (model.config().experts > 0) throw Error(ErrorKind::usage, fmt::format("imatrix: {} has experts, whose entries llmc neither writes nor reads", model.architecture().causal_class));
}

Imatrix collect_imatrix(const Model& model, const Sequences& sequences, const SweepOptions& options, const RunContext& context) {
  refuse_experts(model);
  return Collection(model, sequences, options, context).run();
}

}  // namespace llmc
