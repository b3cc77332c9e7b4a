#define PCRE2_CODE_UNIT_WIDTH 8
#include "calib/text_pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include "core/error.h"
#include "core/utf8.h"

namespace llmc {

namespace {

std::string message_of(int error) {
  PCRE2_UCHAR message[256] = {};
  pcre2_get_error_message(error, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

}  // namespace

struct TextPattern::Compiled {
  std::unique_ptr<pcre2_code, Free> code;
};

struct TextPattern::Search::State {
  std::unique_ptr<pcre2_match_data, Free> match;
};

TextPattern::TextPattern(const std::string& expression, const std::string& where) : where_(where), compiled_(std::make_unique<Compiled>()) {
  const std::unique_ptr<pcre2_compile_context, Free> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  compiled_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset, context.get()));
  pcre2_code* code = compiled_->code.get();
  if (!code) throw Error(ErrorKind::input, fmt::format("{}: regular expression {}: {} at byte {}", where, expression, message_of(error), offset));
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where this fails, matching interprets the expression
}

TextPattern::~TextPattern() = default;
TextPattern::TextPattern(TextPattern&&) noexcept = default;
TextPattern& TextPattern::operator=(TextPattern&&) noexcept = default;

TextPattern::Search::Search(const TextPattern& pattern, std::string_view text)
    : pattern_(pattern), text_(text), state_(std::make_unique<State>()) {
  state_->match.reset(pcre2_match_data_create(1, nullptr));
}

TextPattern::Search::~Search() = default;

std::optional<Span> TextPattern::Search::find_next() {
  const auto match = [&](uint32_t options) {
    return pcre2_match(pattern_.compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), from_, PCRE2_NO_UTF_CHECK | options, state_->match.get(), nullptr);
  };
  while (from_ <= text_.size()) {
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);  // the interpreter's stack grows
    if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (result < 0) throw Error(ErrorKind::input, fmt::format("{}: regular expression gives up at byte {} of {}: {}", pattern_.where_, from_, text_.size(), message_of(result)));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state_->match.get());
    const Span found{offsets[0], offsets[1]};
    if (found.begin == found.end && last_end_ == found.end) {
      from_ += from_ < text_.size() ? code_point_at(text_, from_).bytes : 1;
      continue;
    }
    from_ = found.end;
    last_end_ = found.end;
    return found;
  }
  return std::nullopt;
}

}  // namespace llmc
