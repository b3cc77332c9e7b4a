#include "cli/shared_options.h"

#include <fmt/format.h>

#include "cli/number_checks.h"
#include "core/error.h"
#include "core/units.h"

namespace llmc {

void add_ignored_config_fields(CLI::App& app, std::vector<std::string>& fields) {
  app.add_option("--ignore-config-field", fields, "A field of config.json that llmc does not know and that does not change the forward pass; may be repeated")->allow_extra_args(false)->group("Input");
}

std::set<std::string> as_set(const std::vector<std::string>& fields) { return {fields.begin(), fields.end()}; }

void add_shard_size(CLI::App& app, std::string& size) {
  app.add_option("--shard-size", size, "Write the weights in files of at most this, such as 5GB, with an index or, of GGUF, as OUT-00001-of-0000N.gguf; default: one file")->group("Output");
}

std::optional<uint64_t> read_shard_size(const std::string& size) {
  if (size.empty()) return std::nullopt;
  const uint64_t bytes = parse_size(size, "--shard-size");
  if (bytes == 0) throw Error(ErrorKind::usage, "--shard-size: expected a size above 0");
  return bytes;
}

void add_evaluation_flags(CLI::App& app, EvaluationFlags& flags, const std::string& length_flag) {
  app.add_option(length_flag, flags.seqlen, "Tokens in a window; default: 512, or the model's context if less")->check(whole_number(1))->group("Judging");
  app.add_option("--max-windows", flags.max_windows, "Windows to judge on, spread over the text; 0: all")->check(whole_number(0))->capture_default_str()->group("Judging");
  app.add_option("--convention", flags.convention, "all: every token but a window's first is scored; second-half: as llama.cpp")->capture_default_str()->group("Judging");
  app.add_option("--stride", flags.stride, "Tokens from one window's start to the next's; each scores what is new in it. Default: no overlap")->check(whole_number(1))->group("Judging");
  app.add_option("--precision", flags.precision, "Matrix products of the evaluator: f32 or bf16")->capture_default_str()->group("Judging");
  app.add_option("--kv-cache-bits", flags.kv_cache_bits, "Round the model's keys and values to 8 or 4 bits, as a quantized cache would; default: not at all")->group("Judging");
}

WindowOptions read_window_options(const EvaluationFlags& flags) {
  for (Convention convention : {Convention::all, Convention::second_half})
    if (flags.convention == to_string(convention)) return {.length = flags.seqlen, .most = flags.max_windows, .convention = convention, .stride = flags.stride};
  throw Error(ErrorKind::usage, fmt::format("--convention: expected all or second-half, found '{}'", flags.convention));
}

ForwardOptions read_forward_options(const EvaluationFlags& flags) {
  if (flags.kv_cache_bits && *flags.kv_cache_bits != 8 && *flags.kv_cache_bits != 4) throw Error(ErrorKind::usage, fmt::format("--kv-cache-bits: expected 8 or 4, found {}", *flags.kv_cache_bits));
  return {.precision = parse_precision(flags.precision, "--precision"), .kv_cache_bits = flags.kv_cache_bits};
}

}  // namespace llmc
