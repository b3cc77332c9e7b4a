// Owns the "post_processor" of a tokenizer.json: the special tokens around the ids of a text.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// What a template for one sequence comes to.
struct PostProcessor {
  std::vector<int32_t> before;  ///< for example BOS
  std::vector<int32_t> after;   ///< for example EOS

  using FindId = std::function<std::optional<int32_t>(std::string_view token)>;
  /// Reads null, ByteLevel (which changes offsets only), TemplateProcessing, RobertaProcessing, BertProcessing or a Sequence
  /// in which at most one adds tokens. Throws Error(input) naming any other type, and tokens that `find_id` does not know by
  /// the same id, and a template of more than 1024 tokens.
  static PostProcessor parse(const nlohmann::json* post_processor, const FindId& find_id, const std::string& where);
};

}  // namespace llmc
