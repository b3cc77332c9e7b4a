#include "cli/calibration_flags.h"

#include "cli/number_checks.h"

namespace llmc {

void add_calibration_flags(CLI::App& app, CalibrationFlags& flags) {
  app.add_option("--calibration", flags.options.files, "Text, .jsonl, or token ids (.npy, .u16, .u32) to calibrate on, one or more files; default: the bundled calibration text")->type_name("FILE")->group("Calibration");
  app.add_option("--calibration-field", flags.options.field, "Field of a JSONL line that holds its text")->capture_default_str()->group("Calibration");
  app.add_option("--nsamples", flags.options.samples, "Samples to calibrate on, drawn by --seed")->check(whole_number(1))->capture_default_str()->group("Calibration");
  app.add_option("--generate-samples", flags.options.generated, "Samples more, that the original model writes itself, drawn by --seed")->check(whole_number(0))->capture_default_str()->group("Calibration");
  app.add_option("--seqlen", flags.options.seqlen, "Tokens in a sample; default: 512, or the model's context if less")->check(whole_number(1))->group("Calibration");
  app.add_option("--calibration-packing", flags.packing, "packed: documents are joined and cut into samples; document: each sample is one document, or seqlen tokens of it")->capture_default_str()->group("Calibration");
  app.add_option("--calibration-precision", flags.precision, "Matrix products of calibration: f32 or bf16")->capture_default_str()->group("Calibration");
  app.add_option("--calibration-activations", flags.activations, "How activations are kept between layers: f32, or bf16 in half the memory")->capture_default_str()->group("Calibration");
}

CalibrationOptions read_calibration_flags(const CalibrationFlags& flags) {
  CalibrationOptions options = flags.options;
  options.packing = parse_packing(flags.packing);
  options.precision = parse_precision(flags.precision, "--calibration-precision");
  options.activations = parse_activations(flags.activations, "--calibration-activations");
  return options;
}

std::vector<std::string> given_calibration_flags(const CLI::App& app) {
  std::vector<std::string> given;
  for (const CLI::Option* option : app.get_options())
    if (option->get_group() == "Calibration" && option->count() > 0) given.push_back(option->get_name());
  return given;
}

}  // namespace llmc
