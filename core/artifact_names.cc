#include "core/artifact_names.h"

#include <algorithm>
#include <array>

namespace llmc {
namespace {

constexpr std::array<std::string_view, 14> carried = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE"};
constexpr std::array<std::string_view, 6> of_artifacts = {"config.json", "llmc.json", "model.safetensors", "model.safetensors.index.json", "recipe.yaml", "report.json"};
constexpr std::array<std::string_view, 4> of_bundles = {"manifest.json", "targets.safetensors", "tokens.npy", "train.py"};

/// Whether the text is the pattern, in which # stands for any number of digits.
bool matches(std::string_view text, std::string_view pattern) {
  size_t at = 0;
  for (char expected : pattern) {
    const size_t start = at;
    if (expected == '#')
      while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
    else if (at < text.size() && text[at] == expected) ++at;
    if (at == start) return false;
  }
  return at == text.size();
}

constexpr std::array<std::string_view, 5> numbered = {"model-#-of-#.safetensors", "sensitivity.svg", "sensitivity-#.svg", "training.svg", "training-#.svg"};

}  // namespace

std::span<const std::string_view> carried_file_names() { return carried; }

bool is_artifact_file(std::string_view name) {
  const auto is_in = [&](const auto& names) { return std::ranges::find(names, name) != names.end(); };
  return is_in(carried) || is_in(of_artifacts) || is_in(of_bundles) || std::ranges::any_of(numbered, [&](std::string_view pattern) { return matches(name, pattern); });
}

}  // namespace llmc
