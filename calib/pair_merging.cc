#include "calib/pair_merging.h"

#include <functional>
#include <queue>
#include <utility>

namespace llmc {

namespace {

constexpr int32_t none = -1;

struct Symbol {
  int32_t id = none;  ///< none: it was merged into the symbol before it
  int32_t previous = none;
  int32_t next = none;
};

struct Candidate {
  Merge merge;
  int32_t left = 0;  ///< position of the left symbol

  /// The lowest rank first, and the leftmost of equals.
  bool operator>(const Candidate& other) const { return std::pair(merge.rank, left) > std::pair(other.merge.rank, other.left); }
};

/// The symbols of one word as a doubly linked list, and the merges that are possible in it.
class Word {
 public:
  Word(std::vector<Symbol> symbols, const MergeTable& merges) : symbols_(std::move(symbols)), merges_(merges) {
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) consider(static_cast<int32_t>(i));
  }

  void merge_all() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (is_current(best)) apply(best);
    }
  }

  void append_ids(std::vector<int32_t>& ids) const {
    for (const Symbol& symbol : symbols_)
      if (symbol.id != none) ids.push_back(symbol.id);
  }

 private:
  Symbol& at(int32_t position) { return symbols_[static_cast<size_t>(position)]; }
  const Merge* find_merge(int32_t left) {
    const Symbol& symbol = at(left);
    return symbol.id == none || symbol.next == none ? nullptr : merges_.find(symbol.id, at(symbol.next).id);
  }
  void consider(int32_t left) {
    if (const Merge* merge = find_merge(left)) candidates_.push({*merge, left});
  }
  bool is_current(const Candidate& candidate) {
    const Merge* merge = find_merge(candidate.left);
    return merge && merge->id == candidate.merge.id;
  }
  void apply(const Candidate& candidate) {
    Symbol& left = at(candidate.left);
    Symbol& right = at(left.next);
    left.id = candidate.merge.id;
    left.next = right.next;
    right.id = none;
    if (left.next != none) at(left.next).previous = candidate.left;
    if (left.previous != none) consider(left.previous);
    consider(candidate.left);
  }

  std::vector<Symbol> symbols_;
  const MergeTable& merges_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates_;
};

}  // namespace

void merge_pairs(const std::vector<int32_t>& symbols, const MergeTable& merges, std::vector<int32_t>& ids) {
  std::vector<Symbol> list(symbols.size());
  for (size_t i = 0; i < symbols.size(); ++i) {
    const int32_t position = static_cast<int32_t>(i);
    list[i] = {.id = symbols[i], .previous = position - 1, .next = i + 1 < symbols.size() ? position + 1 : none};
  }
  Word word(std::move(list), merges);
  word.merge_all();
  word.append_ids(ids);
}

}  // namespace llmc
