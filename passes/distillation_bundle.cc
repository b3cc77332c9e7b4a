#include "passes/distillation_bundle.h"

#include <fmt/format.h>

#include <cstddef>
#include <nlohmann/json.hpp>

#include "calib/calibration_data.h"
#include "calib/model_tokens.h"
#include "calib/npy.h"
#include "core/error.h"
#include "core/json.h"
#include "core/version.h"
#include "passes/artifact.h"
#include "passes/compress.h"

extern const char llmc_embedded_train_bundle[];
extern const std::size_t llmc_embedded_train_bundle_size;

namespace llmc {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* format_name = "llmc-distillation-bundle";
constexpr int bundle_version = 1;

/// The samples, all of one length.
Sequences load_samples(const BundleRequest& request, const Model& teacher) {
  const std::optional<Tokenizer> tokenizer = needs_tokenizer(request.data) ? load_tokenizer(teacher) : std::nullopt;
  return load_calibration({.options = request.data, .tokenizer = tokenizer ? &*tokenizer : nullptr, .vocabulary = teacher.config().vocabulary, .context = teacher.config().longest_text(), .seed = request.seed}, {}).calibration.samples;
}

}  // namespace

json write_distillation_bundle(const BundleRequest& request, const RunContext& context) {
  refuse_own_output(request.teacher, request.output);
  refuse_own_output(request.student, request.output);
  StagedDirectory staged(request.output, request.overwrite);
  Model teacher = load_model(request.teacher, request.ignored_config_fields, context);
  const Model student = load_model(request.student, request.ignored_config_fields, context);
  if (student.checkpoint().container != Container::dense) throw Error(ErrorKind::usage, fmt::format("student {}: is compressed ({}); expected a float checkpoint", request.student.string(), to_string(student.checkpoint().container)));
  if (student.config().vocabulary != teacher.config().vocabulary) throw Error(ErrorKind::usage, fmt::format("student {}: vocabulary: expected the teacher's {}, found {}", request.student.string(), teacher.config().vocabulary, student.config().vocabulary));
  const Sequences samples = load_samples(request, teacher);
  const size_t seqlen = samples.front().size();
  if (static_cast<int64_t>(seqlen) > student.config().longest_text()) throw Error(ErrorKind::usage, fmt::format("samples of {} tokens (--seqlen): the student's context is {}", seqlen, student.config().longest_text()));
  std::vector<int32_t> tokens;
  for (const auto& sample : samples) tokens.insert(tokens.end(), sample.begin(), sample.end());

  std::error_code problem;
  if (!fs::create_directory(staged.path() / "student", problem)) throw Error(ErrorKind::output, fmt::format("{}: cannot be made: {}", (staged.path() / "student").string(), problem.message()));
  write_artifact(staged.path() / "student", Container::dense, student, {.command = "export", .source_hashes = hash_sources(student.checkpoint(), context)}, std::nullopt, context);
  write_text(staged.path() / "tokens.npy", encode_npy(DType::i32, std::as_bytes(std::span(tokens)), {static_cast<int64_t>(samples.size()), static_cast<int64_t>(seqlen)}));
  json source = json::object();
  for (const auto& [file, hash] : hash_sources(teacher.checkpoint(), context)) source[file] = hash;
  const PassContext pass{.run = context, .seed = request.seed, .calibration = &samples, .sweep = {.forward = {.precision = request.data.precision}}, .state_directory = {}, .load_original = {}};
  TeacherModel says(std::move(teacher), TeacherRuns::with_each_batch, samples, pass);
  write_soft_targets(staged.path() / "targets.safetensors", says, samples, request.targets, context);
  const json manifest = {{"format", format_name},
                         {"version", bundle_version},
                         {"llmc_version", version_text},
                         {"teacher", {{"path", request.teacher.string()}, {"sha256", source}}},
                         {"samples", samples.size()},
                         {"seqlen", seqlen},
                         {"temperature", request.targets.temperature},
                         {"top", request.targets.top},
                         {"loss", "temperature² · mean over tokens of [Σ p · (log p − log q) over the tokens in `indices` and the rest as one], p from `log_probabilities` and `rest`, q the student's probabilities of logits / temperature"}};
  write_text(staged.path() / "manifest.json", format_json(manifest));
  write_text(staged.path() / "train.py", {llmc_embedded_train_bundle, llmc_embedded_train_bundle_size});
  write_text(staged.path() / "llmc.json", format_json({{"format", format_name}, {"version", bundle_version}, {"llmc_version", version_text}, {"command", "export"}}));
  staged.commit();
  return manifest;
}

BundleInfo read_bundle_info(const fs::path& directory) {
  const std::string where = (directory / "manifest.json").string();
  const json manifest = parse_json(read_text_file(where), where);
  FieldReader fields(manifest, where);
  if (const std::string found = fields.get_string("format"); found != format_name) throw Error(ErrorKind::input, fmt::format("{}: format: expected {}, found {}", where, format_name, found));
  if (const int64_t found = fields.get_int("version"); found != bundle_version) throw Error(ErrorKind::input, fmt::format("{}: version: expected {}, found {}", where, bundle_version, found));
  const auto temperature = fields.find_number("temperature");
  if (!temperature || !(*temperature > 0)) throw Error(ErrorKind::input, fmt::format("{}: temperature: expected a number above 0", where));
  const int64_t seqlen = fields.get_int("seqlen");
  if (seqlen < 1) throw Error(ErrorKind::input, fmt::format("{}: seqlen: expected a number from 1, found {}", where, seqlen));
  return {.temperature = *temperature, .seqlen = seqlen};
}

}  // namespace llmc
