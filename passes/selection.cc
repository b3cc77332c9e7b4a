#include "passes/selection.h"

#include <fmt/format.h>

#include <algorithm>

namespace llmc {
namespace {

std::vector<Pattern> compile(const std::vector<std::string>& texts) {
  std::vector<Pattern> patterns;
  for (const std::string& text : texts) patterns.emplace_back(text);
  return patterns;
}

bool any_matches(const std::vector<Pattern>& patterns, const std::string& name) {
  return std::ranges::any_of(patterns, [&](const Pattern& pattern) { return pattern.matches(name); });
}

}  // namespace

Selection::Selection(std::vector<std::string> include, std::vector<std::string> exclude) : include_(compile(include)), exclude_(compile(exclude)) {}

std::vector<std::string> Selection::texts(const std::vector<Pattern>& patterns) {
  std::vector<std::string> result;
  for (const Pattern& pattern : patterns) result.push_back(pattern.text());
  return result;
}

std::vector<const PlacedTensor*> Selection::select(const Model& model, Problems& problems) const {
  std::vector<const PlacedTensor*> candidates;
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed)) candidates.push_back(&placed);
  for (const auto* patterns : {&include_, &exclude_})
    for (const Pattern& pattern : *patterns)
      if (std::ranges::none_of(candidates, [&](const PlacedTensor* p) { return pattern.matches(p->tensor->name); })) problems.add(describe_unmatched(pattern, candidates));
  std::erase_if(candidates, [&](const PlacedTensor* placed) {
    const std::string& name = placed->tensor->name;
    return (!include_.empty() && !any_matches(include_, name)) || any_matches(exclude_, name);
  });
  if (candidates.empty() && problems.empty()) problems.add("the patterns leave no weight to work on");
  return candidates;
}

std::string describe_unmatched(const Pattern& pattern, const std::vector<const PlacedTensor*>& candidates) {
  return fmt::format("pattern '{}' matches none of the {} weights it may choose from, such as {}", pattern.text(), candidates.size(), candidates.empty() ? "(none)" : candidates.front()->tensor->name);
}

}  // namespace llmc
