#include "passes/block_scan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/parallel.h"
#include "model/kernels.h"
#include "passes/pruning_scores.h"
#include "verify/quality.h"

namespace llmc {
namespace {

using Hidden = std::vector<Matrix>;  ///< states of each sequence, [tokens, hidden]

class Scan {
 public:
  Scan(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities, double background, const PassContext& context)
      : model_(model), targets_(targets), method_(method), sparsities_(sparsities), background_(background), forward_(model, context.sweep.forward), head_(forward_.load_head()) {
    for (const PruneTarget& target : list) due_[target.placed->block].push_back(target.placed);
    int64_t tokens = 0;
    for (const auto& sequence : *context.calibration) {
      if (tokens >= block_scan_tokens) break;
      const auto used = std::span(sequence).first(std::min(sequence.size(), static_cast<size_t>(block_scan_tokens - tokens)));
      sequences_.emplace_back(used);
      tokens += static_cast<int64_t>(used.size());
    }
  }

  std::vector<BlockScan> run(const RunContext& context) {
    const int64_t layers = model_.config().layers;
    Stage stage(context, "scan blocks", layers);
    Hidden states;
    for (const auto tokens : sequences_) {
      states.emplace_back(static_cast<int64_t>(tokens.size()), model_.config().hidden);
      forward_.embed(tokens, states.back().view());
    }
    Hidden dense = states, background = states;
    for (int64_t block = 0; block < layers; ++block) {
      run_block(block, std::span(&dense, 1));
      if (due_.contains(block) && method_ != PruneMethod::magnitude) sizes_[block] = measure_inputs(block, background);
      run_in_background(block, std::span(&background, 1));
    }
    std::vector<BlockScan> scans;
    for (int64_t block = 0; block < layers; ++block) {
      if (due_.contains(block)) {
        const std::vector<Scored> weights = score(block);
        std::vector<Hidden> pruned;
        for (double sparsity : sparsities_) {
          pruned.push_back(states);
          run_pruned(block, weights, sparsity, std::span(&pruned.back(), 1));
        }
        for (int64_t later = block + 1; later < layers; ++later) {
          run_in_background(later, pruned);
          context.check_stop();
        }
        scans.push_back({.block = block, .divergences = compare(dense, pruned)});
      }
      run_in_background(block, std::span(&states, 1));
      model_.checkpoint().release_pages();
      stage.advance();
    }
    return scans;
  }

 private:
  /// All sequences of all variants through a block.
  void run_block(int64_t block, std::span<Hidden> variants) const {
    const auto weights = forward_.load_block(block);
    const auto count = static_cast<int64_t>(sequences_.size());
    parallel_for(count * static_cast<int64_t>(variants.size()), [&](int64_t i) { forward_.run_block(*weights, variants[static_cast<size_t>(i / count)][static_cast<size_t>(i % count)].view()); });
  }

  /// Σ x² of every channel at every tap of a block.
  std::map<Tap, std::vector<float>> measure_inputs(int64_t block, const Hidden& states) const {
    std::map<Tap, std::vector<float>> sizes;
    for (const Matrix& start : states) {
      Matrix hidden = start, input(start.rows(), start.cols());
      forward_.enter_block(*forward_.load_entry(block), hidden.view(), input.view());
      for (size_t i = 0; i < all_taps.size(); ++i) {
        std::vector<float>& sums = sizes[all_taps[i]];
        sums.resize(static_cast<size_t>(input.cols()));
        for (int64_t r = 0; r < input.rows(); ++r)
          for (size_t c = 0; c < sums.size(); ++c) sums[c] += input.row(r)[c] * input.row(r)[c];
        if (i + 1 == all_taps.size()) break;
        Matrix next(input.rows(), get_width(all_taps[i + 1], model_.config()));
        forward_.run_stage(*forward_.load_stage(block, all_taps[i]), input.view(), hidden.view(), next.view());
        input = std::move(next);
      }
    }
    return sizes;
  }

  /// As run_block, with the share of zeros that all blocks have but the one in question.
  void run_in_background(int64_t block, std::span<Hidden> variants) {
    background_ > 0 && due_.contains(block) ? run_pruned(block, score(block), background_, variants) : run_block(block, variants);
  }

  struct Scored {
    Matrix values, scores;
  };

  /// Σ x² of every column that a weight reads.
  std::span<const float> sizes_of_input(const PlacedTensor& weight) const {
    const Tap tap = *find_tap(weight.row->role);
    const auto parts = list_parts(tap, model_.config());
    const auto part = std::ranges::find(parts, find_part(weight.row->role, weight.expert), &TapPart::number);
    return std::span(sizes_.at(weight.block).at(tap)).subspan(static_cast<size_t>(part->first), static_cast<size_t>(part->count));
  }

  /// A block's weights, in the order in which they are due.
  std::vector<Scored> score(int64_t block) const {
    std::vector<Scored> weights;
    for (const PlacedTensor* weight : due_.at(block)) {
      Matrix values = read_matrix(*weight->tensor);
      Matrix scores = method_ == PruneMethod::magnitude ? values : wanda_scores(values.view(), sizes_of_input(*weight));
      weights.push_back({std::move(values), std::move(scores)});
    }
    return weights;
  }

  /// As run_block, with a share of zeros in the block's weights.
  void run_pruned(int64_t block, const std::vector<Scored>& weights, double sparsity, std::span<Hidden> variants) {
    const auto& placed = due_.at(block);
    std::vector<decltype(StoredTensor::form)> forms;
    for (size_t i = 0; i < placed.size(); ++i) {
      Matrix masked = weights[i].values;
      apply(choose_mask(weights[i].scores.view(), targets_.pattern(), targets_.scope(), share_of(sparsity, ranked_units(targets_.pattern(), targets_.scope(), masked.rows(), masked.cols()))), masked.view());
      forms.push_back(std::exchange(placed[i]->tensor->form, FloatData(std::move(masked))));
    }
    run_block(block, variants);
    for (size_t i = 0; i < forms.size(); ++i) placed[i]->tensor->form = std::move(forms[i]);
  }

  /// The mean divergence of each variant's predictions from the dense ones.
  std::vector<double> compare(const Hidden& dense, const std::vector<Hidden>& variants) const {
    constexpr int64_t rows_at_once = 32;
    std::vector<double> sums(variants.size());
    int64_t tokens = 0;
    for (size_t s = 0; s < dense.size(); ++s) {
      const int64_t length = dense[s].rows();
      Matrix divergences(length, static_cast<int64_t>(variants.size()));
      parallel_pieces(length, rows_at_once, [&](int64_t first, int64_t last) {
        Matrix expected(last - first, model_.config().vocabulary), found(last - first, model_.config().vocabulary);
        forward_.run_head(*head_, dense[s].view().row_range(first, last - first), expected.view());
        for (size_t v = 0; v < variants.size(); ++v) {
          forward_.run_head(*head_, variants[v][s].view().row_range(first, last - first), found.view());
          for (int64_t r = 0; r < last - first; ++r) divergences.row(first + r)[v] = static_cast<float>(kl_divergence(expected.view().row_span(r), found.view().row_span(r)));
        }
      });
      for (int64_t r = 0; r < length; ++r)
        for (size_t v = 0; v < variants.size(); ++v) sums[v] += divergences.row(r)[v];
      tokens += length;
    }
    for (double& sum : sums) sum /= static_cast<double>(tokens);
    return sums;
  }

  Model& model_;
  const PruneTargets& targets_;
  PruneMethod method_;
  std::span<const double> sparsities_;
  double background_;  ///< share of zeros in the other blocks
  Forward forward_;
  std::shared_ptr<const HeadWeights> head_;
  std::map<int64_t, std::vector<const PlacedTensor*>> due_;
  std::map<int64_t, std::map<Tap, std::vector<float>>> sizes_;  ///< Σ x² of the blocks' inputs
  std::vector<std::span<const int32_t>> sequences_;
};

}  // namespace

std::vector<BlockScan> scan_blocks(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities, double background, const PassContext& context) {
  return Scan(model, targets, list, method, sparsities, background, context).run(context.run);
}

}  // namespace llmc
