// Owns the token sequences that a model is calibrated on: which are drawn, and that none of them is judged on.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "calib/calibration_options.h"
#include "calib/token_data.h"

namespace llmc {

/// Where samples came from.
struct CalibrationSource {
  std::string name;
  std::string sha256;
  int64_t documents = 0;
  int64_t empty_documents = 0;  ///< of `documents`, those without a token
  int64_t tokens = 0;           ///< that samples were drawn from
  int64_t held_out_tokens = 0;  ///< kept for judging
};

struct CalibrationData {
  std::vector<std::vector<int32_t>> samples;  ///< in the order of the files; each of at most `seqlen` tokens, packed ones of exactly that
  int64_t seqlen = 0;
  int64_t requested_samples = 0;
  int64_t generated_samples = 0;              ///< of `samples`, the last: add_generated_samples
  Packing packing = Packing::packed;
  uint64_t seed = 0;
  std::vector<CalibrationSource> sources;
  std::vector<std::string> warnings;          ///< for the report: fewer samples than asked for, a file that was split

  int64_t tokens() const;
};
/// For the report; the tokens themselves are not in it.
nlohmann::json to_json(const CalibrationData& data);

/// Share at the end of a file that judging gets when calibration asks for the same file.
constexpr double held_out_share = 0.2;

struct SplitData {
  TokenData calibration;
  TokenData held_out;
};
/// Splits off the end: of several documents whole ones, at least one for each part; of a single one its last tokens. The
/// held-out part has at least `held_out_share` of the tokens where documents allow. Throws Error(input) below two tokens.
SplitData hold_out_end(TokenData data);

/// Draws samples: the same ones for the same data, options and seed. Throws Error(input) when there are tokens for none.
CalibrationData draw_samples(std::span<const TokenData> sources, const CalibrationOptions& options, int64_t seqlen, uint64_t seed);

struct CalibrationRequest {
  CalibrationOptions options;
  const Tokenizer* tokenizer = nullptr;  ///< null: the files must hold token ids
  int64_t vocabulary = 0;
  int64_t context = 0;
  uint64_t seed = 0;
};
/// Whether samples are read from text, the bundled one where there are no files, so that a tokenizer is needed.
bool needs_tokenizer(const CalibrationOptions& options);

/// What is calibrated on, and what is left to judge on.
struct SeparatedData {
  CalibrationData calibration;
  TokenData evaluation;
};
/// Loads the files, or the bundled calibration text. One that holds the same bytes as the evaluation data is split with
/// hold_out_end(), and `evaluation` comes back as the part that calibration does not see. Throws Error(usage) for too long
/// samples, Error(input) as load_token_data and draw_samples do, and when two files hold the same bytes.
SeparatedData load_calibration(const CalibrationRequest& request, TokenData evaluation);

}  // namespace llmc
