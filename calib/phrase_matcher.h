// Owns the search for many fixed phrases in one pass over a text: a trie of their bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace llmc {

class PhraseMatcher {
 public:
  struct Match {
    size_t begin = 0;  ///< in bytes
    size_t end = 0;
    size_t phrase = 0;  ///< the number that was given to add()
  };

  PhraseMatcher() : nodes_(1) { first_bytes_.fill(none); }
  /// Adds a phrase, which is not empty. Of two equal phrases the first counts.
  void add(std::string_view text, size_t phrase);
  /// The longest phrase that starts leftmost, at byte `from` or later.
  std::optional<Match> find(std::string_view text, size_t from) const;
  /// Calls `visit(end, phrase)` for each phrase that starts at byte `begin`, the shortest first.
  template <typename Visit>
  void for_each_at(std::string_view text, size_t begin, Visit visit) const {
    uint32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      node = find_child(node, text[at]);
      if (node == none) return;
      if (nodes_[node].phrase) visit(at + 1, *nodes_[node].phrase);
    }
  }

 private:
  static constexpr uint32_t none = UINT32_MAX;
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;
    std::optional<size_t> phrase;
  };
  uint32_t find_child(uint32_t node, char byte) const;

  std::vector<Node> nodes_;                ///< the first is the root
  std::array<uint32_t, 256> first_bytes_;  ///< the root's children, for speed
};

}  // namespace llmc
