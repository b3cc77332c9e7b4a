#include "passes/head_statistics.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "model/forward.h"

namespace llmc {

InputStatistics measure_head_input(const Model& model, const Sequences& sequences, const ForwardOptions& options, const RunContext& context) {
  constexpr int64_t most_bytes = int64_t{512} << 20;
  const int64_t width = model.config().hidden, layers = model.config().layers;
  const int64_t most_tokens = std::max<int64_t>(1, most_bytes / (width * static_cast<int64_t>(sizeof(float))));
  const Forward forward(model, options);
  const auto entry = forward.load_head_entry();
  InputAccumulator sums(model.config().embedding_width(), options);
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
      Matrix input(states.rows(), model.config().embedding_width());
      forward.enter_block(*entry, states.view(), input.view());
      sums.add(input.view());
      stage.advance();
    }
    first += hidden.size();
  }
  model.checkpoint().release_pages();
  return sums.finish("input of the output head");
}

}  // namespace llmc
