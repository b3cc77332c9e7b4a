// Owns which models llama.cpp runs as they are.
#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "model/gguf_config.h"
#include "model/gguf_model.h"
#include "model/gguf_rope.h"

namespace llmc {
namespace {

/// llama.cpp has one for both: the tanh approximation.
bool is_gelu(Activation activation) { return activation == Activation::gelu || activation == Activation::gelu_tanh; }

/// Collects what llama.cpp does otherwise.
class Check {
 public:
  explicit Check(const Model& model) : architecture_(model.architecture()), gguf_(architecture_.gguf), config_(model.config()) {}

  std::vector<std::string> run() {
    const Activation runs = default_activation(architecture_);
    refuse_if(config_.activation != runs && !(is_gelu(config_.activation) && is_gelu(runs)), fmt::format("its activation is {}, but llama.cpp runs {} with {}", to_string(config_.activation), gguf_.name, to_string(runs)));
    refuse_if(config_.positions != architecture_.positions, fmt::format("its positions are {}, but llama.cpp runs {} with {}", to_string(config_.positions), gguf_.name, to_string(architecture_.positions)));
    refuse_if(gguf_.parallel_only && !config_.parallel, fmt::format("its feed-forward is behind its attention, but llama.cpp runs {} with the two side by side", gguf_.name));
    check_sizes();
    check_biases();
    check_windows();
    check_scores();
    return std::move(problems_);
  }

 private:
  void refuse_if(bool condition, std::string problem) {
    if (condition) problems_.push_back(std::move(problem));
  }

  void check_sizes() {
    refuse_if(gguf_.heads == GgufHeads::fill_hidden && config_.query_width() != config_.hidden, fmt::format("{} heads of {} make {}, but llama.cpp loads {} only where they make the hidden size, {}", config_.heads, config_.head_dim, config_.query_width(), gguf_.name, config_.hidden));
    refuse_if(gguf_.head == GgufHead::own && config_.tied_head, fmt::format("its head is its embedding's matrix, but llama.cpp loads {} only with an output.weight of its own; --untie gives it one", gguf_.name));
    refuse_if(gguf_.head == GgufHead::tied && !config_.tied_head, fmt::format("its head has a weight of its own, but llama.cpp runs {} with the embedding's", gguf_.name));
  }

  void check_biases() {
    refuse_if(gguf_.attention_bias == GgufBias::never && config_.attention_bias, fmt::format("its attention has biases, but llama.cpp loads {} without", gguf_.name));
    refuse_if(gguf_.attention_bias == GgufBias::always && !config_.attention_bias, fmt::format("its attention has no biases, but llama.cpp loads {} only with them", gguf_.name));
  }

  void check_windows() {
    const bool keeps = gguf_.window == GgufWindow::kept || gguf_.window == GgufWindow::always;
    refuse_if(!keeps && config_.window > 0 && config_.window < config_.context, fmt::format("its queries see {} of {} positions, but llama.cpp runs {} without a window; with max_position_embeddings of at most {} both are the same", config_.window, config_.context, gguf_.name, config_.window));
    refuse_if(gguf_.window == GgufWindow::always && config_.window == 0, fmt::format("it has no sliding_window, but llama.cpp runs {} with one", gguf_.name));
    refuse_if(architecture_.window_theta && config_.window_rope.scaling != RopeScaling::none, fmt::format("rotary positions of its blocks with a window are scaled, but llama.cpp scales those of the others alone in {}", gguf_.name));
  }

  void check_scores() {
    const double divisor = gguf_score_divisor(gguf_, config_.layers, config_.heads, config_.hidden, config_.head_dim);
    refuse_if(config_.score_divisor > 0 && config_.score_divisor != divisor, fmt::format("query_pre_attn_scalar is {}, but llama.cpp runs {} of {} blocks with {}", config_.score_divisor, gguf_.name, config_.layers, divisor));
    refuse_if(gguf_.caps < GgufCaps::both && config_.score_cap > 0, fmt::format("attn_logit_softcapping is {}, but llama.cpp runs {} without", config_.score_cap, gguf_.name));
    refuse_if(gguf_.caps < GgufCaps::logits && config_.logit_cap > 0, fmt::format("final_logit_softcapping is {}, but llama.cpp runs {} without", config_.logit_cap, gguf_.name));
    refuse_if(gguf_.caps == GgufCaps::both && (config_.score_cap == 0 || config_.logit_cap == 0), fmt::format("it lacks a softcapping of scores or of logits, but llama.cpp runs {} with both", gguf_.name));
  }

  const Architecture& architecture_;
  const GgufArchitecture& gguf_;
  const ModelConfig& config_;
  std::vector<std::string> problems_;
};

}  // namespace

void check_gguf_model(const Model& model) {
  const std::string where = model.checkpoint().directory.string();
  if (model.config().experts > 0) throw Error(ErrorKind::usage, fmt::format("{}: {} has experts, which llmc writes to no GGUF file", where, model.architecture().causal_class));
  if (model.config().own_head_norms) throw Error(ErrorKind::usage, fmt::format("{}: {} has a norm of each head's own (qk_layernorm), which llmc writes to no GGUF file", where, model.architecture().causal_class));
  if (!model.architecture().gguf.name) throw Error(ErrorKind::usage, fmt::format("{}: cannot be written as GGUF: llama.cpp has no architecture for {}", where, model.architecture().causal_class));
  Problems problems;
  for (const std::string& problem : Check(model).run()) problems.add(problem);
  problems.throw_if_any(ErrorKind::usage, where);
  check_gguf_rope(model);
}

std::vector<std::string> gguf_notes(const Model& model) {
  if (model.config().activation != Activation::gelu) return {};
  return {fmt::format("llama.cpp runs {} with GELU's tanh approximation, the model has the exact one", model.architecture().gguf.name)};
}

}  // namespace llmc
