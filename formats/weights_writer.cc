#include "formats/weights_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/output.h"
#include "core/parallel.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/codecs/packed_codecs.h"
#include "formats/packed_container.h"

namespace llmc {
namespace {

/// A tensor to be written: `view` shares the form of the original where it can, and owns it where it had to be decoded.
StoredTensor decoded_copy(const StoredTensor& tensor) {
  const EncodedData& data = std::get<EncodedData>(tensor.form);
  StoredTensor copy{.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape, .transposed = tensor.transposed, .pruned = tensor.pruned, .form = FloatData(), .input_grid = tensor.input_grid};
  auto meaning = data.codec->decode(tensor, data);
  std::visit([&](auto& value) { copy.form = std::move(value); }, meaning);
  return copy;
}

/// What a container stores of the layer's input beside the codec's own parts. The packed container says it in its metadata.
std::vector<EncodedPart> input_parts(Container container, const StoredTensor& tensor) {
  return container == Container::compressed_tensors ? encode_input_grid(tensor) : std::vector<EncodedPart>();
}

/// Names in the file of a part: one, and one more for each alias that repeats it.
std::vector<std::string> part_names(Container container, const StoredTensor& tensor, const Codec& codec, const std::string& part, const std::vector<TiedAlias>& aliases) {
  if (container != Container::compressed_tensors || codec.name == "dense") return {packed_part_name(tensor.name, codec, part)};
  std::vector<std::string> names = {tensor.name.substr(0, tensor.name.size() - std::string_view("weight").size()) + part};
  for (const TiedAlias& alias : aliases)
    if (alias.source == tensor.name && (part == "weight_scale" || part == "weight_zero_point")) names.push_back(alias.module + "." + part);
  return names;
}

/// The dense form of a tensor whose codes are to be written out: f32, since the products of the grid fit no 16-bit type.
StoredTensor dense_copy(const StoredTensor& tensor) {
  StoredTensor copy{.name = tensor.name, .dtype = DType::f32, .shape = tensor.shape, .transposed = tensor.transposed, .form = FloatData()};
  const Matrix values = read_matrix(tensor);
  copy.form = make_floats(copy, values.view());
  return copy;
}

/// The codec a tensor gets, and those it might have got.
struct Chosen {
  CodecSize size;
  std::vector<std::pair<std::string_view, uint64_t>> candidates;
};

/// Blocks of a GGUF type stay what they are where that is possible: nothing else says them in so few bytes.
bool holds_blocks(const StoredTensor& tensor) {
  const GgufTypeInfo* type = find_gguf_type_of(tensor);
  return type && !type->dtype;
}

Chosen choose_codec(Container container, const StoredTensor& tensor) {
  if (container == Container::dense) return {{find_packed_codec("dense"), {{"values", find_scheme(tensor) ? DType::f32 : tensor.dtype, tensor.shape}}}, {}};
  if (container == Container::llmc_packed && holds_blocks(tensor)) return {{std::get<EncodedData>(tensor.form).codec, std::get<EncodedData>(tensor.form).codec->layout(tensor)}, {}};
  find_input_quantization(tensor);  // a static input without its grid must not be written
  StoredTensor decoded;
  const bool is_encoded = std::holds_alternative<EncodedData>(tensor.form);
  if (is_encoded) decoded = decoded_copy(tensor);
  const StoredTensor& meaning = is_encoded ? decoded : tensor;
  Chosen chosen;
  if (container == Container::llmc_packed) {
    const std::vector<CodecSize> sizes = weigh_packed_codecs(meaning);
    chosen.size = choose_smallest(sizes);
    if (sizes.size() > 1)
      for (const CodecSize& size : sizes) chosen.candidates.emplace_back(size.codec->name, size.bytes());
  } else {
    const auto* matrix = find_codes(meaning);
    const Codec* codec = matrix ? find_compressed_tensors_codec(matrix->scheme) : find_packed_codec("dense");
    if (!codec) throw Error(ErrorKind::bug, fmt::format("compressed-tensors has no format for {}", to_string(matrix->scheme)));
    chosen.size = {codec, codec->layout(meaning)};
  }
  for (const EncodedPart& part : input_parts(container, meaning)) chosen.size.layout.push_back(part.layout);
  return chosen;
}

bool keeps_outliers(const StoredTensor& tensor) {
  if (const auto* matrix = find_codes(tensor)) return !matrix->outliers.empty();
  const auto* data = std::get_if<EncodedData>(&tensor.form);
  return data && data->parts.contains("outlier_values");
}

}  // namespace

std::string reason_against_compressed_tensors(const StoredTensor& tensor, ModuleKind kind) {
  const Scheme* scheme = find_scheme(tensor);
  if (holds_blocks(tensor)) return fmt::format("{} is in blocks of {}: compressed-tensors has no such type", tensor.name, find_gguf_type_of(tensor)->name);
  if (!scheme) return tensor.pruned ? fmt::format("{} is pruned: compressed-tensors has no sparse codec any more", tensor.name) : "";
  if (tensor.transposed) return fmt::format("{} is a transposed Conv1D weight: its readers handle Linear only", tensor.name);
  if (tensor.pruned) return fmt::format("{} is pruned and quantized: compressed-tensors would store the zeros", tensor.name);
  if (keeps_outliers(tensor)) return fmt::format("{} keeps outliers in 16 bits: compressed-tensors has no place for them", tensor.name);
  if (!find_compressed_tensors_codec(*scheme)) return fmt::format("{} is {}: compressed-tensors has no such grid", tensor.name, to_string(*scheme));
  if (kind == ModuleKind::embedding && scheme->input) return fmt::format("{} is an embedding, whose input are token ids", tensor.name);
  if (kind == ModuleKind::embedding && scheme->bits != 8) return fmt::format("{} is an embedding below 8 bits: transformers cannot load it packed", tensor.name);
  if (!tensor.name.ends_with(".weight") || tensor.shape.size() != 2) return fmt::format("{} is not the weight of a Linear module", tensor.name);
  return "";
}

namespace {

/// Tensors that go into one file, and what its header says of their parts.
struct Shard {
  std::vector<size_t> tensors;
  std::vector<TensorLayout> layouts;
  uint64_t bytes = 0;
};

/// Cuts the list where a shard would become too large.
std::vector<Shard> cut_shards(const std::vector<std::vector<TensorLayout>>& layouts, uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (size_t i = 0; i < layouts.size(); ++i) {
    const uint64_t bytes = stored_bytes(layouts[i]);
    if (!shards.back().tensors.empty() && (bytes > shard_bytes || shards.back().bytes > shard_bytes - bytes)) shards.emplace_back();
    Shard& shard = shards.back();
    shard.tensors.push_back(i);
    shard.layouts.insert(shard.layouts.end(), layouts[i].begin(), layouts[i].end());
    shard.bytes += bytes;
  }
  return shards;
}

/// Where each part lies, for readers that open one shard after the other.
void write_index(const std::filesystem::path& path, const std::vector<Shard>& shards, const std::vector<std::filesystem::path>& files) {
  nlohmann::json index;
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    total += shards[i].bytes;
    for (const TensorLayout& layout : shards[i].layouts) index["weight_map"][layout.name] = files[i].filename().string();
  }
  index["metadata"]["total_size"] = total;
  OutputFile file(path);
  file.write(format_json(index));
  file.close();
}

}  // namespace

std::vector<StoredAs> write_weights(const std::filesystem::path& file, Container container, std::span<const StoredTensor* const> tensors, const std::vector<TiedAlias>& aliases, std::optional<uint64_t> shard_bytes, const RunContext& context) {
  const bool dense = container == Container::dense;
  std::vector<Chosen> chosen(tensors.size());
  parallel_for(static_cast<int64_t>(tensors.size()), [&](int64_t i) { chosen[static_cast<size_t>(i)] = choose_codec(container, *tensors[static_cast<size_t>(i)]); });
  std::vector<PackedChoice> choices;
  std::vector<std::vector<TensorLayout>> layouts(tensors.size());
  std::vector<StoredAs> stored;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [size, candidates] = chosen[i];
    choices.push_back({tensors[i], size.codec});
    stored.push_back({tensors[i]->name, size.codec->name, size.bytes(), candidates});
    for (const TensorLayout& part : size.layout)
      for (const std::string& name : part_names(container, *tensors[i], *size.codec, part.name, aliases)) layouts[i].push_back({name, part.dtype, part.shape});
  }

  const std::vector<Shard> shards = cut_shards(layouts, shard_bytes.value_or(UINT64_MAX));
  std::vector<std::filesystem::path> files;
  uint64_t total = 0;
  for (const Shard& shard : shards) {
    total += shard.bytes;
    files.push_back(shards.size() == 1 ? file : file.parent_path() / fmt::format("{}-{:05}-of-{:05}{}", file.stem().string(), files.size() + 1, shards.size(), file.extension().string()));
  }
  require_free_space(file.parent_path(), total);
  const std::map<std::string, std::string> plain = {{"format", "pt"}}, first = container == Container::llmc_packed ? make_packed_metadata(choices) : plain;

  Stage stage(context, "write", static_cast<int64_t>(choices.size()));
  for (size_t s = 0; s < shards.size(); ++s) {
    SafetensorsWriter writer(files[s], shards[s].layouts, s == 0 ? first : plain);
    parallel_for(static_cast<int64_t>(shards[s].tensors.size()), [&](int64_t i) {
      context.check_stop();
      const PackedChoice& choice = choices[shards[s].tensors[static_cast<size_t>(i)]];
      const StoredTensor* tensor = choice.tensor;
      StoredTensor converted;
      if (dense && find_scheme(*tensor)) converted = dense_copy(*tensor), tensor = &converted;
      else if (std::holds_alternative<EncodedData>(tensor->form) && (dense || !holds_blocks(*tensor))) converted = decoded_copy(*tensor), tensor = &converted;
      std::vector<EncodedPart> parts = choice.codec->encode(*tensor);
      std::ranges::move(input_parts(container, *tensor), std::back_inserter(parts));
      for (const EncodedPart& part : parts)
        for (const std::string& name : part_names(container, *tensor, *choice.codec, part.layout.name, aliases)) writer.write(name, part.bytes());
      stage.advance();
    });
    writer.close();
  }
  if (shards.size() > 1) write_index(file.parent_path() / (file.filename().string() + ".index.json"), shards, files);
  return stored;
}

}  // namespace llmc
