#include "passes/gguf_artifact.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "core/version.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/gguf_tokenizer.h"
#include "model/gguf_config.h"
#include "model/gguf_model.h"
#include "model/gguf_rope.h"
#include "passes/block_search.h"

namespace llmc {

namespace fs = std::filesystem;

namespace {

/// Of a tensor that the mix does not touch: f32, which llama.cpp wants of vectors and positions, and the dtype of a matrix that
/// the user left as it is.
GgufType kept_type(const PlacedTensor& placed) {
  if (is_vector(placed) || placed.row->role == Role::position_embedding) return GgufType::f32;
  return placed.tensor->dtype == DType::f16 ? GgufType::f16 : placed.tensor->dtype == DType::bf16 ? GgufType::bf16 : GgufType::f32;
}

/// The shape that the file gives the tensor: always [out, in].
Shape file_shape(const PlacedTensor& placed) { return is_vector(placed) ? placed.tensor->shape : Shape{placed.tensor->rows(), placed.tensor->cols()}; }

/// "7.3M": parameters to at least two digits, as gguf-py's size_label has it.
std::string size_label(int64_t parameters) {
  constexpr std::array<std::pair<double, char>, 5> units = {{{1e15, 'Q'}, {1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}}};
  const auto count = static_cast<double>(parameters);
  const auto unit = std::ranges::find_if(units, [&](const auto& row) { return count > row.first; });
  const auto& [size, letter] = unit == units.end() ? units.back() : *unit;
  const double scaled = count / size;
  const std::string digits = fmt::format("{}", std::lround(scaled));
  return fmt::format("{:.{}f}{}", scaled, digits == "0" ? 2 : digits.size() < 2 ? 1 : 0, letter);
}

std::string model_name(const Model& model) {
  const fs::path path = fs::weakly_canonical(model.checkpoint().directory);
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

/// A GGUF source keeps all its keys; those that say what the file now holds are set anew.
GgufMetadata make_metadata(const Model& model, const GgufOptions& options, const Provenance& provenance) {
  const Checkpoint& checkpoint = model.checkpoint();
  GgufMetadata metadata = checkpoint.gguf.value_or(GgufMetadata(checkpoint.directory.string()));
  metadata.set("general.architecture", gguf_string(model.architecture().gguf.name));
  if (!checkpoint.gguf) {
    metadata.set("general.type", gguf_string("model"));
    metadata.set("general.name", gguf_string(model_name(model)));
  }
  metadata.set("general.size_label", gguf_string(size_label(model.parameters())));
  add_gguf_config(metadata, model);
  metadata.set("general.file_type", gguf_u32(get_gguf_mix(options.type, "type").file_type));
  metadata.set("general.quantization_version", gguf_u32(2));  // GGML_QNT_VERSION
  if (!checkpoint.gguf) add_gguf_tokenizer(metadata, checkpoint, model.config().vocabulary);
  metadata.set("llmc.version", gguf_string(version_text));
  metadata.set("llmc.command", gguf_string(provenance.command));
  if (provenance.recipe) metadata.set("llmc.recipe", gguf_string(to_json(*provenance.recipe).dump()));
  return metadata;
}

/// The type of a tensor that a pass rounded to blocks; nullptr for any other.
const GgufTypeInfo* find_block_type(const PlacedTensor& placed) {
  const GgufTypeInfo* type = find_gguf_type_of(*placed.tensor);
  return type && !type->dtype ? type : nullptr;
}

/// The blocks that a pass made, their rows as the file orders them.
std::vector<std::byte> order_blocks(const Model& model, const PlacedTensor& placed) {
  std::vector<std::byte> blocks = read_gguf_blocks(*placed.tensor);
  const std::vector<int32_t> source = gguf_source_rows(model, placed);
  if (source.empty()) return blocks;
  const auto row_bytes = std::ssize(blocks) / std::ssize(source);
  std::vector<std::byte> ordered(blocks.size());
  for (int64_t r = 0; r < std::ssize(source); ++r) std::copy_n(blocks.begin() + source[static_cast<size_t>(r)] * row_bytes, row_bytes, ordered.begin() + r * row_bytes);
  return ordered;
}

/// The tensor's rows as the file orders them, rounded to its type.
std::vector<std::byte> encode(const Model& model, const PlacedTensor& placed, const GgufTypeInfo& type) {
  if (find_block_type(placed)) return order_blocks(model, placed);
  Matrix values = read_matrix(*placed.tensor);
  if (const double offset = gguf_offset(model.architecture(), *placed.row, placed.part); offset != 0)
    for (float& value : values.values()) value += static_cast<float>(offset);
  const std::vector<int32_t> source = gguf_source_rows(model, placed);
  if (!source.empty()) {
    const int64_t width = std::ssize(values.values()) / std::ssize(source);  // 1 for a vector, whose elements are the rows
    Matrix ordered(values.rows(), values.cols());
    parallel_pieces(std::ssize(source), 64, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) std::copy_n(values.values().data() + source[static_cast<size_t>(r)] * width, width, ordered.values().data() + r * width);
    });
    values = std::move(ordered);
  }
  return encode_gguf(type, values.view(), {}, fmt::format("tensor {}", placed.tensor->name));
}

/// How many layouts each shard has.
std::vector<size_t> cut_shards(const std::vector<GgufLayout>& layouts, uint64_t shard_bytes) {
  std::vector<size_t> counts = {0};
  uint64_t used = 0;
  for (const GgufLayout& layout : layouts) {
    const uint64_t bytes = layout.bytes();
    if (counts.back() > 0 && (bytes > shard_bytes || used > shard_bytes - bytes)) counts.push_back(0), used = 0;
    ++counts.back();
    used += bytes;
  }
  if (std::ssize(counts) > gguf_most_shards) throw Error(ErrorKind::usage, fmt::format("--shard-size: makes {} files; GGUF has at most {}", counts.size(), gguf_most_shards));
  return counts;
}

/// The first shard has all keys, the others those about the split alone.
GgufMetadata shard_metadata(const GgufMetadata& whole, size_t number, size_t count, size_t tensors) {
  GgufMetadata metadata = number == 0 ? whole : GgufMetadata(whole.where());
  if (const GgufValue* alignment = whole.find("general.alignment")) metadata.set("general.alignment", *alignment);
  if (count == 1) return metadata;
  metadata.set("split.no", {GgufValueType::u16, uint64_t{number}});
  metadata.set("split.count", {GgufValueType::u16, uint64_t{count}});
  metadata.set("split.tensors.count", {GgufValueType::i32, static_cast<int64_t>(tensors)});
  return metadata;
}

std::vector<std::byte> encode_rope_factors(const Model& model, const GgufTypeInfo& type) {
  const std::vector<float> factors = gguf_rope_factors(model);
  Matrix values(1, std::ssize(factors));
  std::ranges::copy(factors, values.values().begin());
  return encode_gguf(type, values.view(), {}, gguf_rope_factors_name);
}

}  // namespace

GgufPlan plan_gguf(const Model& model, const GgufOptions& options, std::optional<uint64_t> shard_bytes) {
  check_gguf_model(model);
  std::vector<MixInput> inputs;
  for (const PlacedTensor& placed : model.tensors()) {
    if (const Scheme* scheme = find_scheme(*placed.tensor)) throw Error(ErrorKind::usage, fmt::format("tensor {}: is {}: GGUF has no such grid; leave that step out and give a type of GGUF", placed.tensor->name, to_string(*scheme)));
    inputs.push_back({gguf_tensor_name(placed), file_shape(placed)});
  }
  const std::vector<ChosenType> chosen = choose_gguf_types(get_gguf_mix(options.type, "type"), gguf_mix_facts(model, MixImportance::none), make_overrides(options), inputs);
  GgufPlan plan{.layouts = {}, .shards = {}, .notes = gguf_notes(model)};
  for (size_t i = 0; i < inputs.size(); ++i) {
    const GgufTypeInfo* made = find_block_type(model.tensors()[i]);
    const GgufTypeInfo& type = made ? *made : get_info(chosen[i].type.value_or(kept_type(model.tensors()[i])));
    plan.layouts.push_back({inputs[i].name, &type, inputs[i].shape});
    if (!chosen[i].instead_of) continue;
    const GgufTypeInfo& wanted = get_info(*chosen[i].instead_of);
    plan.notes.push_back(fmt::format("{}: {} instead of {}: rows of {} weights are no whole number of its blocks; {:.2f} % of the parameters, {:+.2f} bits per weight there", inputs[i].name, type.name, wanted.name, inputs[i].shape.back(), 100.0 * static_cast<double>(model.tensors()[i].tensor->count()) / static_cast<double>(model.parameters()), type.bits_per_weight() - wanted.bits_per_weight()));
  }
  if (const auto factors = std::ssize(gguf_rope_factors(model)); factors > 0) plan.layouts.push_back({gguf_rope_factors_name, &get_info(GgufType::f32), {factors}});
  plan.shards = cut_shards(plan.layouts, shard_bytes.value_or(UINT64_MAX));
  return plan;
}

std::vector<StoredAs> write_gguf(const std::vector<fs::path>& files, const Model& model, const GgufOptions& options, const GgufPlan& plan, const Provenance& provenance, const RunContext& context) {
  const std::vector<GgufLayout>& layouts = plan.layouts;
  const GgufMetadata metadata = make_metadata(model, options, provenance);
  require_free_space(files[0].parent_path(), gguf_file_bytes(metadata, layouts));
  std::vector<std::string> hashes(layouts.size());
  Stage stage(context, "write", std::ssize(layouts));
  size_t first = 0;
  for (size_t shard = 0; shard < plan.shards.size(); ++shard) {
    const std::vector<GgufLayout> part(layouts.begin() + static_cast<ptrdiff_t>(first), layouts.begin() + static_cast<ptrdiff_t>(first + plan.shards[shard]));
    GgufWriter writer(files[shard], shard_metadata(metadata, shard, plan.shards.size(), layouts.size()), part);
    parallel_for(std::ssize(part), [&](int64_t p) {
      context.check_stop();
      const GgufLayout& layout = part[static_cast<size_t>(p)];
      const size_t i = first + static_cast<size_t>(p);
      const bool is_tensor = i < model.tensors().size();  // what comes after them is that of rotary positions
      const std::vector<std::byte> bytes = is_tensor ? encode(model, model.tensors()[i], *layout.type) : encode_rope_factors(model, *layout.type);
      hashes[i] = sha256(bytes);
      writer.write(layout.name, bytes);
      stage.advance();
    });
    writer.close();
    first += plan.shards[shard];
  }

  const GgufFiles written = open_gguf(files[0]);
  std::vector<StoredAs> stored;
  for (size_t i = 0; i < layouts.size(); ++i) {
    if (sha256(written.tensors[i].bytes) != hashes[i]) throw Error(ErrorKind::output, fmt::format("{}: tensor {}: what was read back from disk differs from what was written", files[0].string(), layouts[i].name));
    stored.push_back({.name = layouts[i].name, .codec = layouts[i].type->name, .bytes = layouts[i].bytes(), .candidates = {}});
  }
  return stored;
}

}  // namespace llmc
