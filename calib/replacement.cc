#include "calib/replacement.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/oniguruma_syntax.h"
#include "calib/text_growth.h"
#include "core/error.h"

namespace llmc {

TextPattern read_pattern(FieldReader& fields) {
  const nlohmann::json* pattern = fields.find("pattern");
  if (!pattern) throw Error(ErrorKind::input, fmt::format("{}: field \"pattern\" is missing", fields.where()));
  FieldReader kinds(*pattern, fields.where() + ": pattern");
  const auto expression = kinds.find_string("Regex");
  const auto literal = kinds.find_string("String");
  kinds.finish();
  if (expression.has_value() == literal.has_value()) throw Error(ErrorKind::input, fmt::format("{}: expected \"Regex\" or \"String\"", kinds.where()));
  return TextPattern(expression ? translate_oniguruma(*expression, kinds.where()) : escape_literal(*literal), kinds.where());
}

Replacement::Replacement(FieldReader& fields) : content_(fields.get_string("content")), pattern_(read_pattern(fields)) {}

std::string Replacement::apply(std::string_view text) const {
  std::string result;
  if (text.empty()) return result;  // without a look for empty matches, as Hugging Face's
  result.reserve(text.size());
  size_t done = 0;
  TextPattern::Search search(pattern_, text);
  while (const auto match = search.find_next()) {
    result.append(text.substr(done, match->begin - done)).append(content_);
    check_growth(result.size(), most_grown_bytes(text.size()), "Replace");
    done = match->end;
  }
  return result.append(text.substr(done));
}

}  // namespace llmc
