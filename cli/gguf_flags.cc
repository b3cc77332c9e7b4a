#include "cli/gguf_flags.h"

#include <fmt/format.h>

#include "core/error.h"

namespace llmc {

void add_gguf_mix_flags(CLI::App& app, GgufFlags& flags) {
  app.add_option("--type", flags.type, "For a GGUF file, instead of a scheme: Q4_K_M, Q8_0, … as llama-quantize names them (see llmc list)")->group("GGUF");
  app.add_option("--rounding", flags.rounding, "How blocks are found: search (each on its own), weighted (so too, errors weighed by the size of the inputs), compensated (errors made up for by the weights that come later, then scales and codes refined) or refined (compensated, then scales of blocks, norms and biases trained, end to end); all but search calibrate. Default: weighted with --imatrix, compensated with a flag for calibration, else search")->group("GGUF");
  app.add_option("--imatrix", flags.imatrix, "File of llama-imatrix or llmc imatrix that says the size of the inputs, so that --rounding weighted needs no calibration")->type_name("FILE")->group("GGUF");
  app.add_flag("--pure", flags.pure, "The type for every tensor, without the mix's exceptions")->group("GGUF");
  app.add_flag("--leave-output-tensor", flags.leave_output_tensor, "Leave output.weight in the model's own floats")->group("GGUF");
  app.add_flag("--allow-fallback", flags.allow_fallback, "Where rows are no whole number of a type's blocks, take the type that llama.cpp would; without it that is an error")->group("GGUF");
}

GgufOptions read_gguf_flags(const GgufFlags& flags, const std::vector<std::string>& tensor_types) {
  GgufOptions options{.type = flags.type,
                      .rules = flags.pure ? MixRules::ignored : MixRules::used,
                      .output_tensor = flags.leave_output_tensor ? OutputTensor::left : OutputTensor::quantized,
                      .output_tensor_type = flags.output_tensor_type,
                      .token_embedding_type = flags.token_embedding_type,
                      .tensor_types = {},
                      .fallback = flags.allow_fallback ? TypeFallback::allowed : TypeFallback::refused};
  for (const std::string& text : tensor_types) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0) throw Error(ErrorKind::usage, fmt::format("--tensor-type: expected REGEX=TYPE, found '{}'", text));
    options.tensor_types.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  check_gguf_options(options, "GGUF");
  return options;
}

}  // namespace llmc
