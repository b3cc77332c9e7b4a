#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/pattern.h"
#include "core/suggest.h"
#include "model/expected_tensors.h"
#include "model/gguf_model.h"

namespace llmc {
namespace {

bool same_values(const StoredTensor& a, const StoredTensor& b) {
  const auto* left = find_floats(a);
  const auto* right = find_floats(b);
  return left && right && a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(left->bytes(), right->bytes());
}

bool is_buffer(const Architecture& architecture, const std::string& name) {
  return std::ranges::any_of(architecture.buffers, [&](const char* pattern) { return Pattern(pattern).matches(name); });
}

/// A head beside a tied embedding must be its copy, and is dropped; a head that is the only copy serves as the embedding.
void settle_tied_head(Checkpoint& checkpoint, const std::string& embedding_name, const std::string& head_name, Problems& problems) {
  auto& tensors = checkpoint.tensors;
  const auto head = std::ranges::find(tensors, head_name, &StoredTensor::name);
  const auto embedding = std::ranges::find(tensors, embedding_name, &StoredTensor::name);
  if (head == tensors.end() || embedding == tensors.end()) return;
  if (!same_values(*head, *embedding)) {
    problems.add(fmt::format("tensor {}: config.json says tie_word_embeddings, but its values differ from {}", head_name, embedding_name));
    return;
  }
  checkpoint.notices.push_back(fmt::format("{} is a copy of the tied {} and is stored once from here on", head_name, embedding_name));
  tensors.erase(head);
}

std::string check_tensor(const StoredTensor& tensor, const ExpectedTensor& expected) {
  const bool transposed = expected.row->kind == TensorKind::conv1d && expected.part == Part::weight;
  if (tensor.shape != expected.shape) return fmt::format("tensor {}: expected shape {}, found {}", tensor.name, to_string(expected.shape), to_string(tensor.shape));
  if (!is_weight_float(tensor.dtype)) return fmt::format("tensor {}: expected a float type, found {}", tensor.name, get_info(tensor.dtype).name);
  const bool is_encoded = std::holds_alternative<EncodedData>(tensor.form);
  if (is_encoded && tensor.transposed != transposed) return fmt::format("tensor {}: stored as {}, but the architecture has it {}", tensor.name, tensor.transposed ? "transposed" : "not transposed", transposed ? "transposed" : "not transposed");
  return "";
}

/// The name a checkpoint without the usual prefix gives the tensor.
std::string without_prefix(const Architecture& architecture, const std::string& name) {
  const std::string_view prefix = architecture.prefix;
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

}  // namespace

Model place_tensors(Checkpoint opened, const std::set<std::string>& ignored) {
  Model model;
  model.checkpoint_ = std::make_unique<Checkpoint>(std::move(opened));
  Checkpoint& checkpoint = *model.checkpoint_;
  const std::string config_path = checkpoint.config_name();
  if (checkpoint.gguf && checkpoint.config.empty()) adopt_gguf(checkpoint);
  FieldReader fields(checkpoint.config, config_path);
  const Architecture& architecture = get_architecture(fields.get_string("model_type"), config_path);
  model.architecture_ = &architecture;
  model.config_ = read_config(checkpoint.config, architecture, ignored, config_path);

  const int64_t experts = std::max<int64_t>(model.config_.experts, 1), norms = model.config_.own_head_norms ? model.config_.heads : 1;
  if (model.config_.layers > static_cast<int64_t>(checkpoint.tensors.size()) / experts / norms)  // before a list of that length fills the memory
    throw Error(ErrorKind::input, fmt::format("{}: asks for {} blocks{}{}, but the checkpoint holds {} tensors", config_path, model.config_.layers, experts > 1 ? fmt::format(" of {} experts", experts) : "", norms > 1 ? fmt::format(" of {} heads with norms", norms) : "", checkpoint.tensors.size()));
  std::vector<ExpectedTensor> expected = list_expected_tensors(architecture, model.config_);
  const auto is_stored = [&](const std::string& name) { return std::ranges::find(checkpoint.tensors, name, &StoredTensor::name) != checkpoint.tensors.end(); };
  const bool has_prefix = std::ranges::any_of(checkpoint.tensors, [&](const StoredTensor& tensor) { return tensor.name.starts_with(architecture.prefix); });
  if (!has_prefix)
    for (ExpectedTensor& item : expected) item.name = without_prefix(architecture, item.name);

  model.ignored_config_fields_ = ignored;
  model.origin_.blocks.resize(static_cast<size_t>(model.config_.layers));
  std::iota(model.origin_.blocks.begin(), model.origin_.blocks.end(), 0);
  Problems problems;
  const auto embedding = std::ranges::find(expected, Role::token_embedding, [](const ExpectedTensor& e) { return e.row->role; });
  const auto head = std::ranges::find(expected, Role::output_head, [](const ExpectedTensor& e) { return e.row->role; });
  if (model.config_.tied_head) {
    settle_tied_head(checkpoint, embedding->name, head->name, problems);
    if (!is_stored(embedding->name) && is_stored(head->name)) embedding->name = head->name;
    expected.erase(head);
  }

  std::erase_if(checkpoint.tensors, [&](const StoredTensor& tensor) { return is_buffer(architecture, tensor.name); });
  std::map<std::string, StoredTensor*> by_name;
  for (StoredTensor& tensor : checkpoint.tensors) by_name[tensor.name] = &tensor;
  std::vector<std::string> missing_names;
  for (const ExpectedTensor& item : expected) {
    const auto node = by_name.extract(item.name);
    if (node.empty()) {
      missing_names.push_back(item.name);
      continue;
    }
    StoredTensor* tensor = node.mapped();
    if (const std::string problem = check_tensor(*tensor, item); !problem.empty()) problems.add(problem);
    tensor->transposed = item.row->kind == TensorKind::conv1d && item.part == Part::weight;
    model.placed_.push_back({item.row, item.part, item.block, tensor, item.expert});
    model.index_[{item.row->role, item.block, item.part, item.expert}] = tensor;
  }
  std::vector<std::string> surplus_names;
  for (const auto& [name, tensor] : by_name) surplus_names.push_back(name);
  for (const std::string& name : missing_names) problems.add(problems.is_full() ? "" : fmt::format("tensor {}: missing{}", name, did_you_mean(name, surplus_names)));
  for (const std::string& name : surplus_names) problems.add(fmt::format("tensor {}: found, but {} has no such tensor", name, architecture.causal_class));
  problems.throw_if_any(ErrorKind::input, checkpoint.directory.string());
  if (model.config_.tied_head) model.index_[{Role::output_head, -1, Part::weight, -1}] = model.index_.at({Role::token_embedding, -1, Part::weight, -1});
  return model;
}

const StoredTensor* Model::find(Role role, int64_t block, Part part, int64_t expert) const {
  const auto it = index_.find({role, block, part, expert});
  return it == index_.end() ? nullptr : it->second;
}

const StoredTensor& Model::get(Role role, int64_t block, Part part, int64_t expert) const {
  const StoredTensor* tensor = find(role, block, part, expert);
  if (!tensor) throw Error(ErrorKind::bug, fmt::format("block {} has no {}", block, to_string(role)));
  return *tensor;
}

int64_t Model::parameters() const {
  int64_t count = 0;
  for (const PlacedTensor& placed : placed_) count += placed.tensor->count();
  return count;
}

int64_t source_block(const Origin& origin, int64_t block) { return block < 0 ? block : origin.blocks[static_cast<size_t>(block)]; }

bool is_vector(const PlacedTensor& placed) { return placed.part == Part::bias || placed.row->kind == TensorKind::norm; }

bool is_block_linear(const PlacedTensor& placed) {
  return placed.part == Part::weight && placed.block >= 0 && (placed.row->kind == TensorKind::linear || placed.row->kind == TensorKind::conv1d);
}

namespace {

/// Position of the first NaN or infinity, or -1.
int64_t find_non_finite(DType dtype, std::span<const std::byte> bytes) {
  const size_t size = get_info(dtype).bytes, count = bytes.size() / size;
  if (dtype == DType::f64) {  // what f32 cannot hold is infinite, too
    for (size_t i = 0; i < count; ++i) {
      float value = 0;
      decode_floats(dtype, bytes.subspan(8 * i, 8), {&value, 1});
      if (!std::isfinite(value)) return static_cast<int64_t>(i);
    }
    return -1;
  }
  const uint32_t exponent = dtype == DType::f32 ? 0x7f800000u : dtype == DType::bf16 ? 0x7f80u : dtype == DType::f16 ? 0x7c00u : dtype == DType::f8_e5m2 ? 0x7cu : 0x7fu;  // E4M3 has a NaN only
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * size, size);
    if ((bits & exponent) == exponent) return static_cast<int64_t>(i);
  }
  return -1;
}

std::string describe_non_finite(DType dtype, std::span<const std::byte> bytes, int64_t at) {
  double value = NAN;
  if (dtype == DType::f64) std::memcpy(&value, bytes.data() + 8 * at, sizeof value);
  return std::isfinite(value) ? fmt::format("is {}, which is beyond f32", value) : "is NaN or infinite";
}

/// What is wrong with a tensor that has to be decoded, or nothing.
std::string find_wrong_values(const StoredTensor& tensor) {
  try {
    const Matrix values = read_matrix(tensor);
    const bool is_finite = std::ranges::all_of(values.values(), [](float v) { return std::isfinite(v); });
    return is_finite ? "" : fmt::format("tensor {}: decodes to NaN or infinity; expected finite weights", tensor.name);
  } catch (const Error& problem) {  // the list of them says which checkpoint it is
    if (problem.kind() != ErrorKind::input) throw;
    return problem.what();
  }
}

}  // namespace

void check_finite(const Model& model, const RunContext& context) {
  std::vector<std::string> found(model.tensors().size());  // by tensor, so that the list has one order
  Stage stage(context, "check", static_cast<int64_t>(found.size()));
  parallel_for(static_cast<int64_t>(found.size()), [&](int64_t i) {
    const StoredTensor& tensor = *model.tensors()[static_cast<size_t>(i)].tensor;
    std::string& problem = found[static_cast<size_t>(i)];
    if (const auto* floats = find_floats(tensor)) {
      const int64_t at = find_non_finite(tensor.dtype, floats->bytes());
      if (at >= 0) problem = fmt::format("tensor {}: element {} {}; expected finite weights", tensor.name, at, describe_non_finite(tensor.dtype, floats->bytes(), at));
    } else {
      problem = find_wrong_values(tensor);
    }
    model.checkpoint().release_pages_after(tensor);
    stage.advance();
  });
  model.checkpoint().release_pages();
  Problems problems;
  for (std::string& problem : found)
    if (!problem.empty()) problems.add(std::move(problem));
  problems.throw_if_any(ErrorKind::input, model.checkpoint().directory.string());
}

Model load_model(const std::filesystem::path& directory, const std::set<std::string>& ignored_config_fields, const RunContext& context) {
  Model model = place_tensors(open_checkpoint(directory), ignored_config_fields);
  for (const std::string& notice : model.checkpoint().notices) context.sink.info(notice);
  check_finite(model, context);
  return model;
}

}  // namespace llmc
