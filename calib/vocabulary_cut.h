// Owns which tokens a set of texts needs, and a checkpoint's tokenizer and ids rewritten to those alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace llmc {

struct VocabularyCut {
  std::vector<int64_t> kept;                 ///< ids of the tokens that stay, ascending; a token's new id is its place here
  nlohmann::json config;                     ///< config.json with the new ids
  std::map<std::string, std::string> files;  ///< the checkpoint's files that hold tokens or ids, rewritten, by name
};

/// Of a tokenizer.json, ids that must stay so that texts of the `used` ids are cut into the same tokens: those, added tokens,
/// the tokens of single bytes (so that every text can still be written), and all that these are merged from.
std::set<int32_t> close_over_merges(const nlohmann::json& tokenizer, std::set<int32_t> used);

/// Keeps what the texts (files as load_token_data reads) use, with what the ids in config.json and generation_config.json name.
/// `vocabulary` is the model's. Throws Error(input) as Tokenizer::parse and load_token_data do, for a tokenizer that is no byte-level BPE, for an added token that has no
/// row in the model, and for a tokenizer.model, which cannot be rewritten; Error(usage) when no token would go.
VocabularyCut cut_vocabulary(const std::filesystem::path& checkpoint, const nlohmann::json& config, int64_t vocabulary, const std::vector<std::string>& texts);

}  // namespace llmc
