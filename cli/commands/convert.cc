// llmc convert: the same weights in a GGUF file, judged beside the original.
#include "cli/compress_options.h"
#include "cli/gguf_flags.h"

namespace llmc {

CommandFunction add_convert(CLI::App& app) {
  app.description("Writes a model as a GGUF file for llama.cpp, in floats, and judges the file beside the original.");
  app.footer("Examples:\n  llmc convert MODEL -o OUT.gguf --type F16\n  llmc convert Q4.gguf -o OUT.gguf --type F32");
  struct Options {
    CompressOptions common;
    std::string type = "F16";
  };
  auto options = std::make_shared<Options>();
  add_compress_options(app, options->common);
  add_shard_size(app, options->common.shard_size);
  app.add_option("--type", options->type, "Type of the matrices: F32, F16 or BF16; vectors are F32")->transform(CLI::IsMember({"F32", "F16", "BF16"}, CLI::ignore_case))->capture_default_str()->group("GGUF");
  return [options](const CommandContext& context) {
    Recipe recipe{.format = Format::gguf, .gguf = read_gguf_flags({.type = options->type}, {})};
    return run_compress("convert", options->common, std::move(recipe), context);
  };
}

}  // namespace llmc
