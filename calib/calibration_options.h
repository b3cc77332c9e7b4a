// Owns what a user may ask of calibration data, and its form in a recipe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "model/linear.h"

namespace llmc {

/// How samples are made from documents (a line of JSONL, a row of ids, the whole of a text).
enum class Packing {
  packed,    ///< the documents are joined and cut: every sample has exactly seqlen tokens
  document,  ///< a sample is one document: short ones as they are, long ones cut to seqlen at a seeded place
};
std::string_view to_string(Packing packing);
/// "packed", "document". Throws Error(usage).
Packing parse_packing(const std::string& text);
/// "f32", "bf16". Throws Error(usage) naming `what`.
DType parse_activations(const std::string& text, const std::string& what);

struct CalibrationOptions {
  std::vector<std::string> files;  ///< text, .jsonl, .npy, .u16 or .u32; none: the bundled calibration text
  std::string field = "text";      ///< of a JSONL line, that holds its text
  int64_t samples = 128;           ///< as GPTQ (Frantar 2022), AWQ (Lin 2023) and auto-round draw; 0: all there are
  int64_t seqlen = 0;              ///< tokens in a sample; 0: 512, or the model's context if that is less
  int64_t generated = 0;           ///< samples more, that the model itself writes
  Packing packing = Packing::packed;
  Precision precision = Precision::bf16;  ///< of the matrix products that calibration makes
  DType activations = DType::f32;        ///< f32 or bf16: how activations are kept between layers
};

/// The recipe's object "calibration": files, field, nsamples, generated, seqlen, packing, precision and activations, each of which may be missing. Throws
/// Error(input) for unknown fields and impossible values.
CalibrationOptions read_calibration_options(const nlohmann::json& object, const std::string& where);
nlohmann::json to_json(const CalibrationOptions& options);

/// Tokens in a sample of a model with this context. Throws Error(usage) when more were asked for.
int64_t sample_length(const CalibrationOptions& options, int64_t context);

}  // namespace llmc
