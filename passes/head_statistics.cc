#include "passes/head_statistics.h"

#include <algorithm>
#include <span>
#include <vector>

#include "core/parallel.h"
#include "model/forward.h"
#include "model/kernels.h"

namespace llmc {
namespace {

class FinalNorm {
 public:
  explicit FinalNorm(const Model& model) : kind_(model.config().norm), epsilon_(model.config().norm_epsilon), weight_(read_matrix(model.get(Role::final_norm))) {
    if (const StoredTensor* bias = model.find(Role::final_norm, -1, Part::bias)) bias_ = read_matrix(*bias);
  }
  void apply(std::span<const float> x, std::span<float> y) const {
    if (kind_ == Norm::rms) rms_norm(x, weight_.values(), epsilon_, y);
    else layer_norm(x, weight_.values(), bias_.values(), epsilon_, y);
  }

 private:
  Norm kind_;
  double epsilon_;
  Matrix weight_, bias_;  ///< [1, hidden]
};

}  // namespace

InputStatistics measure_head_input(const Model& model, const Sequences& sequences, const ForwardOptions& options, const RunContext& context) {
  constexpr int64_t most_bytes = int64_t{512} << 20;
  const int64_t width = model.config().hidden, layers = model.config().layers;
  const int64_t most_tokens = std::max<int64_t>(1, most_bytes / (width * static_cast<int64_t>(sizeof(float))));
  const Forward forward(model, options);
  const FinalNorm norm(model);
  InputAccumulator sums(width, options);
  Stage stage(context, "measure the head's input", std::ssize(sequences));
  for (size_t first = 0; first < sequences.size();) {
    int64_t tokens = 0;
    std::vector<Matrix> hidden;
    for (size_t i = first; i < sequences.size() && (hidden.empty() || tokens + std::ssize(sequences[i]) <= most_tokens); ++i) {
      hidden.emplace_back(std::ssize(sequences[i]), width);
      tokens += std::ssize(sequences[i]);
    }
    const auto count = std::ssize(hidden);
    parallel_for(count, [&](int64_t i) { forward.embed(sequences[first + static_cast<size_t>(i)], hidden[static_cast<size_t>(i)].view()); });
    for (int64_t block = 0; block < layers; ++block) {
      context.check_stop();
      const auto weights = forward.load_block(block);
      parallel_for(count, [&](int64_t i) { forward.run_block(*weights, hidden[static_cast<size_t>(i)].view()); });
    }
    for (Matrix& states : hidden) {
      Matrix normed(states.rows(), width);
      parallel_pieces(states.rows(), 64, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) norm.apply(states.view().row_span(r), normed.view().row_span(r));
      });
      sums.add(normed.view());
      stage.advance();
    }
    first += hidden.size();
  }
  model.checkpoint().release_pages();
  return sums.finish("input of the output head");
}

}  // namespace llmc
