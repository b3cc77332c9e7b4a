// Owns regular expressions over text: PCRE2 with Unicode properties, compiled to machine code where that is possible.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace llmc {

/// A range of bytes.
struct Span {
  size_t begin = 0;
  size_t end = 0;
};

/// Letters, numbers and so on are those of PCRE2's Unicode version (14 in PCRE2 10.42; Hugging Face tokenizers 0.23 has 16).
class TextPattern {
 public:
  /// Throws Error(input) naming `where` when PCRE2 does not understand the expression, or when it may match nothing
  /// at all (the empty text), which libraries treat differently.
  TextPattern(const std::string& expression, const std::string& where);
  ~TextPattern();
  TextPattern(TextPattern&&) noexcept;
  TextPattern& operator=(TextPattern&&) noexcept;

  /// Finds the matches in valid UTF-8, from left to right and without overlap. Each thread makes its own.
  class Search {
   public:
    Search(const TextPattern& pattern, std::string_view text);
    ~Search();
    Search(const Search&) = delete;
    Search& operator=(const Search&) = delete;
    /// Throws Error(input) when PCRE2 gives up: the expression backtracks too much.
    std::optional<Span> find_next();

   private:
    struct State;
    const TextPattern& pattern_;
    std::string_view text_;
    size_t from_ = 0;
    std::optional<size_t> last_end_;  ///< of the match before
    std::unique_ptr<State> state_;
  };

 private:
  struct Compiled;
  std::string where_;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace llmc
