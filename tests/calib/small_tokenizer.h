// Owns a small byte-level tokenizer.json that tests change before they read it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "calib/byte_alphabet.h"
#include "calib/tokenizer.h"
#include "core/error.h"
#include "tests/catch.h"

/// Ids 0…255 are the bytes, 256 "th", 257 "the", 258 " the" and 259 "<|end|>", an added token.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[llmc::spell_bytes(std::string(1, static_cast<char>(byte)))] = byte;
  vocab.update({{"th", 256}, {"the", 257}, {"Ġthe", 258}});
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {{{"id", 259}, {"content", "<|end|>"}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", {"t h", "th e", "Ġ the"}}}}};
}

inline llmc::Tokenizer read_tokenizer(const nlohmann::json& file) { return llmc::Tokenizer::parse(file.dump(), "tokenizer.json"); }

/// The message of the llmc::Error(input) that `action` throws.
template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const llmc::Error& problem) {
    CHECK(problem.kind() == llmc::ErrorKind::input);
    return problem.what();
  }
  FAIL("nothing was thrown");
  return {};
}

/// Catch2 2 and 3 spell their matchers differently, so tests do without.
inline void check_contains(const std::string& text, const std::string& part) {
  INFO("found:    " << text << "\nexpected: …" << part << "…");
  CHECK(text.find(part) != std::string::npos);
}

inline std::string refusal_of(const nlohmann::json& file) {
  return message_of([&] { read_tokenizer(file); });
}
