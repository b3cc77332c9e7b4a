#include "cli/calibration_flags.h"

namespace llmc {

void add_calibration_flags(CLI::App& app, CalibrationFlags& flags) {
  app.add_option("--calibration", flags.options.files, "Text, .jsonl, or token ids (.npy, .u16, .u32) to calibrate on, one or more files; default: the bundled calibration text")->type_name("FILE")->group("Calibration");
  app.add_option("--calibration-field", flags.options.field, "Field of a JSONL line that holds its text")->capture_default_str()->group("Calibration");
  app.add_option("--nsamples", flags.options.samples, "Samples to calibrate on, drawn by --seed")->check(CLI::PositiveNumber)->capture_default_str()->group("Calibration");
  app.add_option("--seqlen", flags.options.seqlen, "Tokens in a sample; default: 512, or the model's context if less")->check(CLI::PositiveNumber)->group("Calibration");
  app.add_option("--calibration-packing", flags.packing, "packed: documents are joined and cut into samples; document: each sample is one document, or seqlen tokens of it")->capture_default_str()->group("Calibration");
}

CalibrationOptions read_calibration_flags(const CalibrationFlags& flags) {
  CalibrationOptions options = flags.options;
  options.packing = parse_packing(flags.packing);
  return options;
}

}  // namespace llmc
