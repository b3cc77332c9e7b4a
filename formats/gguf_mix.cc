#include "formats/gguf_mix.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "core/error.h"
#include "core/suggest.h"

namespace llmc {
namespace {

using enum GgufType;
using enum MixTensor;
using enum MixLayers;
using enum MixFamily;

const std::vector<GgufMix>& mixes() {
  static const std::vector<GgufMix> list = {
      {.name = "F32", .file_type = 0, .type = f32},
      {.name = "F16", .file_type = 1, .type = f16},
      {.name = "BF16", .file_type = 32, .type = bf16},
      {.name = "Q8_0", .file_type = 7, .type = q8_0},
      {.name = "Q4_0", .file_type = 2, .type = q4_0, .rules = {{.tensor = ffn_down, .layers = first_eighth, .type = q4_1, .importance = MixImportance::given}}},
      {.name = "Q4_1", .file_type = 3, .type = q4_1},
      {.name = "Q5_0", .file_type = 8, .type = q5_0, .rules = {{.tensor = ffn_down, .layers = first_eighth, .type = q5_1, .importance = MixImportance::given}}},
      {.name = "Q5_1", .file_type = 9, .type = q5_1},
      {.name = "Q2_K", .file_type = 10, .type = q2_k, .rules = {{.tensor = value, .type = q4_k, .least_queries_per_key = 4}, {.tensor = value, .type = q3_k}, {.tensor = ffn_down, .type = q3_k}, {.tensor = attention_output, .type = q3_k, .family = usual}}},
      {.name = "Q2_K_S", .file_type = 21, .type = q2_k, .rules = {{.tensor = value, .type = q4_k, .least_queries_per_key = 4}, {.tensor = ffn_down, .layers = first_eighth, .type = q4_k}}},
      {.name = "Q3_K_S", .file_type = 11, .type = q3_k},
      {.name = "Q3_K_M", .file_type = 12, .type = q3_k, .rules = {{.tensor = value, .layers = first_two, .type = q5_k}, {.tensor = value, .type = q4_k}, {.tensor = ffn_down, .layers = first_sixteenth, .type = q5_k}, {.tensor = ffn_down, .layers = more_bits, .type = q4_k}, {.tensor = ffn_down, .type = q4_k, .family = usual}, {.tensor = attention_output, .type = q4_k, .family = usual}}},
      {.name = "Q3_K_L", .file_type = 13, .type = q3_k, .rules = {{.tensor = value, .type = q5_k}, {.tensor = ffn_down, .type = q5_k, .family = usual}, {.tensor = ffn_down, .type = q4_k}, {.tensor = attention_output, .type = q5_k, .family = usual}, {.tensor = attention_output, .type = q4_k}}},
      {.name = "Q4_K_S", .file_type = 14, .type = q4_k, .rules = {{.tensor = value, .layers = first_four, .type = q5_k}, {.tensor = ffn_down, .layers = first_eighth, .type = q5_k, .family = usual}}},
      {.name = "Q4_K_M", .file_type = 15, .type = q4_k, .rules = {{.tensor = value, .layers = more_bits, .type = q6_k}, {.tensor = ffn_down, .layers = first_sixteenth, .type = q6_k, .family = falcon}, {.tensor = ffn_down, .layers = more_bits, .type = q5_k, .family = falcon}, {.tensor = ffn_down, .layers = more_bits, .type = q6_k}}},
      {.name = "Q5_K_S", .file_type = 16, .type = q5_k},
      {.name = "Q5_K_M", .file_type = 17, .type = q5_k, .rules = {{.tensor = value, .layers = more_bits, .type = q6_k}, {.tensor = ffn_down, .layers = more_bits, .type = q6_k}}},
      {.name = "Q6_K", .file_type = 18, .type = q6_k},
      {.name = "IQ4_NL", .file_type = 25, .type = iq4_nl, .rules = {{.tensor = value, .type = q5_k, .least_queries_per_key = 4}, {.tensor = ffn_down, .layers = first_eighth, .type = q5_k, .importance = MixImportance::none}}},
      {.name = "IQ4_XS", .file_type = 30, .type = iq4_xs, .rules = {{.tensor = value, .type = q5_k, .least_queries_per_key = 4}, {.tensor = ffn_down, .layers = first_eighth, .type = q5_k, .importance = MixImportance::none}}},
      {.name = "TQ1_0", .file_type = 36, .type = tq1_0, .rules = {{.tensor = embedding, .type = q4_k}}},
      {.name = "TQ2_0", .file_type = 37, .type = tq2_0, .rules = {{.tensor = embedding, .type = q4_k}}},
      {.name = "MXFP4", .file_type = 38, .type = mxfp4},
      {.name = "NVFP4", .file_type = 39, .type = nvfp4},
  };
  return list;
}

bool is_large(const MixFacts& facts) {
  if (facts.layers != 80) return false;
  return facts.large == GgufLarge::every || (facts.large == GgufLarge::shared_heads && facts.heads != facts.kv_heads);
}

/// What stays as it is though it has rows: parts of names.
constexpr std::array kept_parts = {"_norm.weight", "ffn_gate_inp.weight", ".position_embd", "ssm_conv1d", "attn_rel_b.weight"};
constexpr std::array kept_names = {"position_embd.weight", "token_types.weight"};

bool is_quantizable(const MixInput& tensor, const MixOverrides& overrides) {
  if (tensor.shape.size() < 2 || !tensor.name.ends_with("weight")) return false;
  if (overrides.output_tensor == OutputTensor::left && tensor.name == "output.weight") return false;
  return std::ranges::none_of(kept_parts, [&](const char* part) { return tensor.name.find(part) != std::string::npos; }) && std::ranges::find(kept_names, tensor.name) == kept_names.end();
}

/// The parts of names that rules tell tensors apart by.
struct KindRow {
  const char* part;
  MixTensor kind;
};
constexpr KindRow kinds[] = {{"attn_qkv.weight", value}, {"attn_v.weight", value}, {"attn_output.weight", attention_output}, {"ffn_down", ffn_down}};

std::optional<MixTensor> find_kind(const std::string& name) {
  if (name == "output.weight") return output;
  if (name == "token_embd.weight") return embedding;
  for (const KindRow& row : kinds)
    if (name.find(row.part) != std::string::npos) return row.kind;
  return std::nullopt;
}

/// N of "blk.N."; −1 elsewhere.
int64_t layer_of(const std::string& name) {
  int64_t layer = 0;
  if (!name.starts_with("blk.")) return -1;
  for (size_t i = 4; i < name.size() && std::isdigit(static_cast<unsigned char>(name[i])); ++i) layer = 10 * layer + (name[i] - '0');
  return layer;
}

bool contains(MixLayers layers, int64_t i, int64_t n) {
  switch (layers) {
    case MixLayers::all: return true;
    case MixLayers::first_two: return i < 2;
    case MixLayers::first_four: return i < 4;
    case MixLayers::first_eighth: return i < n / 8;
    case MixLayers::first_sixteenth: return i < n / 16;
    case MixLayers::more_bits: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
  }
  return false;
}

/// Where nothing names the tensor alone. A tied embedding is the head, too.
GgufType type_by_rules(const GgufMix& mix, const MixFacts& facts, const MixOverrides& overrides, const MixInput& tensor, bool is_tied) {
  const auto kind = find_kind(tensor.name);
  const bool is_head = kind == output || (kind == embedding && is_tied);
  if (is_head && overrides.output_type) return *overrides.output_type;
  if (!kind || get_info(mix.type).dtype || overrides.rules == MixRules::ignored) return mix.type;
  if (is_head) {
    if (facts.family == falcon || mix.type == q8_0 || tensor.shape.back() % get_info(mix.type).block != 0) return q8_0;
    return q6_k;
  }
  GgufType type = mix.type;
  for (const MixRule& rule : mix.rules) {
    if (rule.tensor != *kind || !contains(rule.layers, layer_of(tensor.name), facts.layers)) continue;
    if (rule.least_queries_per_key > 0 && (facts.kv_heads == 0 || facts.heads / facts.kv_heads < rule.least_queries_per_key)) continue;
    if (rule.family && rule.family != facts.family) continue;
    if (rule.importance != MixImportance::either && rule.importance != facts.importance) continue;
    type = rule.type;
    break;
  }
  if (*kind == value && is_large(facts) && (type == q3_k || type == q4_k)) return q5_k;
  return type;
}

struct FallbackRow {
  GgufType type, instead;
};
constexpr FallbackRow fallbacks[] = {{iq4_xs, iq4_nl}, {q2_k, q4_0}, {q3_k, q4_0}, {tq1_0, q4_0}, {tq2_0, q4_0}, {q4_k, q5_0}, {q5_k, q5_1}, {q6_k, q8_0}};

GgufType fall_back(GgufType type, int64_t columns) {
  const auto fits = [&](GgufType candidate) { return columns % get_info(candidate).block == 0; };
  if (fits(type)) return type;
  const auto row = std::ranges::find(fallbacks, type, &FallbackRow::type);
  return row != std::end(fallbacks) && fits(row->instead) ? row->instead : f16;
}

/// What the embedding becomes, or the head, where that is given for it alone.
std::optional<GgufType> type_by_place(const MixOverrides& overrides, const MixInput& tensor) {
  const auto kind = find_kind(tensor.name);
  return kind == embedding ? overrides.embedding_type : kind == output ? overrides.output_type : std::nullopt;
}

/// Throws Error(usage) that names every pattern that says nothing about any tensor.
void check_patterns(const MixOverrides& overrides, std::span<const MixInput> tensors) {
  Problems problems;
  for (const auto& entry : overrides.tensor_types) {
    const Pattern& pattern = entry.first;
    const auto decides = [&](const MixInput& tensor) { return is_quantizable(tensor, overrides) && !type_by_place(overrides, tensor) && pattern.matches(tensor.name); };
    if (std::ranges::none_of(tensors, decides)) problems.add(fmt::format("pattern '{}' matches none of the GGUF file's matrices that it may decide, such as {}", pattern.text(), tensors.empty() ? "(none)" : tensors.back().name));
  }
  problems.throw_if_any(ErrorKind::usage, "tensor types");
}

}  // namespace

std::span<const GgufMix> gguf_mix_list() { return mixes(); }

const GgufMix& get_gguf_mix(const std::string& name, const std::string& where) {
  std::string wanted = name;
  std::ranges::transform(wanted, wanted.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (wanted == "Q3_K" || wanted == "Q4_K" || wanted == "Q5_K") wanted += "_M";
  std::vector<std::string> known;
  for (const GgufMix& mix : mixes()) {
    if (mix.name == wanted) return mix;
    known.emplace_back(mix.name);
  }
  throw Error(ErrorKind::usage, fmt::format("{}: GGUF type '{}' is not known{}; expected one of {}", where, name, did_you_mean(wanted, known), fmt::join(known, ", ")));
}

std::vector<ChosenType> choose_gguf_types(const GgufMix& mix, const MixFacts& facts, const MixOverrides& overrides, std::span<const MixInput> tensors) {
  const bool is_tied = std::ranges::find(tensors, "output.weight", &MixInput::name) == tensors.end();
  check_patterns(overrides, tensors);
  std::vector<ChosenType> chosen;
  Problems problems;
  for (const MixInput& tensor : tensors) {
    if (!is_quantizable(tensor, overrides)) {
      chosen.emplace_back();
      continue;
    }
    if (const auto type = type_by_place(overrides, tensor)) {
      chosen.push_back({.type = type});
    } else {
      const auto given = std::ranges::find_if(overrides.tensor_types, [&](const auto& entry) { return entry.first.matches(tensor.name); });
      chosen.push_back({.type = given != overrides.tensor_types.end() ? given->second : type_by_rules(mix, facts, overrides, tensor, is_tied)});
    }
    ChosenType& choice = chosen.back();
    const GgufType possible = fall_back(*choice.type, tensor.shape.back());
    if (possible == *choice.type) continue;
    if (overrides.fallback == TypeFallback::refused) problems.add(fmt::format("tensor {}: rows of {} weights, {} stores blocks of {} (llama.cpp would take {})", tensor.name, tensor.shape.back(), get_info(*choice.type).name, get_info(*choice.type).block, get_info(possible).name));
    choice = {.type = possible, .instead_of = choice.type};
  }
  problems.throw_if_any(ErrorKind::usage, fmt::format("{}: types that do not fit; --allow-fallback takes llama.cpp's choice, --tensor-type another one", mix.name));
  return chosen;
}

}  // namespace llmc
