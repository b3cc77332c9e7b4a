#include "model/expected_tensors.h"

#include <fmt/format.h>

namespace llmc {
namespace {

bool has_bias(const TensorRow& row, const ModelConfig& config) {
  switch (row.bias) {
    case Bias::never: return false;
    case Bias::always: return true;
    case Bias::if_attention_bias: return config.attention_bias;
    case Bias::if_ffn_bias: return config.ffn_bias;
  }
  return false;
}

Shape expected_shape(const TensorRow& row, Part part, const ModelConfig& config) {
  const int64_t out = get_size(row.out, config);
  if (part == Part::bias || row.kind == TensorKind::norm) return {out};
  const int64_t in = get_size(row.in, config);
  return row.kind == TensorKind::conv1d ? Shape{in, out} : Shape{out, in};
}

}  // namespace

std::vector<ExpectedTensor> list_expected_tensors(const Architecture& architecture, const ModelConfig& config) {
  std::vector<ExpectedTensor> expected;
  const auto add_one = [&](const TensorRow& row, int64_t block, int64_t expert) {
    const std::string name = is_outer(row) ? row.name : fmt::format(fmt::runtime(row.name), block, expert);
    expected.push_back({&row, Part::weight, block, name + ".weight", expected_shape(row, Part::weight, config), expert});
    if (has_bias(row, config)) expected.push_back({&row, Part::bias, block, name + ".bias", expected_shape(row, Part::bias, config), expert});
  };
  const auto add = [&](const TensorRow& row, int64_t block) {
    if (!is_there(row, config)) return;
    const auto each = is_of_each_expert(row.role) ? &ModelConfig::experts : row.each;
    if (!each) return add_one(row, block, -1);
    for (int64_t number = 0; number < config.*each; ++number) add_one(row, block, number);
  };
  for (const TensorRow& row : architecture.tensors)
    if (is_outer(row)) add(row, -1);
  for (int64_t block = 0; block < config.layers; ++block)
    for (const TensorRow& row : architecture.tensors)
      if (!is_outer(row)) add(row, block);
  return expected;
}

}  // namespace llmc
