#include "calib/sweep_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/file_status.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/output.h"
#include "formats/packed_container.h"
#include "formats/safetensors.h"
#include "formats/weights_writer.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* format_name = "llmc-sweep";
constexpr int version = 1;

/// Fields in which two signatures differ.
std::string describe_differences(const json& expected, const json& found) {
  std::string text;
  for (const json& difference : json::diff(found, expected)) text += (text.empty() ? "" : ", ") + difference.at("path").get<std::string>();
  return text;
}

std::vector<std::string> list_names(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code problem;
  for (fs::directory_iterator entry(directory, problem), end; !problem && entry != end; entry.increment(problem)) names.push_back(entry->path().filename().string());
  if (problem) throw Error(ErrorKind::output, fmt::format("{}: cannot read: {}", directory.string(), problem.message()));
  return names;
}

constexpr const char* half_written = "state.json.llmc-partial-";  // write_file_atomically's

/// Whether a run that was killed before its first state may have left a file of that name.
bool is_rest(const std::string& name) {
  return std::ranges::any_of(std::array{"block-", "changed-", "plain-", half_written, "llmc-activations-"}, [&](const char* start) { return name.starts_with(start); });
}

void remove_half_written(const fs::path& directory, const std::vector<std::string>& names) {
  std::error_code ignored;
  for (const std::string& name : names)
    if (name.starts_with(half_written)) fs::remove(directory / name, ignored);
}

}  // namespace

SweepState::SweepState(const fs::path& directory, Persistence persistence, json signature) : directory_(directory), persistence_(persistence), signature_(std::move(signature)) {
  std::error_code problem;
  fs::create_directories(directory, problem);
  if (problem) throw Error(ErrorKind::output, fmt::format("{}: cannot make the directory: {}", directory.string(), problem.message()));
  const fs::path file = directory / "state.json";
  if (persistence == Persistence::scratch) return;
  const std::vector<std::string> names = list_names(directory);
  if (!fs::exists(get_status(file, ErrorKind::output))) {
    for (const std::string& name : names)
      if (!is_rest(name)) throw Error(ErrorKind::usage, fmt::format("{}: holds {}, which is no state of a run; choose an empty directory", directory.string(), name));
    remove_half_written(directory, names);
    return;
  }
  const std::string where = file.string();
  const json state = parse_json(read_text_file(file), where);
  FieldReader fields(state, where);
  const std::string format = fields.get_string("format");
  if (format != format_name || fields.get_int("version") != version) throw Error(ErrorKind::input, fmt::format("{}: expected format {} version {}, found {} version {}", where, format_name, version, format, fields.get_int("version")));
  const json* found = fields.find("signature");
  if (!found || *found != signature_) throw Error(ErrorKind::usage, fmt::format("{}: belongs to another run; it differs in {}", where, found ? describe_differences(signature_, *found) : "everything"));
  finished_ = fields.get_int("finished");
  if (const json* notes = fields.find("notes")) notes_ = *notes;
  fields.finish();
  remove_half_written(directory, names);
  if (finished_ < 1) throw Error(ErrorKind::input, fmt::format("{}: finished: expected at least 1, found {}", where, finished_));
}

fs::path SweepState::block_file(int64_t block) const { return directory_ / fmt::format("block-{}.safetensors", block); }
fs::path SweepState::chain_file(const char* chain, int64_t block) const { return directory_ / fmt::format("{}-{}.bin", chain, block); }

void SweepState::restore(Model& model, ActivationStore& changed, ActivationStore& plain) {
  if (finished_ > model.config().layers) throw Error(ErrorKind::input, fmt::format("{}: {} blocks are finished, the model has {}", directory_.string(), finished_, model.config().layers));
  for (int64_t block = 0; block < finished_; ++block) adopt(model, block);
  changed.load(chain_file("changed", finished_ - 1));
  plain.load(chain_file("plain", finished_ - 1));
}

void SweepState::adopt(Model& model, int64_t block) const {
  MappedFile file(block_file(block));
  const std::string where = file.path().string();
  SafetensorsContent content = parse_safetensors(file.bytes(), where);
  std::map<std::string, TensorView> parts;
  for (NamedTensor& tensor : content.tensors) parts.emplace(tensor.name, std::move(tensor.tensor));
  std::vector<StoredTensor> tensors = group_packed_parts(content.metadata, parts, where);
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.block != block) continue;
    const auto stored = std::ranges::find(tensors, placed.tensor->name, &StoredTensor::name);
    if (stored == tensors.end() || stored->shape != placed.tensor->shape || stored->transposed != placed.tensor->transposed) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: missing or of another shape", where, placed.tensor->name));
    stored->moved = placed.tensor->moved;  // the file does not say it, and earlier passes do it again after a kill
    *placed.tensor = std::move(*stored);
  }
  model.checkpoint().scratch_files.push_back(std::move(file));
}

void SweepState::save(Model& model, int64_t block, const ActivationStore& changed, const ActivationStore& plain, json notes, const RunContext& context) {
  std::vector<const StoredTensor*> tensors;
  for (const PlacedTensor& placed : model.tensors())
    if (placed.block == block) tensors.push_back(placed.tensor);
  std::error_code ignored;  // what cannot be removed cannot be written anew either, and that is told
  const auto replace = [&](const fs::path& path) -> const fs::path& {
    fs::remove(path, ignored);  // what a killed run left
    return path;
  };
  SilentSink quiet;
  write_weights(replace(block_file(block)), Container::llmc_packed, tensors, {}, std::nullopt, {.sink = quiet, .stop = context.stop});
  adopt(model, block);
  if (persistence_ == Persistence::scratch) return;
  changed.save(replace(chain_file("changed", block)));
  plain.save(replace(chain_file("plain", block)));
  const json state = {{"format", format_name}, {"version", version}, {"signature", signature_}, {"finished", block + 1}, {"notes", std::move(notes)}};
  write_file_atomically(directory_ / "state.json", format_json(state));
  if (block == 0) return;
  fs::remove(chain_file("changed", block - 1), ignored);
  fs::remove(chain_file("plain", block - 1), ignored);
}

}  // namespace llmc
