#include "calib/calibration_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

std::string_view to_string(Packing packing) { return packing == Packing::packed ? "packed" : "document"; }

Packing parse_packing(const std::string& text) {
  for (Packing packing : {Packing::packed, Packing::document})
    if (text == to_string(packing)) return packing;
  throw Error(ErrorKind::usage, fmt::format("calibration packing '{}' is not known; expected packed or document", text));
}

DType parse_activations(const std::string& text, const std::string& what) {
  if (text == "f32") return DType::f32;
  if (text == "bf16") return DType::bf16;
  throw Error(ErrorKind::usage, fmt::format("{}: expected f32 or bf16, found '{}'", what, text));
}

CalibrationOptions read_calibration_options(const json& object, const std::string& where) {
  FieldReader fields(object, where);
  CalibrationOptions options;
  options.files = fields.find_strings("files");
  options.field = fields.find_string("field").value_or(options.field);
  options.samples = fields.find_int("nsamples").value_or(options.samples);
  options.generated = fields.find_int("generated").value_or(options.generated);
  options.seqlen = fields.find_int("seqlen").value_or(options.seqlen);
  if (const auto packing = fields.find_string("packing")) options.packing = parse_packing(*packing);
  if (const auto precision = fields.find_string("precision")) options.precision = parse_precision(*precision, where + ": precision");
  if (const auto activations = fields.find_string("activations")) options.activations = parse_activations(*activations, where + ": activations");
  fields.finish();
  if (options.samples < 0) throw Error(ErrorKind::input, fmt::format("{}: nsamples: expected a number from 0, found {}", where, options.samples));
  if (options.generated < 0) throw Error(ErrorKind::input, fmt::format("{}: generated: expected a number from 0, found {}", where, options.generated));
  if (options.seqlen < 0) throw Error(ErrorKind::input, fmt::format("{}: seqlen: expected a number from 0, found {}", where, options.seqlen));
  return options;
}

json to_json(const CalibrationOptions& options) {
  return {{"files", options.files}, {"field", options.field}, {"nsamples", options.samples}, {"generated", options.generated}, {"seqlen", options.seqlen}, {"packing", to_string(options.packing)}, {"precision", to_string(options.precision)}, {"activations", options.activations == DType::f32 ? "f32" : "bf16"}};
}

int64_t sample_length(const CalibrationOptions& options, int64_t context) {
  constexpr int64_t usual_length = 512;
  if (options.seqlen > context) throw Error(ErrorKind::usage, fmt::format("calibration samples of {} tokens (--seqlen): the model's context is {}", options.seqlen, context));
  return options.seqlen > 0 ? options.seqlen : std::min(usual_length, context);
}

}  // namespace llmc
