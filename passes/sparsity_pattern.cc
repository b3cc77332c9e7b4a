#include "passes/sparsity_pattern.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "core/error.h"

namespace llmc {
namespace {

constexpr int64_t most = 64;

struct Pair {
  int64_t first = 0;
  int64_t second = 0;
};

/// Two numbers with a character between, and nothing else.
std::optional<Pair> read_pair(std::string_view text, char between) {
  Pair pair;
  const char* end = text.data() + text.size();
  const auto [middle, error] = std::from_chars(text.data(), end, pair.first);
  if (error != std::errc() || middle == end || *middle != between) return std::nullopt;
  const auto [last, second_error] = std::from_chars(middle + 1, end, pair.second);
  if (second_error != std::errc() || last != end) return std::nullopt;
  return pair;
}

}  // namespace

SparsityPattern parse_sparsity_pattern(const std::string& text, const std::string& where) {
  constexpr std::string_view block = "block:";
  if (text == "unstructured") return {};
  if (text.starts_with(block)) {
    const auto size = read_pair(std::string_view(text).substr(block.size()), 'x');
    if (size && size->first >= 1 && size->first <= most && size->second >= 1 && size->second <= most && size->first * size->second > 1) return {.block_rows = size->first, .block_cols = size->second};
  } else if (const auto pair = read_pair(text, ':'); pair && pair->first >= 1 && pair->first < pair->second && pair->second <= most) {
    return {.kept = pair->first, .group = pair->second};
  }
  throw Error(ErrorKind::usage, fmt::format("{}: pattern '{}' is not understood; expected unstructured, N:M such as 2:4 or block:RxC such as block:4x8, with numbers up to {}", where, text, most));
}

std::string to_string(const SparsityPattern& pattern) {
  if (pattern.is_n_of_m()) return fmt::format("{}:{}", pattern.kept, pattern.group);
  return pattern.is_block() ? fmt::format("block:{}x{}", pattern.block_rows, pattern.block_cols) : "unstructured";
}

std::string reason_against(const SparsityPattern& pattern, int64_t rows, int64_t cols) {
  if (pattern.is_n_of_m() && cols % pattern.group != 0) return fmt::format("rows of {} are not a multiple of {}", cols, pattern.group);
  if (rows % pattern.block_rows != 0 || cols % pattern.block_cols != 0) return fmt::format("{} rows of {} do not divide into blocks of {} x {}", rows, cols, pattern.block_rows, pattern.block_cols);
  return "";
}

}  // namespace llmc
