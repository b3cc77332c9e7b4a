// Owns sparsity patterns: which weights may become zero on their own, and which only together.
#pragma once

#include <cstdint>
#include <string>

namespace llmc {

/// Unstructured (the default), N:M or blocks.
struct SparsityPattern {
  int64_t kept = 0;        ///< N:M: so many …
  int64_t group = 0;       ///< … of every so many neighbours along a row stay; 0: not N:M
  int64_t block_rows = 1;  ///< weights of such a block go or stay together
  int64_t block_cols = 1;

  bool is_n_of_m() const { return group > 0; }
  bool is_block() const { return block_rows * block_cols > 1; }
  /// What N:M implies.
  double sparsity() const { return 1 - static_cast<double>(kept) / static_cast<double>(group); }
  bool operator==(const SparsityPattern&) const = default;
};

/// "unstructured", "2:4" (any N:M with M up to 64), "block:4x8" (rows × columns, each up to 64). Throws Error(usage) naming `where`.
SparsityPattern parse_sparsity_pattern(const std::string& text, const std::string& where);
std::string to_string(const SparsityPattern& pattern);

/// Why a matrix [rows, cols] cannot have the pattern, or "".
std::string reason_against(const SparsityPattern& pattern, int64_t rows, int64_t cols);

}  // namespace llmc
