// Owns the interface of the step that turns one pre-token into ids: byte pair encoding today, others later.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "calib/vocabulary.h"

namespace llmc {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  /// Appends the ids of one pre-token, which is valid UTF-8 and not empty. The same word always gives the same ids, so
  /// a caller may keep them. Throws Error(input) when the vocabulary cannot express the word.
  virtual void encode(std::string_view word, std::vector<int32_t>& ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

}  // namespace llmc
