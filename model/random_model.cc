#include "model/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/random.h"
#include "model/expected_tensors.h"

namespace llmc {
namespace {

DType find_weight_type(const nlohmann::json& config, const std::string& where) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!config.contains(key)) continue;
    for (const DTypeInfo& info : dtype_list())
      if (config.at(key) == info.torch_name && (info.dtype == DType::f32 || info.dtype == DType::f16 || info.dtype == DType::bf16)) return info.dtype;
    throw Error(ErrorKind::input, fmt::format("{}: {}: expected float32, float16 or bfloat16, found {}", where, key, config.at(key).dump()));
  }
  return DType::f32;
}

}  // namespace

Model make_random_model(const std::filesystem::path& config_file, uint64_t seed, const std::set<std::string>& ignored_config_fields) {
  const std::string where = config_file.string();
  Checkpoint checkpoint;
  checkpoint.directory = config_file.parent_path();
  checkpoint.config = parse_json(read_text_file(config_file), where);
  FieldReader fields(checkpoint.config, where);
  const Architecture& architecture = get_architecture(fields.get_string("model_type"), where);
  const ModelConfig config = read_config(checkpoint.config, architecture, ignored_config_fields, where);
  const double deviation = fields.find_number("initializer_range").value_or(0.02);
  if (!(deviation > 0 && deviation <= 10)) throw Error(ErrorKind::input, fmt::format("{}: initializer_range: expected 0 to 10, found {}", where, deviation));
  const DType dtype = find_weight_type(checkpoint.config, where);
  constexpr int64_t most_blocks = 10'000;
  if (config.layers > most_blocks) throw Error(ErrorKind::input, fmt::format("{}: asks for {} blocks; expected at most {}", where, config.layers, most_blocks));
  constexpr int64_t most_experts = 1'000'000;
  if (config.layers * config.experts > most_experts) throw Error(ErrorKind::input, fmt::format("{}: asks for {} blocks of {} experts; expected at most {} together", where, config.layers, config.experts, most_experts));
  if (config.own_head_norms && config.layers * config.heads > most_experts) throw Error(ErrorKind::input, fmt::format("{}: asks for {} blocks of {} heads with norms; expected at most {} together", where, config.layers, config.heads, most_experts));
  for (const ExpectedTensor& expected : list_expected_tensors(architecture, config))
    if (!config.tied_head || expected.row->role != Role::output_head) checkpoint.tensors.push_back({.name = expected.name, .dtype = dtype, .shape = expected.shape});
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  Model model = place_tensors(std::move(checkpoint), ignored_config_fields);
  parallel_for(static_cast<int64_t>(model.tensors().size()), [&](int64_t i) {
    const PlacedTensor& placed = model.tensors()[static_cast<size_t>(i)];
    StoredTensor& tensor = *placed.tensor;
    Matrix values(tensor.rows(), tensor.cols());
    Random random(seed, "weights of " + tensor.name);
    for (float& value : values.values()) value = placed.part == Part::bias ? 0 : placed.row->kind == TensorKind::norm ? 1 : static_cast<float>(deviation * random.normal());
    tensor.form = make_floats(tensor, values.view());
  });
  return model;
}

}  // namespace llmc
