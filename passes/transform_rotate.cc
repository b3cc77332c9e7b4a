#include "passes/transform_rotate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "passes/rotation.h"

namespace llmc {

using nlohmann::json;

namespace {

enum class Space { values, residual, all };
constexpr std::array space_names = {"values", "residual", "all"};

Space parse_space(const std::string& text, const std::string& where) {
  const auto found = std::ranges::find(space_names, text);
  if (found == space_names.end()) throw Error(ErrorKind::usage, fmt::format("{}: rotation '{}' is not known; expected values, residual or all", where, text));
  return static_cast<Space>(found - space_names.begin());
}

/// Starts the residual stream or adds to it.
bool writes_residual(const TensorRow& row) { return row.kind == TensorKind::embedding || (row.kind != TensorKind::norm && row.out == Dimension::hidden); }

/// The norm whose output a linear layer reads; nothing for other roles.
std::optional<Role> norm_before(Role role) {
  switch (role) {
    case Role::query:
    case Role::key:
    case Role::value:
    case Role::query_key_value: return Role::attention_norm;
    case Role::ffn_gate:
    case Role::ffn_up:
    case Role::ffn_gate_up:
    case Role::router:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::shared_router:
    case Role::shared_gate:
    case Role::shared_up: return Role::ffn_norm;
    case Role::output_head: return Role::final_norm;
    default: return std::nullopt;
  }
}

/// The same where a model has one norm for both sublayers.
std::optional<Role> find_norm_before(const Model& model, int64_t block, Role role) {
  const auto norm = norm_before(role);
  return norm == Role::ffn_norm && !model.find(Role::ffn_norm, block) ? Role::attention_norm : norm;
}

bool is_constant(std::span<const float> values) { return std::ranges::all_of(values, [&](float value) { return value == values[0]; }); }

/// Calls body(matrix) for the tensors of a block whose row is wanted; the result stays unrounded.
void change_each(Model& model, int64_t block, Part part, auto&& wanted, auto&& body) {
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.block != block || placed.part != part || !wanted(*placed.row)) continue;
    Matrix values = read_matrix(*placed.tensor);
    body(values);
    placed.tensor->form = FloatData(std::move(values));
    placed.tensor->moved = true;
  }
}

class TransformRotate final : public Pass {
 public:
  TransformRotate(const json& step, const std::string& where) {
    FieldReader fields(step, where);
    fields.get_string("pass");
    space_ = parse_space(fields.get_string("space"), where);
    const int64_t seed = fields.find_int("seed").value_or(0);
    if (seed < 0) throw Error(ErrorKind::usage, fmt::format("{}: seed: expected a number from 0, found {}", where, seed));
    seed_ = static_cast<uint64_t>(seed);
    fields.finish();
  }

  json options() const override { return {{"pass", "transform.rotate"}, {"space", space_names[static_cast<size_t>(space_)]}, {"seed", seed_}}; }

  std::vector<Treatment> plan(const Model& model) const override {
    check(model);
    std::vector<Treatment> treatments;
    for (const PlacedTensor& placed : model.tensors())
      if (touches(placed)) treatments.push_back({&placed, "rotated", 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes)});
    return treatments;
  }

  json run(Model& model, const PassContext& context) override {
    check(model);
    Stage stage(context.run, "rotate", model.config().layers);
    const Rotation residual(model.config().norm == Norm::layer ? RotationKind::keep_mean : RotationKind::spread, model.config().hidden, seed_, "residual rotation");
    for (int64_t block = 0; block < model.config().layers; ++block) {
      if (space_ != Space::residual) rotate_values(model, block);
      if (space_ != Space::values) rotate_residual(model, block, residual);
      stage.advance();
    }
    if (space_ != Space::values) rotate_residual(model, -1, residual);
    return {{"space", space_names[static_cast<size_t>(space_)]}, {"residual_size", model.config().hidden}, {"value_size", model.config().head_dim}};
  }

 private:
  bool touches(const PlacedTensor& placed) const {
    const Role role = placed.row->role;
    const bool is_weight = placed.part == Part::weight;
    const bool in_values = role == Role::value || role == Role::query_key_value || (role == Role::attention_output && is_weight);
    const bool in_residual = is_hidden_norm(*placed.row) || writes_residual(*placed.row) || (norm_before(role) && is_weight);
    return (space_ != Space::residual && in_values) || (space_ != Space::values && in_residual);
  }

  /// Throws Error(usage) with every reason why the rotation would not be exact.
  void check(const Model& model) const {
    Problems problems;
    if (space_ != Space::values) check_residual(model, problems);
    for (const PlacedTensor& placed : model.tensors()) {
      if (!touches(placed)) continue;
      const StoredTensor& tensor = *placed.tensor;
      if (!std::holds_alternative<FloatData>(tensor.form)) problems.add(fmt::format("tensor {}: is already quantized; rotate before quantizing", tensor.name));
      else if (tensor.pruned) problems.add(fmt::format("tensor {}: is pruned, and a rotation would fill its zeros; rotate before pruning", tensor.name));
      else if (space_ != Space::values && is_hidden_norm(*placed.row) && placed.part == Part::weight) check_norm(model, placed, problems);
    }
    problems.throw_if_any(ErrorKind::usage, "transform.rotate");
  }

  /// Every norm of the residual stream must stand in front of linear layers alone.
  static void check_residual(const Model& model, Problems& problems) {
    for (const PlacedTensor& placed : model.tensors()) {
      const Role role = placed.row->role;
      if (role == Role::embedding_projection || role == Role::head_projection) problems.add(fmt::format("tensor {}: stands between embeddings and the residual stream; rotate values only", placed.tensor->name));
      if (placed.part == Part::weight && (role == Role::attention_output_norm || role == Role::ffn_output_norm || role == Role::embedding_norm))
        problems.add(fmt::format("tensor {}: is the weight of a norm behind which the residual stream goes on, and cannot be folded; rotate values only", placed.tensor->name));
    }
  }

  static void check_norm(const Model& model, const PlacedTensor& placed, Problems& problems) {
    const Matrix weight = read_matrix(*placed.tensor);
    const auto [least, most] = std::ranges::minmax(weight.values());
    if (model.find(placed.row->role, placed.block, Part::bias) && std::ranges::count(weight.values(), 0.0f) > 0)
      problems.add(fmt::format("tensor {}: holds zeros, through which its bias cannot be folded; rotate values only", placed.tensor->name));
    if (placed.row->role == Role::final_norm && model.config().tied_head && !is_constant(weight.values()))
      problems.add(fmt::format("tensor {}: its weights go from {} to {} and would have to move into the head, which is tied to the embedding; give --untie (in a recipe: untie_head: true), or rotate values only", placed.tensor->name, least, most));
  }

  void rotate_values(Model& model, int64_t block) const {
    const ModelConfig& config = model.config();
    const Rotation rotation(RotationKind::spread, config.head_dim, seed_, fmt::format("value rotation {}", block));
    const bool is_fused = model.find(Role::query_key_value, block) != nullptr;
    const auto first_row = [&](int64_t head) { return is_fused ? config.fused_value(head) : head * config.head_dim; };
    const auto each_head = [&](auto&& body) {
      for (int64_t head = 0; head < config.kv_heads; ++head) body(first_row(head));
    };
    const auto makes_values = [](const TensorRow& row) { return row.role == Role::value || row.role == Role::query_key_value; };
    change_each(model, block, Part::weight, makes_values, [&](Matrix& weight) { each_head([&](int64_t first) { rotate_outputs(weight.view().row_range(first, config.head_dim), rotation); }); });
    change_each(model, block, Part::bias, makes_values, [&](Matrix& bias) { each_head([&](int64_t first) { rotate_inputs(bias.view().column_range(first, config.head_dim), rotation); }); });
    change_each(model, block, Part::weight, [](const TensorRow& row) { return row.role == Role::attention_output; }, [&](Matrix& weight) { rotate_inputs(weight.view(), rotation); });
  }

  /// Block −1: embeddings, final norm and head.
  static void rotate_residual(Model& model, int64_t block, const Rotation& rotation) {
    change_each(model, block, Part::weight, [](const TensorRow& row) { return row.kind == TensorKind::embedding; }, [&](Matrix& table) { rotate_inputs(table.view(), rotation); });
    const auto adds = [](const TensorRow& row) { return row.kind != TensorKind::embedding && writes_residual(row); };
    change_each(model, block, Part::weight, adds, [&](Matrix& weight) { rotate_outputs(weight.view(), rotation); });
    change_each(model, block, Part::bias, adds, [&](Matrix& bias) { rotate_inputs(bias.view(), rotation); });
    for (Role norm : {Role::attention_norm, Role::ffn_norm, Role::final_norm})
      if (model.find(norm, block)) fold_norm(model, norm, block, rotation);
  }

  /// The normalized stream z becomes R·z:  W·(g∘z + b) = (W·diag(g)·Rᵀ)·(1∘R·z + R·(b/g)). Where all g are equal they stay in
  /// the norm, so that a tied head can stay tied.
  static void fold_norm(Model& model, Role norm, int64_t block, const Rotation& rotation) {
    const auto is_this = [&](const TensorRow& row) { return row.role == norm; };
    const auto offset = static_cast<float>(model.config().norm_offset);
    Matrix gain = read_matrix(model.get(norm, block));
    for (float& value : gain.values()) value += offset;
    if (is_constant(gain.values())) std::ranges::fill(gain.values(), 1.0f);
    else change_each(model, block, Part::weight, is_this, [&](Matrix& weight) { std::ranges::fill(weight.values(), 1 - offset); });
    change_each(model, block, Part::bias, is_this, [&](Matrix& bias) {
      for (size_t c = 0; c < bias.values().size(); ++c) bias.values()[c] /= gain.values()[c];
      rotate_inputs(bias.view(), rotation);
    });
    change_each(model, block, Part::weight, [&](const TensorRow& row) { return find_norm_before(model, block, row.role) == norm; }, [&](Matrix& weight) {
      for (int64_t r = 0; r < weight.rows(); ++r)
        for (int64_t c = 0; c < weight.cols(); ++c) weight.row(r)[c] *= gain.values()[static_cast<size_t>(c)];
      rotate_inputs(weight.view(), rotation);
    });
  }

  Space space_ = Space::values;
  uint64_t seed_ = 0;
};

}  // namespace

std::unique_ptr<Pass> make_transform_rotate(const json& step, const std::string& where) { return std::make_unique<TransformRotate>(step, where); }

}  // namespace llmc
