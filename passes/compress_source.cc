// What a run starts from: the model as floats, and the texts that it is calibrated and judged on.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "calib/bundled_text.h"
#include "calib/model_tokens.h"
#include "calib/vocabulary_cut.h"
#include "core/error.h"
#include "core/file_status.h"
#include "formats/codecs/gguf_codecs.h"
#include "model/cut.h"
#include "model/ignored_fields.h"
#include "model/quantized_linear.h"
#include "model/untie_head.h"
#include "passes/compress.h"

namespace llmc {

namespace fs = std::filesystem;

void refuse_own_output(const fs::path& model, const fs::path& output) {
  const fs::path source = get_canonical(model, ErrorKind::input), target = get_canonical(output, ErrorKind::output);
  if (source == target || std::ranges::mismatch(source, target).in2 == target.end())
    throw Error(ErrorKind::usage, fmt::format("output {} is the model's own directory or holds it; choose another", output.string()));
}

void become_floats(StoredTensor& tensor, DType dtype) {
  Matrix values = read_matrix(tensor);
  tensor.dtype = dtype;
  tensor.form = FloatData(std::move(values));
  tensor.input_grid.reset();
  round_floats(tensor);
}

namespace {

/// What a tensor's values were rounded to; empty for floats.
std::string describe_rounding(const StoredTensor& tensor) {
  if (const Scheme* scheme = find_scheme(tensor)) return to_string(*scheme);
  const GgufTypeInfo* type = find_gguf_type_of(tensor);
  return type && !type->dtype ? std::string(type->name) : "";
}

/// From here on the tensors of a GGUF file or an artifact are floats like any other's.
void decode_source(Model& model, const CompressRequest& request, const RunContext& context) {
  Checkpoint& checkpoint = model.checkpoint();
  const bool only_widens = request.recipe.format == Format::gguf && request.recipe.steps.empty() && stores_floats(request.recipe.gguf);
  if (find_execution(model) != Execution::floats) context.sink.warn(fmt::format("{}: rounds the inputs of its layers; what is made of it takes them as they are, unless its own scheme says otherwise", request.model.string()));
  bool had_codes = false;
  for (StoredTensor& tensor : checkpoint.tensors) {
    if (const std::string rounding = describe_rounding(tensor); !rounding.empty() && !only_widens && request.requantize == Requantize::refuse)
      throw Error(ErrorKind::input, fmt::format("{}: tensor {} is {} already; expected floats (--allow-requantize rounds what they mean again)", request.model.string(), tensor.name, rounding));
    had_codes |= find_scheme(tensor) != nullptr;
    if (find_scheme(tensor)) become_floats(tensor, DType::f32);  // whose products fit no narrower type
    else decode(tensor);
    checkpoint.release_pages_after(tensor);
  }
  for (const char* key : {"dtype", "torch_dtype"})
    if (had_codes && checkpoint.config.contains(key)) checkpoint.config[key] = "float32";
}

}  // namespace

Model load_source(const CompressRequest& request, const RunContext& context) {
  Model model = load_model(request.model, request.ignored_config_fields, context);
  warn_of_idle_fields({&model}, request.ignored_config_fields, context);
  if (model.checkpoint().container != Container::dense) decode_source(model, request, context);
  if (!request.recipe.vocabulary.empty()) {
    VocabularyCut cut = cut_vocabulary(request.model, model.checkpoint().config, model.config().vocabulary, request.recipe.vocabulary);
    model.checkpoint().config = std::move(cut.config);
    model.checkpoint().rewritten_files = std::move(cut.files);
    model = cut_model(std::move(model), {.blocks = {}, .kv_groups = {}, .ffn = {}, .hidden = {}, .tokens = std::move(cut.kept)});
  }
  return request.recipe.untie_head ? untie_head(std::move(model), request.ignored_config_fields) : std::move(model);
}

namespace {

/// Token ids in files are those of the source, and dropped ones have no counterpart.
void refuse_ids(const CompressRequest& request) {
  std::vector<std::string> names;
  if (request.evaluation_data) names.push_back(request.evaluation_data->string());
  if (request.recipe.calibration) names.insert(names.end(), request.recipe.calibration->files.begin(), request.recipe.calibration->files.end());
  for (const std::string& name : names)
    if (holds_token_ids(name)) throw Error(ErrorKind::usage, fmt::format("{}: holds token ids of the whole vocabulary, of which some are dropped; give text", name));
}

}  // namespace

RunText load_run_text(const Model& model, const CompressRequest& request) {
  const auto& file = request.evaluation_data;
  const auto& calibration = request.recipe.calibration;
  std::optional<Tokenizer> tokenizer;
  if (!model.origin().tokens.empty()) refuse_ids(request);
  const bool calibrates_on_text = calibration && needs_tokenizer(*calibration);
  if (!file || !holds_token_ids(*file) || calibrates_on_text) {
    tokenizer = load_tokenizer(model);
    if (!tokenizer) throw Error(ErrorKind::input, fmt::format("{}: not found; {} needs it, or give token ids (.npy, .u16, .u32)", tokenizer_name(model), calibrates_on_text ? "calibration text" : file ? file->string() : "the bundled evaluation text"));
  }
  const Tokenizer* reader = tokenizer ? &*tokenizer : nullptr;
  const int64_t vocabulary = model.config().vocabulary, context = model.config().longest_text();
  RunText text;
  text.data = file ? load_token_data(*file, {.tokenizer = reader}, vocabulary) : tokenize_text(bundled_text(), "bundled text", *tokenizer, vocabulary);
  if (calibration) {
    SeparatedData separated = load_calibration({.options = *calibration, .tokenizer = reader, .vocabulary = vocabulary, .context = context, .seed = request.recipe.seed}, std::move(text.data));
    text.calibration = std::move(separated.calibration);
    text.data = std::move(separated.evaluation);
  }
  const bool is_text = tokenizer && !(file && holds_token_ids(*file));
  const auto bos = is_text && request.windows.convention == Convention::second_half ? find_first_token(model, *tokenizer) : std::nullopt;
  if (bos) start_windows_with(*bos, text.data, request.windows, context);
  text.windows = cut_windows(text.data, request.windows, context);
  text.windows.starts_with_bos = bos.has_value();
  return text;
}

}  // namespace llmc
