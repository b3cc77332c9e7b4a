// Owns the mixes of GGUF types that have names (Q4_K_M and its like): which tensor of a model gets which type.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/pattern.h"
#include "core/tensor.h"
#include "formats/gguf_types.h"

namespace llmc {

/// What a rule tells tensors apart by. `value` is a value projection, alone or together with query and key.
enum class MixTensor { embedding, output, value, attention_output, ffn_down };
/// Of n layers, i being the layer's place.
enum class MixLayers {
  all,
  first_two,
  first_four,
  first_eighth,     ///< i < n / 8
  first_sixteenth,  ///< i < n / 16
  more_bits,        ///< the first and the last eighth, and every third one between
};
enum class MixImportance { either, given, none };
/// Whose rules: llama-quantize has some for Falcon alone, and some for all others.
enum class MixFamily { usual, falcon };

/// Takes a tensor from the mix's type to another one.
struct MixRule {
  MixTensor tensor;
  MixLayers layers = MixLayers::all;
  GgufType type;
  int64_t least_queries_per_key = 0;  ///< query heads that share a key and value head
  MixImportance importance = MixImportance::either;
  std::optional<MixFamily> family = {};  ///< none: both
};

struct GgufMix {
  std::string_view name;
  uint32_t file_type;  ///< llama.cpp's llama_ftype: general.file_type
  GgufType type;       ///< of what no rule is about
  std::vector<MixRule> rules = {};  ///< the first that fits decides
};

/// As llama-quantize knows them, but for those of types that llmc does not write; and MXFP4 and NVFP4, which it has not.
std::span<const GgufMix> gguf_mix_list();
/// Capitals and small letters are the same; Q3_K, Q4_K and Q5_K are their M mixes. Throws Error(usage) that lists what is known.
const GgufMix& get_gguf_mix(const std::string& name, const std::string& where);

/// Of which models llama.cpp takes those of 80 layers for its 70B, whose value projections get 5 bits at least.
enum class GgufLarge { none, shared_heads, every };

/// What the rules ask of a model.
struct MixFacts {
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  GgufLarge large = GgufLarge::none;
  MixFamily family = MixFamily::usual;
  MixImportance importance = MixImportance::none;  ///< given or none
};

enum class OutputTensor { quantized, left };
enum class MixRules { used, ignored };  ///< ignored: llama-quantize's --pure
enum class TypeFallback { refused, allowed };

struct MixOverrides {
  MixRules rules = MixRules::used;
  OutputTensor output_tensor = OutputTensor::quantized;
  std::optional<GgufType> output_type;
  std::optional<GgufType> embedding_type;
  std::vector<std::pair<Pattern, GgufType>> tensor_types;  ///< the first that matches a tensor's GGUF name decides
  TypeFallback fallback = TypeFallback::refused;
};

/// A tensor by its GGUF name, shape row-major.
struct MixInput {
  std::string name;
  Shape shape;
};
struct ChosenType {
  std::optional<GgufType> type;         ///< nothing: not quantized
  std::optional<GgufType> instead_of;   ///< with a fallback: what the row's length forbids
};

/// One for each tensor, as llama-quantize would (llama-quant.cpp of llama.cpp). Throws Error(usage) that names every tensor whose
/// rows are no whole number of its type's blocks, unless fallbacks are allowed, and every pattern that matches no matrix. Other than there,
/// patterns count beside a mix of floats (F16), too.
std::vector<ChosenType> choose_gguf_types(const GgufMix& mix, const MixFacts& facts, const MixOverrides& overrides, std::span<const MixInput> tensors);

}  // namespace llmc
