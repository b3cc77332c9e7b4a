#include "calib/phrase_matcher.h"

#include <algorithm>

namespace llmc {

uint32_t PhraseMatcher::find_child(uint32_t node, char byte) const {
  if (node == 0) return first_bytes_[static_cast<unsigned char>(byte)];
  const auto& children = nodes_[node].children;
  const auto child = std::ranges::find(children, byte, &std::pair<char, uint32_t>::first);
  return child == children.end() ? none : child->second;
}

void PhraseMatcher::add(std::string_view text, size_t phrase) {
  uint32_t node = 0;
  for (char byte : text) {
    uint32_t child = find_child(node, byte);
    if (child == none) {
      child = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0) first_bytes_[static_cast<unsigned char>(byte)] = child;
      else nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  if (!nodes_[node].phrase) nodes_[node].phrase = phrase;
}

std::optional<PhraseMatcher::Match> PhraseMatcher::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    std::optional<Match> longest;
    for_each_at(text, begin, [&](size_t end, size_t phrase) { longest = {.begin = begin, .end = end, .phrase = phrase}; });
    if (longest) return longest;
  }
  return std::nullopt;
}

}  // namespace llmc
