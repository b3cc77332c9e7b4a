#include "formats/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "core/shown.h"
#include "core/side_file.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/compressed_tensors_config.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer.h"
#include "formats/packed_container.h"
#include "formats/weight_files.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::array containers = {
    ContainerInfo{Container::dense, "dense", "an ordinary Hugging Face checkpoint"},
    ContainerInfo{Container::compressed_tensors, "compressed-tensors", "quantized weights that transformers and vLLM load"},
    ContainerInfo{Container::llmc_packed, "llmc-packed", "llmc's packed container: bit masks and codes without gaps"},
    ContainerInfo{Container::gguf, "gguf", "one file that llama.cpp runs"},
};

/// Takes what it needs of `copies`.
StoredTensor make_plain(const std::string& name, const TensorView& view, std::map<std::string, std::vector<std::byte>>& copies) {
  StoredTensor tensor{.name = name, .dtype = view.dtype, .shape = view.shape, .form = FloatData(view.bytes)};
  if (auto copy = copies.extract(name)) tensor.form = FloatData(std::move(copy.mapped()));
  return tensor;
}

/// The dtype that config.json states for the model; f32 when it says nothing.
DType read_model_dtype(const json& config) {
  for (const char* key : {"dtype", "torch_dtype"})
    if (const auto it = config.find(key); it != config.end() && it->is_string())
      for (const DTypeInfo& info : dtype_list())
        if (*it == info.torch_name) return info.dtype;
  return DType::f32;
}

/// The dense shape of a compressed-tensors module: what weight_shape says, that of its 8-bit weight, or two 4-bit floats for
/// each packed byte.
Shape read_dense_shape(const std::string& module, const std::map<std::string, TensorView>& parts) {
  if (const auto part = parts.find("weight_shape"); part != parts.end()) {
    if (part->second.dtype != DType::i64 || part->second.shape != Shape{2})
      throw Error(ErrorKind::input, fmt::format("tensor {}.weight_shape: expected I64 [2], found {} {}", module, get_info(part->second.dtype).name, to_string(part->second.shape)));
    Shape shape(2);
    std::memcpy(shape.data(), part->second.bytes.data(), 16);
    element_count(shape, module + ".weight_shape");
    return shape;
  }
  if (const auto part = parts.find("weight"); part != parts.end() && part->second.shape.size() == 2) return part->second.shape;
  if (const auto part = parts.find("weight_packed"); part != parts.end() && part->second.dtype == DType::u8 && part->second.shape.size() == 2) return {part->second.shape[0], 2 * part->second.shape[1]};
  throw Error(ErrorKind::input, fmt::format("tensor {}: parts weight_shape and weight are missing", module));
}

/// Groups that do not divide the rows: the codes cannot mean anything.
void check_groups(const Checkpoint& checkpoint) {
  Problems problems;
  for (const StoredTensor& tensor : checkpoint.tensors) {
    const auto* data = std::get_if<EncodedData>(&tensor.form);
    if (data && data->scheme.granularity == Granularity::group && tensor.cols() % data->scheme.group_size != 0)
      problems.add(fmt::format("tensor {}: rows of {} are not a multiple of its group size {}", tensor.name, tensor.cols(), data->scheme.group_size));
  }
  problems.throw_if_any(ErrorKind::input, checkpoint.directory.string());
}

/// A tied head repeats the scales of the embedding (see write_weights) and has no codes of its own: it is dropped.
void drop_tied_aliases(std::vector<std::string>& modules, WeightFiles& weights) {
  const auto has = [&](const std::string& name) { return weights.tensors.contains(name); };
  const auto is_copy = [&](const std::string& module, const std::string& other) {
    const auto scale = weights.tensors.find(other + ".weight_scale");
    return other != module && scale != weights.tensors.end() && std::ranges::equal(scale->second.bytes, weights.tensors.at(module + ".weight_scale").bytes);
  };
  std::erase_if(modules, [&](const std::string& module) {
    if (has(module + ".weight") || has(module + ".weight_packed")) return false;
    if (std::ranges::none_of(modules, [&](const std::string& other) { return is_copy(module, other); }))
      throw Error(ErrorKind::input, fmt::format("tensor {}.weight_scale: has no codes beside it and is no copy of another module's scales", module));
    weights.tensors.erase(module + ".weight_scale");
    weights.tensors.erase(module + ".weight_zero_point");
    return true;
  });
}

/// Modules that a config group targets, and whose matrix has no quantized parts: floats in a file of quantized weights are left out of
/// the rounding by its writer; codes without a scale, or a file without any quantized weight, are not what the config says.
void check_plain_modules(const json& config, const std::vector<std::string>& quantized, const WeightFiles& weights, const std::string& where) {
  constexpr std::string_view suffix = ".weight";
  std::vector<std::string> plain;
  for (const auto& [name, view] : weights.tensors)
    if (name.ends_with(suffix) && view.shape.size() == 2 && !std::ranges::binary_search(quantized, name.substr(0, name.size() - suffix.size()))) plain.push_back(name.substr(0, name.size() - suffix.size()));
  Problems problems;
  for (const auto& [module, group] : find_targeted(config, plain, where)) {
    const DType dtype = weights.tensors.at(module + ".weight").dtype;
    const bool holds_codes = !is_weight_float(dtype) || get_info(dtype).bytes == 1;
    if (holds_codes || quantized.empty()) problems.add(fmt::format("tensor {}.weight: config group {} targets it, but it is {} without a weight_scale; expected quantized parts, or its module among those to ignore", module, shown(group), get_info(dtype).name));
  }
  problems.throw_if_any(ErrorKind::input, where);
}

std::vector<StoredTensor> group_compressed_tensors(const Checkpoint& checkpoint, WeightFiles& weights) {
  std::vector<std::string> modules;
  for (const auto& [name, view] : weights.tensors)
    for (const char* mark : {".weight_packed", ".weight_scale"})
      if (name.ends_with(mark)) modules.push_back(name.substr(0, name.size() - std::strlen(mark)));
  std::ranges::sort(modules);
  modules.erase(std::unique(modules.begin(), modules.end()), modules.end());

  drop_tied_aliases(modules, weights);
  const std::string where = (checkpoint.directory / "config.json").string() + ": quantization_config";
  const json& config = checkpoint.config.at("quantization_config");
  const auto encodings = read_quantization_config(config, modules, where);
  check_plain_modules(config, modules, weights, where);
  const DType dtype = read_model_dtype(checkpoint.config);
  std::vector<StoredTensor> result;
  Problems problems;
  for (const std::string& module : modules) {
    const auto encoding = encodings.find(module);
    if (encoding == encodings.end()) {
      problems.add(fmt::format("tensor {}.weight: has quantized parts, but no config group targets it", module));
      continue;
    }
    EncodedData data{.codec = encoding->second.codec, .scheme = encoding->second.scheme, .parts = {}};
    for (const char* part : {"weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "input_scale", "input_zero_point"})
      if (auto node = weights.tensors.extract(module + "." + part)) data.parts[part] = std::move(node.mapped());
    try {
      Shape shape = read_dense_shape(module, data.parts);
      auto parts = std::move(data.parts);
      StoredTensor tensor{.name = module + ".weight", .dtype = dtype, .shape = std::move(shape), .form = std::move(data)};
      decode_input_grid(tensor, parts);
      check_parts(tensor, parts);
      std::get<EncodedData>(tensor.form).parts = std::move(parts);
      result.push_back(std::move(tensor));
    } catch (const Error& problem) {
      problems.add(problem.what());
    }
  }
  problems.throw_if_any(ErrorKind::input, checkpoint.directory.string());
  return result;
}

Container read_container(const json& config, const std::string& where) {
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || quantization->is_null()) return Container::dense;
  FieldReader fields(*quantization, where + ": quantization_config");
  const std::string method = fields.find_string("quant_method").value_or(fields.find_string("llmc_format").value_or(""));
  for (const ContainerInfo& info : containers)
    if (info.container != Container::dense && info.container != Container::gguf && info.name == method) return info.container;
  throw Error(ErrorKind::input, fmt::format("{}: quantization_config: quant_method '{}' is not supported (known: compressed-tensors)", where, shown(method)));
}

Checkpoint open_gguf_checkpoint(const fs::path& path) {
  GgufFiles opened = open_gguf(path);
  Checkpoint checkpoint;
  checkpoint.directory = path;
  checkpoint.config = json::object();
  checkpoint.container = Container::gguf;
  checkpoint.files = std::move(opened.files);
  for (const GgufTensor& tensor : opened.tensors) checkpoint.tensors.push_back(make_gguf_tensor(tensor));
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  checkpoint.gguf = std::move(opened.metadata);
  return checkpoint;
}

}  // namespace

std::span<const ContainerInfo> container_list() { return containers; }

std::string_view to_string(Container container) {
  return std::ranges::find(containers, container, &ContainerInfo::container)->name;
}

void Checkpoint::release_pages() const {
  for (const auto* list : {&files, &scratch_files})
    for (const MappedFile& file : *list) file.release_pages();
}

void Checkpoint::release_pages_after(const StoredTensor& tensor) const {
  constexpr int64_t large = int64_t{1} << 18;  // elements
  if (tensor.count() >= large) release_pages();
}

std::string Checkpoint::config_name() const { return gguf ? directory.string() : (directory / "config.json").string(); }

std::optional<std::string> Checkpoint::find_file(const std::string& name) const {
  if (const auto rewritten = rewritten_files.find(name); rewritten != rewritten_files.end()) return rewritten->second;
  if (gguf) return find_gguf_tokenizer_file(*gguf, name);
  return find_text_file(directory / name);
}

uint64_t Checkpoint::weight_bytes() const {
  uint64_t bytes = 0;
  for (const MappedFile& file : files) bytes += file.bytes().size();
  return bytes;
}

Checkpoint open_checkpoint(const fs::path& directory) {
  std::error_code unknown;  // a link to itself is neither
  if (fs::is_regular_file(directory, unknown)) return open_gguf_checkpoint(directory);
  if (!fs::is_directory(directory, unknown)) throw Error(ErrorKind::input, fmt::format("{}: not a directory; expected a Hugging Face checkpoint directory or a GGUF file", directory.string()));
  const fs::path config_path = directory / "config.json";
  Checkpoint checkpoint;
  checkpoint.directory = directory;
  checkpoint.config = parse_json(read_text_file(config_path), config_path.string());
  if (!checkpoint.config.is_object()) throw Error(ErrorKind::input, fmt::format("{}: not a JSON object", config_path.string()));
  checkpoint.container = read_container(checkpoint.config, config_path.string());

  WeightFiles weights = open_weight_files(directory);
  checkpoint.files = std::move(weights.files);
  checkpoint.notices = std::move(weights.notices);

  if (checkpoint.container == Container::compressed_tensors) checkpoint.tensors = group_compressed_tensors(checkpoint, weights);
  if (checkpoint.container == Container::llmc_packed) checkpoint.tensors = group_packed_parts(weights.metadata, weights.tensors, checkpoint.files.empty() ? directory.string() : checkpoint.files[0].path().string());
  for (const auto& [name, view] : weights.tensors) checkpoint.tensors.push_back(make_plain(name, view, weights.copies));
  if (!weights.copies.empty()) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: is part of a quantized weight and does not lie row by row in its file", directory.string(), weights.copies.begin()->first));
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  check_groups(checkpoint);
  return checkpoint;
}

}  // namespace llmc
