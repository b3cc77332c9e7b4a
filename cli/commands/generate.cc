// llmc generate: a model writes on behind a prompt.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "calib/model_tokens.h"
#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/shared_options.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/utf8.h"
#include "model/generate.h"
#include "model/ignored_fields.h"

namespace llmc {
namespace {

using nlohmann::json;

struct GenerateOptions {
  std::string model;
  std::string prompt;
  std::string prompt_file;
  std::string prompt_ids;
  int64_t max_new_tokens = 128;
  int64_t samples = 1;
  Sampling sampling;
  int64_t seed = 0;
  bool ignore_eos = false;
  std::string precision = "f32";
  std::vector<std::string> ignored_config_fields;
};

/// "1,5,9"
std::vector<int32_t> parse_ids(const std::string& text, int64_t vocabulary) {
  std::vector<int32_t> ids;
  for (const char *at = text.data(), *end = at + text.size(); at < end || ids.empty();) {
    int32_t id = -1;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || id >= vocabulary || (next < end && (*next != ',' || next + 1 == end))) throw Error(ErrorKind::usage, fmt::format("--prompt-ids: expected ids from 0 to {} between commas, found '{}'", vocabulary - 1, text));
    ids.push_back(id);
    at = next + (next < end);
  }
  return ids;
}

/// The prompt as text, and what it is called in messages.
struct PromptText {
  std::string text;
  std::string where;
};
PromptText read_prompt_text(const GenerateOptions& options) {
  PromptText prompt{.text = options.prompt_file.empty() ? options.prompt : read_text_file(options.prompt_file), .where = options.prompt_file.empty() ? "--prompt" : options.prompt_file};
  if (const auto position = find_invalid_utf8(prompt.text)) throw Error(ErrorKind::input, fmt::format("{}: {}", prompt.where, describe_invalid_utf8(prompt.text, *position)));
  return prompt;
}

std::vector<int32_t> read_prompt(const GenerateOptions& options, const PromptText& prompt, const Model& model, const Tokenizer* tokenizer) {
  const auto& [text, where] = prompt;
  const int64_t vocabulary = model.config().vocabulary;
  if (!options.prompt_ids.empty()) return parse_ids(options.prompt_ids, vocabulary);
  if (options.prompt.empty() && options.prompt_file.empty()) {
    const auto begin = find_begin_token(model, tokenizer);
    if (!begin) throw Error(ErrorKind::usage, fmt::format("{}: names no token that texts begin with; give a --prompt", options.model));
    return {*begin};
  }
  if (!tokenizer) throw Error(ErrorKind::input, fmt::format("{}: not found; a prompt needs it, or give --prompt-ids", tokenizer_name(model)));
  std::vector<int32_t> ids = tokenizer->encode(text, SpecialTokens::add);
  if (ids.empty()) throw Error(ErrorKind::input, fmt::format("{}: holds no token", where));
  for (const int32_t id : ids)
    if (id >= vocabulary) throw Error(ErrorKind::input, fmt::format("{}: token id {} is outside the vocabulary of {}", where, id, vocabulary));
  return ids;
}

/// Without the ids that no token has: models may have more than their tokenizers.
std::string decode_known(const Tokenizer& tokenizer, std::vector<int32_t> ids) {
  std::erase_if(ids, [&](int32_t id) { return !tokenizer.has_token(id); });
  return tokenizer.decode(ids);
}

/// What the tokens behind a prompt add to its text, without the end token.
std::string text_behind(const Tokenizer& tokenizer, std::vector<int32_t> prompt, const Continuation& continuation) {
  const std::string before = decode_known(tokenizer, prompt);
  prompt.insert(prompt.end(), continuation.tokens.begin(), continuation.tokens.end() - (continuation.ending == Ending::end_token ? 1 : 0));
  const std::string whole = decode_known(tokenizer, prompt);
  // A prompt that ends inside a character ends with U+FFFD by itself, and with the character when the rest follows.
  auto same = static_cast<size_t>(std::ranges::mismatch(before, whole).in2 - whole.begin());
  while (same > 0 && same < whole.size() && (static_cast<unsigned char>(whole[same]) & 0xc0) == 0x80) --same;
  return whole.substr(same);
}

const char* name_of(Ending ending) {
  switch (ending) {
    case Ending::end_token: return "eos";
    case Ending::most_tokens: return "max-new-tokens";
    case Ending::context: return "context";
  }
  return "";
}

/// A prompt of ids needs none: there one that is refused is as good as none.
std::optional<Tokenizer> load_readable_tokenizer(const GenerateOptions& options, const Model& model, const RunContext& context) {
  try {
    return load_tokenizer(model);
  } catch (const Error& error) {
    if (options.prompt_ids.empty() || error.kind() != ErrorKind::input) throw;
    context.sink.warn(fmt::format("{}; the tokens are shown as ids", error.what()));
    return std::nullopt;
  }
}

/// Flags that do nothing when the likeliest token is always taken.
void refuse_without_temperature(const CLI::App& app) {
  for (const char* flag : {"--top-k", "--top-p", "--samples", "--seed"})
    if (app.get_option(flag)->count() > 0) throw Error(ErrorKind::usage, fmt::format("{}: does nothing where the likeliest token is taken; it needs a --temperature above 0", flag));
}

int run_generate(const GenerateOptions& options, const CLI::App& app, const CommandContext& context) {
  if (options.sampling.temperature == 0) refuse_without_temperature(app);
  const ForwardOptions forward{.precision = parse_precision(options.precision, "--precision")};
  const PromptText text = read_prompt_text(options);
  const Model model = load_model(options.model, as_set(options.ignored_config_fields), context.run);
  warn_of_idle_fields({&model}, as_set(options.ignored_config_fields), context.run);
  const auto tokenizer = load_readable_tokenizer(options, model, context.run);
  const std::vector<int32_t> prompt = read_prompt(options, text, model, tokenizer ? &*tokenizer : nullptr);
  const ContinuationOptions wanted{.sampling = options.sampling, .samples = options.samples, .most_tokens = options.max_new_tokens, .end_tokens = options.ignore_eos ? std::vector<int32_t>() : find_end_tokens(model), .seed = static_cast<uint64_t>(options.seed)};
  const auto continuations = continue_prompt(model, forward, prompt, wanted, context.run);

  json samples = json::array();
  std::string shown;
  for (const Continuation& continuation : continuations) {
    const std::optional<std::string> written = tokenizer ? std::optional(text_behind(*tokenizer, prompt, continuation)) : std::nullopt;
    samples.push_back({{"tokens", continuation.tokens}, {"text", written ? json(*written) : json()}, {"ending", name_of(continuation.ending)}});
    if (continuations.size() > 1) shown += fmt::format("{}--- {}\n", shown.empty() ? "" : "\n", samples.size());
    shown += written ? *written + "\n" : fmt::format("{}\n", fmt::join(continuation.tokens, ","));
  }
  if (context.common.json) fmt::print("{}", format_json({{"model", options.model}, {"precision", options.precision}, {"prompt", {{"tokens", prompt}, {"text", tokenizer ? json(decode_known(*tokenizer, prompt)) : json()}}}, {"samples", samples}}));
  else fmt::print("{}", shown);
  return exit_done;
}

}  // namespace

CommandFunction add_generate(CLI::App& app) {
  app.description("Writes on behind a prompt with a model: the likeliest tokens, or drawn from its predictions.");
  app.footer("Examples:\n  llmc generate MODEL --prompt 'Once upon a time'\n  llmc generate OUT.gguf --prompt-file start.txt --temperature 0.8 --top-p 0.95 --seed 7 --samples 4\n  llmc generate MODEL --prompt-ids 5,3,1 --max-new-tokens 3 --json");
  auto options = std::make_shared<GenerateOptions>();
  app.add_option("MODEL", options->model, "Checkpoint or artifact directory, or a GGUF file")->required();
  CLI::Option* prompt = app.add_option("--prompt", options->prompt, "Text to go on from; default: the token that texts begin with");
  CLI::Option* file = app.add_option("--prompt-file", options->prompt_file, "The same from a file")->excludes(prompt);
  app.add_option("--prompt-ids", options->prompt_ids, "Token ids to go on from, as 1,5,9")->excludes(prompt)->excludes(file);
  app.add_option("--max-new-tokens", options->max_new_tokens, "Tokens to write at most")->check(whole_number(1))->capture_default_str();
  app.add_option("--samples", options->samples, "Continuations to write, each drawn anew")->check(whole_number(1, 1024))->capture_default_str();
  app.add_option("--temperature", options->sampling.temperature, "Divides the logits: the lower, the more often the likeliest tokens; 0: always the likeliest")->check(real_number(0, 1000))->capture_default_str()->group("Sampling");
  app.add_option("--top-k", options->sampling.top_k, "Draw from so many of the likeliest tokens; 0: from all")->check(whole_number(0))->capture_default_str()->group("Sampling");
  app.add_option("--top-p", options->sampling.top_p, "Draw from the fewest tokens that have this probability together")->check(real_number(1e-6, 1))->capture_default_str()->group("Sampling");
  app.add_option("--seed", options->seed, "Of the random numbers")->check(whole_number(0))->capture_default_str()->group("Sampling");
  app.add_flag("--ignore-eos", options->ignore_eos, "Go on behind a token that ends texts");
  app.add_option("--precision", options->precision, "Matrix products: f32 or bf16")->capture_default_str();
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options, &app](const CommandContext& context) { return run_generate(*options, app, context); };
}

}  // namespace llmc
