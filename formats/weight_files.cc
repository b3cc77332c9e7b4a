#include "formats/weight_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/shown.h"
#include "core/side_file.h"
#include "formats/pytorch_file.h"
#include "formats/safetensors.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// One file's tensors; what they borrow beside the file is kept in `weights`.
using Parse = std::vector<NamedTensor> (*)(const MappedFile& file, WeightFiles& weights);

std::vector<NamedTensor> parse_safetensors_file(const MappedFile& file, WeightFiles& weights) {
  SafetensorsContent content = parse_safetensors(file.bytes(), file.path().string());
  if (weights.metadata.empty()) weights.metadata = std::move(content.metadata);
  return std::move(content.tensors);
}

std::vector<NamedTensor> parse_pytorch_file(const MappedFile& file, WeightFiles& weights) {
  PytorchContent content = parse_pytorch(file.bytes(), file.path().string());
  weights.copies.merge(content.copies);
  return std::move(content.tensors);
}

struct FileKind {
  const char* name;
  bool is_index;
  Parse parse;
};

/// In the order in which transformers looks for them.
constexpr std::array file_kinds = {
    FileKind{weights_file_name, false, parse_safetensors_file},
    FileKind{weights_index_name, true, parse_safetensors_file},
    FileKind{"pytorch_model.bin", false, parse_pytorch_file},
    FileKind{"pytorch_model.bin.index.json", true, parse_pytorch_file},
};

bool is_plain_file_name(const std::string& name) {
  const bool has_control = std::ranges::any_of(name, [](char letter) { return static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f; });
  return !name.empty() && !has_control && name == fs::path(name).filename() && name != "." && name != "..";
}

/// Shard file name of each tensor, from the index.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const json index = parse_json(read_text_file(path), path.string());
  FieldReader fields(index, path.string());
  const json* weight_map = fields.find("weight_map");
  if (!weight_map) throw Error(ErrorKind::input, fmt::format("{}: field \"weight_map\" is missing", path.string()));
  if (!weight_map->is_object()) throw Error(ErrorKind::input, fmt::format("{}: field \"weight_map\": expected an object, found {}", path.string(), shown(weight_map->dump())));
  std::map<std::string, std::string> shards;
  Problems problems;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get<std::string>()))
      problems.add(fmt::format("tensor {}: shard {} is not a plain file name", shown(tensor), shown(shard.dump())));
    else
      shards[tensor] = shard.get<std::string>();
  }
  problems.throw_if_any(ErrorKind::input, path.string());
  return shards;
}

void read_shards(const fs::path& index_path, Parse parse, WeightFiles& weights) {
  const std::map<std::string, std::string> index = read_index(index_path);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index) shards.insert(shard);
  weights.files.reserve(shards.size());
  Problems problems;
  for (const std::string& shard : shards) {
    try {
      weights.files.emplace_back(index_path.parent_path() / shard);
      for (NamedTensor& entry : parse(weights.files.back(), weights)) {
        const auto listed = index.find(entry.name);
        if (listed == index.end())
          problems.add(fmt::format("tensor {}: found in {}, but the index does not list it", entry.name, shard));
        else if (listed->second != shard)
          problems.add(fmt::format("tensor {}: the index expects it in {}, found in {}", entry.name, listed->second, shard));
        else
          weights.tensors[entry.name] = std::move(entry.tensor);
      }
    } catch (const Error& problem) {
      problems.add(problem.what());
    }
  }
  if (problems.empty())
    for (const auto& [tensor, shard] : index)
      if (!weights.tensors.contains(tensor)) problems.add(fmt::format("tensor {}: the index expects it in {}, not found", tensor, shard));
  problems.throw_if_any(ErrorKind::input, index_path.string());
}

}  // namespace

WeightFiles open_weight_files(const fs::path& directory) {
  WeightFiles weights;
  const FileKind* chosen = nullptr;
  for (const FileKind& kind : file_kinds) {
    if (!has_entry(directory / kind.name)) continue;
    if (chosen) weights.notices.push_back(fmt::format("{}: both {} and {} are there; the first is read, as transformers does", directory.string(), chosen->name, kind.name));
    else chosen = &kind;
  }
  if (!chosen) throw Error(ErrorKind::input, fmt::format("{}: expected {}, {}, {} or {}, found none of them", directory.string(), file_kinds[0].name, file_kinds[1].name, file_kinds[2].name, file_kinds[3].name));
  const fs::path path = directory / chosen->name;
  if (chosen->is_index) {
    read_shards(path, chosen->parse, weights);
  } else {
    weights.files.emplace_back(path);
    for (NamedTensor& entry : chosen->parse(weights.files[0], weights)) weights.tensors[entry.name] = std::move(entry.tensor);
  }
  return weights;
}

}  // namespace llmc
