// Owns name patterns: the regular expressions of --include, --exclude and --tensor-type.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace llmc {

/// A PCRE2 regular expression that is searched for anywhere in a name (anchor with ^ and $).
class Pattern {
 public:
  /// Throws Error(usage) with the position of the mistake.
  explicit Pattern(const std::string& expression);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  bool matches(std::string_view name) const;
  const std::string& text() const { return text_; }

 private:
  struct Compiled;
  std::string text_;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace llmc
