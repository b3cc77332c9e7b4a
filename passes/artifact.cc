#include "passes/artifact.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/artifact_names.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/output.h"
#include "core/sha256.h"
#include "core/version.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/packed_container.h"
#include "formats/weight_files.h"
#include "model/gguf_model.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

ModuleKind kind_of(const PlacedTensor& placed) { return placed.row->kind == TensorKind::embedding ? ModuleKind::embedding : ModuleKind::linear; }

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.size() - std::string_view(".weight").size()); }

bool is_quantized(const PlacedTensor& placed) { return find_scheme(*placed.tensor) != nullptr; }
bool holds_blocks(const PlacedTensor& placed) {
  const GgufTypeInfo* type = find_gguf_type_of(*placed.tensor);
  return type && !type->dtype;
}

std::string head_module(const Model& model) {
  const auto row = std::ranges::find(model.architecture().tensors, Role::output_head, &TensorRow::role);
  return row->name;
}

/// What transformers calls every output head once it is loaded, whatever files call it (GPT-NeoX: embed_out).
constexpr const char* loaded_head_module = "lm_head";

/// Why readers would not find the head's codes; empty where they do or where it has none.
std::string reason_against_quantized_head(const Model& model) {
  const std::string module = head_module(model);
  if (module == loaded_head_module || !find_scheme(model.get(Role::output_head))) return "";
  return fmt::format("{} holds codes, but transformers looks for them in {}", module, loaded_head_module);
}

/// transformers joins the weights of a block's experts as it loads them, which of codes it does for one form alone; empty where that is theirs.
std::string reason_against_quantized_expert(const PlacedTensor& placed) {
  const Scheme* scheme = placed.expert >= 0 ? find_scheme(*placed.tensor) : nullptr;
  if (!scheme || (scheme->grid == GridKind::integer && scheme->bits == 4 && scheme->mapping == Mapping::symmetric && !scheme->input)) return "";
  return fmt::format("{} is an expert's and {}: transformers loads experts of 4 bits, symmetric, alone", placed.tensor->name, to_string(*scheme));
}

/// A tied head whose embedding is quantized is named beside it.
std::vector<TiedAlias> tied_aliases(const Model& model) {
  const StoredTensor& embedding = model.get(Role::token_embedding);
  if (!model.config().tied_head || !find_scheme(embedding)) return {};
  return {{head_module(model), embedding.name}};
}

json describe_compressed_tensors(const Model& model) {
  std::vector<ModuleScheme> quantized;
  std::vector<std::string> ignored;
  for (const PlacedTensor& placed : model.tensors()) {
    const std::string& name = placed.tensor->name;
    if (is_quantized(placed)) quantized.push_back({module_of(name), kind_of(placed), *find_scheme(*placed.tensor)});
    else if (placed.part == Part::weight && (placed.row->kind == TensorKind::linear || placed.row->kind == TensorKind::router)) ignored.push_back(module_of(name));
  }
  const auto aliases = tied_aliases(model);
  for (const TiedAlias& alias : aliases) quantized.push_back({alias.module, ModuleKind::embedding, *find_scheme(model.get(Role::token_embedding))});
  if (model.config().tied_head && aliases.empty()) ignored.push_back(head_module(model));
  if (head_module(model) != loaded_head_module) ignored.push_back(loaded_head_module);
  return make_quantization_config(quantized, ignored);
}

json make_config(Container container, const Model& model) {
  json config = model.checkpoint().config;
  config.erase("quantization_config");
  if (container == Container::compressed_tensors) config["quantization_config"] = describe_compressed_tensors(model);
  if (container == Container::llmc_packed) config["quantization_config"] = make_packed_quantization_config();
  const bool widened = container == Container::dense && std::ranges::any_of(model.tensors(), [](const PlacedTensor& placed) { return !std::holds_alternative<FloatData>(placed.tensor->form); });
  if (widened)  // dequantized weights are f32
    for (const char* key : {"dtype", "torch_dtype"})
      if (config.contains(key)) config[key] = "float32";
  return config;
}

json describe_provenance(const Provenance& provenance, Container container) {
  json result = {{"format", "llmc-artifact"}, {"version", 1}, {"llmc_version", version_text}, {"command", provenance.command}, {"container", to_string(container)}};
  if (provenance.recipe) result["recipe"] = to_json(*provenance.recipe);
  for (const auto& [file, hash] : provenance.source_hashes) result["source_sha256"][file] = hash;
  return result;
}

}  // namespace

ContainerChoice choose_container(Format format, const Model& model) {
  const bool any_codes = std::ranges::any_of(model.tensors(), is_quantized), any_blocks = std::ranges::any_of(model.tensors(), holds_blocks);
  const bool any_pruned = std::ranges::any_of(model.tensors(), [](const PlacedTensor& placed) { return placed.tensor->pruned; });
  if (format == Format::packed) return {Container::llmc_packed, {}};
  if (format == Format::gguf) return {Container::gguf, {}};

  const Container huggingface = any_codes ? Container::compressed_tensors : Container::dense;
  std::vector<std::string> reasons;
  for (const PlacedTensor& placed : model.tensors()) {
    const bool zeros_are_fine = format == Format::huggingface && !placed.tensor->transposed;
    std::string reason = zeros_are_fine && placed.tensor->pruned ? "" : reason_against_compressed_tensors(*placed.tensor, kind_of(placed));
    if (reason.empty()) reason = reason_against_quantized_expert(placed);
    if (!reason.empty() && (is_quantized(placed) || holds_blocks(placed) || format == Format::automatic)) reasons.push_back(reason);
  }
  if (const std::string reason = reason_against_quantized_head(model); !reason.empty()) reasons.push_back(reason);
  if (reasons.empty() || (!any_codes && !any_blocks && !any_pruned)) return {huggingface, {}};
  const std::string summary = reasons.size() == 1 ? reasons[0] : fmt::format("{} (and {} more tensors)", reasons[0], reasons.size() - 1);
  if (format == Format::huggingface) throw Error(ErrorKind::usage, fmt::format("--format hf: {}; --format packed stores it, and `llmc export --dense` makes an ordinary checkpoint of that", summary));
  return {Container::llmc_packed, {fmt::format("stored in llmc's packed container: {}", summary)}};
}

std::vector<std::pair<std::string, std::string>> hash_sources(const Checkpoint& checkpoint, const RunContext& context) {
  std::vector<std::pair<std::string, std::string>> hashes;
  Stage stage(context, "hash source", static_cast<int64_t>(checkpoint.files.size()) + 1);
  if (!checkpoint.gguf) hashes.emplace_back("config.json", sha256(MappedFile(checkpoint.directory / "config.json").bytes()));
  stage.advance();
  for (const MappedFile& file : checkpoint.files) {
    hashes.emplace_back(file.path().filename().string(), sha256(file.bytes()));
    file.release_pages();
    stage.advance();
  }
  return hashes;
}

std::vector<StoredAs> write_artifact(const fs::path& directory, Container container, const Model& model, const Provenance& provenance, std::optional<uint64_t> shard_bytes, const RunContext& context) {
  std::vector<const StoredTensor*> tensors;
  for (const PlacedTensor& placed : model.tensors()) tensors.push_back(placed.tensor);
  std::vector<StoredAs> stored = write_weights(directory / weights_file_name, container, tensors, tied_aliases(model), shard_bytes, context);
  write_text(directory / "config.json", format_json(make_config(container, model)));
  for (std::string_view name : carried_file_names())
    if (const auto content = model.checkpoint().find_file(std::string(name))) write_text(directory / name, *content);
  if (provenance.recipe) write_text(directory / "recipe.yaml", to_yaml(*provenance.recipe));
  write_text(directory / "llmc.json", format_json(describe_provenance(provenance, container)));
  return stored;
}

void check_reopened(const Model& written, const Model& reopened, Container container) {
  for (const PlacedTensor& placed : written.tensors()) {
    const StoredTensor& read_back = reopened.get(placed.row->role, placed.block, placed.part, placed.expert);
    bool same = true;
    if (is_quantized(placed) && container != Container::dense) {
      same = read_codes(read_back) == read_codes(*placed.tensor) && read_back.input_grid == placed.tensor->input_grid;
    } else if (const GgufTypeInfo* type = find_gguf_type_of(read_back); type && !type->dtype) {
      same = read_back.shape == placed.tensor->shape;  // how blocks round is judged, not known here; write_gguf has compared their bytes
    } else if (!hold_same_floats(*placed.tensor, read_back)) {
      const Matrix expected = read_matrix(*placed.tensor), found = read_matrix(read_back);
      const auto offset = static_cast<float>(gguf_offset(written.architecture(), *placed.row, placed.part));
      const auto as_stored = [&](float value) {
        if (container != Container::gguf) return value;
        return offset == 0 ? round_to(read_back.dtype, value) : value + offset - offset;  // the file has the sum in f32
      };
      same = std::ranges::equal(expected.values(), found.values(), [&](float a, float b) { return as_stored(a) == b; });
    }
    if (!same) throw Error(ErrorKind::output, fmt::format("tensor {}: what was read back from disk differs from what was written", placed.tensor->name));
    for (const Model* model : {&written, &reopened}) model->checkpoint().release_pages_after(read_back);
  }
}

uint64_t dense_weight_bytes(const Model& model) {
  uint64_t bytes = 0;
  for (const PlacedTensor& placed : model.tensors()) bytes += static_cast<uint64_t>(placed.tensor->count()) * get_info(placed.tensor->dtype).bytes;
  return bytes;
}

}  // namespace llmc
