// Owns the "Replace" of normalizers and decoders in a tokenizer.json.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "calib/text_pattern.h"
#include "core/json.h"

namespace llmc {

/// Reads "pattern" of a Split or Replace: {"Regex": "…"} in Oniguruma's syntax, or {"String": "…"}. Throws Error(input).
TextPattern read_pattern(FieldReader& fields);

/// Every match of a pattern becomes the same text.
class Replacement {
 public:
  /// Reads "pattern" and "content".
  explicit Replacement(FieldReader& fields);

  /// Throws Error(input) when the expression backtracks too much, and when the text grows beyond measure (text_growth.h).
  std::string apply(std::string_view text) const;

 private:
  std::string content_;
  TextPattern pattern_;
};

}  // namespace llmc
