#include "model/gguf_rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace llmc {

using nlohmann::json;

namespace {

/// What rotary frequencies are divided by.
std::vector<float> factors_of(const Rope& rope) {
  Rope plain = rope;
  plain.scaling = RopeScaling::none;
  std::vector<float> factors = rope_frequencies(plain, 0);
  const std::vector<float> scaled = rope_frequencies(rope, 0);
  for (size_t i = 0; i < factors.size(); ++i) factors[i] /= scaled[i];
  return factors;
}

/// The llama3 scaling that makes these factors, with Llama's own bounds of 1 and 4 and a context that is a power of two; null where
/// there is none, and nothing in `problem` where that is because nothing is scaled.
json find_llama3(std::span<const float> factors, double theta, std::string& problem) {
  const float most = std::ranges::max(factors);
  if (std::ranges::all_of(factors, [](float f) { return f == 1; })) return nullptr;
  for (int64_t context = 8; context <= int64_t{1} << 24; context *= 2) {
    const Rope rope{.theta = theta, .dim = 2 * std::ssize(factors), .scaling = RopeScaling::llama3, .factor = std::round(most * 1024) / 1024, .original_context = static_cast<double>(context)};
    const std::vector<float> expected = factors_of(rope);
    const auto is_close = [](float a, float b) { return std::abs(a - b) <= 1e-5f * b; };  // both are rounded to f32 a few times
    if (std::ranges::equal(factors, expected, is_close)) return {{"rope_type", "llama3"}, {"factor", rope.factor}, {"low_freq_factor", rope.low}, {"high_freq_factor", rope.high}, {"original_max_position_embeddings", context}};
  }
  problem = fmt::format("tensor {}: expected the factors of llama3's scaling with bounds 1 and 4, found others, up to {}", gguf_rope_factors_name, most);
  return nullptr;
}

}  // namespace

json read_gguf_rope_scaling(const Checkpoint& checkpoint, const std::string& prefix, int64_t head_dim, std::vector<std::string>& used, Problems& problems) {
  const GgufMetadata& metadata = *checkpoint.gguf;
  const auto use = [&](const char* key) { return used.emplace_back(prefix + key); };
  const std::string* named = metadata.find_string(use("rope.scaling.type"));
  const std::string type = named ? *named : "linear";
  const auto factor = metadata.find_number(use("rope.scaling.factor")), context = metadata.find_number(use("rope.scaling.original_context_length"));
  use("rope.scaling.finetuned");  // for people
  json scaling;
  if (type == "none" || type == "linear") {
    if (type == "linear" && factor.value_or(1) != 1) scaling = {{"rope_type", "linear"}, {"factor", *factor}};
  } else if (type == "yarn" && factor) {
    scaling = {{"rope_type", "yarn"}, {"factor", *factor}};
    if (context) scaling["original_max_position_embeddings"] = *context;
    for (const auto& [key, field] : {std::pair("rope.scaling.yarn_beta_fast", "beta_fast"), {"rope.scaling.yarn_beta_slow", "beta_slow"}})
      if (const auto value = metadata.find_number(use(key))) scaling[field] = *value;
  } else if (type == "yarn") {
    problems.add(fmt::format("key {}rope.scaling.factor is missing, but {}rope.scaling.type is yarn", prefix, prefix));
  } else {
    problems.add(fmt::format("key {}rope.scaling.type: expected none, linear or yarn (llmc implements no other), found {}", prefix, type));
  }

  const auto tensor = std::ranges::find(checkpoint.tensors, gguf_rope_factors_name, &StoredTensor::name);
  if (tensor == checkpoint.tensors.end()) return scaling;
  const double theta = metadata.find_number(prefix + "rope.freq_base").value_or(10000);
  const int64_t dim = metadata.find_int(prefix + "rope.dimension_count").value_or(head_dim);
  if (tensor->shape != Shape{dim / 2}) {
    problems.add(fmt::format("tensor {}: expected shape [{}], found {}", gguf_rope_factors_name, dim / 2, to_string(tensor->shape)));
    return scaling;
  }
  std::string problem;
  const json llama3 = find_llama3(read_matrix(*tensor).values(), theta, problem);
  if (!problem.empty()) problems.add(problem);
  if (!llama3.is_null() && !scaling.is_null()) problems.add(fmt::format("tensor {}: scales rotary positions a second time, beside key {}rope.scaling.factor", gguf_rope_factors_name, prefix));
  return llama3.is_null() ? scaling : llama3;
}

void check_gguf_rope(const Model& model) {
  const ModelConfig& config = model.config();
  const Architecture& architecture = model.architecture();
  if (config.positions != Positions::rope) return;
  const Rope& rope = config.rope;
  const auto refuse = [&](const std::string& what) { throw Error(ErrorKind::usage, fmt::format("{}: {}", model.checkpoint().directory.string(), what)); };
  if (rope.scaling == RopeScaling::dynamic && rope.factor != 1) refuse("its rotary positions scale with the length of a sequence (dynamic), which llama.cpp does not");
  if (rope.scaling == RopeScaling::longrope) refuse("its rotary positions have longrope's factors, which llmc does not write for llama.cpp");
  if (rope.scaling == RopeScaling::llama3 && !architecture.gguf.rope_factors) refuse(fmt::format("its rotary positions have llama3's scaling, which llama.cpp does not give {}", architecture.gguf.name));
  if (rope.scaling != RopeScaling::yarn) return;
  const auto expect = [&](const char* field, double found, double expected) {
    if (std::abs(found - expected) > 1e-6 * expected) refuse(fmt::format("{} of its yarn scaling is {}, but llama.cpp runs it with {}", field, found, expected));
  };
  expect("beta_fast", rope.fast, 32);
  expect("beta_slow", rope.slow, 1);
  expect("attention_factor", rope.magnitude, default_yarn_magnitude(rope.factor));
  if (!rope.whole_ramp) refuse("its yarn scaling does not truncate its ramp, but llama.cpp does");
}

void add_gguf_rope_scaling(GgufMetadata& metadata, const std::string& prefix, const Rope& rope) {
  if (rope.scaling != RopeScaling::linear && rope.scaling != RopeScaling::yarn) return;
  metadata.set(prefix + "rope.scaling.type", gguf_string(std::string(to_string(rope.scaling))));
  metadata.set(prefix + "rope.scaling.factor", gguf_f32(static_cast<float>(rope.factor)));
  if (rope.scaling == RopeScaling::yarn) metadata.set(prefix + "rope.scaling.original_context_length", gguf_u32(static_cast<uint32_t>(rope.original_context)));
}

std::vector<float> gguf_rope_factors(const Model& model) {
  const ModelConfig& config = model.config();
  return config.positions == Positions::rope && config.rope.scaling == RopeScaling::llama3 ? factors_of(config.rope) : std::vector<float>();
}

}  // namespace llmc
