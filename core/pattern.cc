#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include "core/error.h"
#include "core/shown.h"

namespace llmc {

struct Pattern::Compiled {
  explicit Compiled(pcre2_code* compiled) : code(compiled, pcre2_code_free), match(pcre2_match_data_create_from_pattern(compiled, nullptr), pcre2_match_data_free) {}
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code;
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match;
};

Pattern::Pattern(const std::string& expression) : text_(expression) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_UTF, &error, &offset, nullptr);
  if (!code) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    throw Error(ErrorKind::usage, fmt::format("pattern '{}': {} at character {}", shown(expression), reinterpret_cast<const char*>(message), offset));
  }
  compiled_ = std::make_unique<Compiled>(code);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

bool Pattern::matches(std::string_view name) const {
  const int result = pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, compiled_->match.get(), nullptr);
  if (result < 0 && result != PCRE2_ERROR_NOMATCH)
    throw Error(ErrorKind::usage, fmt::format("pattern '{}' cannot be matched against '{}': PCRE2 error {}", shown(text_), shown(std::string(name)), result));
  return result >= 0;
}

}  // namespace llmc
