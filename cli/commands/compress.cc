// llmc compress: the steps of a recipe file.
#include "cli/compress_options.h"
#include "core/mapped_file.h"

namespace llmc {

CommandFunction add_compress(CLI::App& app) {
  struct Options {
    CompressOptions common;
    std::string recipe;
  };
  app.description("Runs the steps of a recipe (YAML or JSON) in order. `recipe.yaml` of an artifact runs again to the same bytes.");
  app.footer("Example:\n  llmc compress MODEL -o OUT --recipe prune-then-quantize.yaml\n\nA recipe:\n  version: 1\n  steps:\n    - pass: prune.magnitude\n      sparsity: 0.5\n    - pass: quantize.rtn\n      scheme: W4A16-g32");
  auto options = std::make_shared<Options>();
  add_compress_options(app, options->common);
  add_format_option(app, options->common);
  add_calibration_run_options(app, options->common);
  app.add_option("--recipe", options->recipe, "Recipe file")->required();
  return [options](const CommandContext& context) { return run_compress("compress", options->common, parse_recipe(read_text_file(options->recipe), options->recipe), context); };
}

}  // namespace llmc
