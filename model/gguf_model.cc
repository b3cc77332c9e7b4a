#include "model/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/suggest.h"
#include "formats/codecs/gguf_codecs.h"
#include "model/gguf_config.h"
#include "model/gguf_rope.h"

namespace llmc {
namespace {

/// By role, of those that GGUF files have: names without .weight or .bias; {} is the number of the block. Source: gguf-py's constants.py (TENSOR_NAMES).
constexpr std::array role_names = {"token_embd", "position_embd", "blk.{}.attn_norm", "blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v", "blk.{}.attn_qkv", "blk.{}.attn_q_norm", "blk.{}.attn_k_norm", "blk.{}.attn_output", "blk.{}.post_attention_norm", "blk.{}.ffn_norm", "blk.{}.ffn_gate", "blk.{}.ffn_up", "blk.{}.ffn_up", "blk.{}.ffn_down", "blk.{}.post_ffw_norm", "blk.{}.ffn_gate_inp", "blk.{}.ffn_gate.{}", "blk.{}.ffn_up.{}", "blk.{}.ffn_down.{}", "blk.{}.ffn_gate_inp_shexp", "blk.{}.ffn_gate_shexp", "blk.{}.ffn_up_shexp", "blk.{}.ffn_down_shexp", "token_embd_norm", "output_norm", "output"};

const Architecture& find_architecture(const GgufMetadata& metadata) {
  const std::string& name = metadata.get_string("general.architecture");
  std::vector<std::string> names;
  for (const Architecture& architecture : architecture_list()) {
    if (!architecture.gguf.name) continue;
    if (architecture.gguf.name == name) return architecture;
    names.push_back(architecture.gguf.name);
  }
  throw Error(ErrorKind::input, fmt::format("{}: key general.architecture: \"{}\" is not supported{}; `llmc list` names the architectures", metadata.where(), name, did_you_mean(name, names)));
}

/// config.json's word for what most weights are.
std::string_view name_dtype(const Checkpoint& checkpoint) {
  std::map<DType, int64_t> counts;
  for (const StoredTensor& tensor : checkpoint.tensors) counts[tensor.dtype] += tensor.count();
  const auto most = std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  return get_info(most == counts.end() ? DType::f32 : most->first).torch_name;
}

/// Row r of the logical matrix lies in the file at this row: head h, half s, place i of it goes to h, i, s.
std::vector<int32_t> paired_rows(int64_t rows, int64_t head_dim) {
  std::vector<int32_t> order(static_cast<size_t>(rows));
  const int64_t half = head_dim / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / head_dim, side = r % head_dim / half, place = r % half;
    order[static_cast<size_t>(r)] = static_cast<int32_t>(head * head_dim + 2 * place + side);
  }
  return order;
}

/// The same of a matrix whose rows are groups of queries, key and value, and in the file all queries, all keys, all values.
std::vector<int32_t> ungrouped_rows(const ModelConfig& config) {
  ModelConfig parts = config;
  parts.fused_order = FusedOrder::parts;
  std::vector<int32_t> order(static_cast<size_t>(config.query_width() + 2 * config.kv_width()));
  const auto place = [&](int64_t from, int64_t to) {
    for (int64_t i = 0; i < config.head_dim; ++i) order[static_cast<size_t>(from + i)] = static_cast<int32_t>(to + i);
  };
  for (int64_t head = 0; head < config.heads; ++head) place(config.fused_query(head), parts.fused_query(head));
  for (int64_t head = 0; head < config.kv_heads; ++head) place(config.fused_key(head), parts.fused_key(head)), place(config.fused_value(head), parts.fused_value(head));
  return order;
}

/// Where each row of the logical matrix lies in the file; empty where they are the same, and where the sizes make no sense, which
/// is for others to report.
std::vector<int32_t> rows_in_file(const Architecture& architecture, const ModelConfig& config, Role role, int64_t rows) {
  if (rows > INT32_MAX) return {};
  const auto is_size = [&](int64_t size) { return size > 0 && size <= rows; };
  if (!is_size(config.head_dim)) return {};
  if ((role == Role::query || role == Role::key) && architecture.gguf.rotary == GgufRotary::pairs && config.head_dim % 2 == 0 && rows % config.head_dim == 0) return paired_rows(rows, config.head_dim);
  if (role != Role::query_key_value || config.fused_order != FusedOrder::groups || !is_size(config.heads) || !is_size(config.kv_heads) || config.heads % config.kv_heads != 0) return {};
  return rows == config.query_width() + 2 * config.kv_width() ? ungrouped_rows(config) : std::vector<int32_t>();
}

int64_t rows_of(const StoredTensor& tensor, Part part) { return part == Part::bias ? tensor.count() : tensor.rows(); }

void add_to_values(StoredTensor& tensor, double offset) {
  Matrix values = read_matrix(tensor);
  for (float& value : values.values()) value += static_cast<float>(offset);
  tensor.dtype = DType::f32;
  tensor.form = make_floats(tensor, values.view());
}

}  // namespace

std::string gguf_tensor_name(const TensorRow& row, int64_t block, Part part, int64_t expert) {
  const char* name = row.gguf_name ? row.gguf_name : role_names[static_cast<size_t>(row.role)];
  return fmt::format(fmt::runtime(name), block, expert) + (part == Part::bias ? ".bias" : ".weight");
}

std::string gguf_tensor_name(const PlacedTensor& placed) { return gguf_tensor_name(*placed.row, placed.block, placed.part, placed.expert); }

double gguf_offset(const Architecture& architecture, const TensorRow& row, Part part) { return row.kind == TensorKind::norm && part == Part::weight ? architecture.norm_offset : 0; }

void adopt_gguf(Checkpoint& checkpoint) {
  const Architecture& architecture = find_architecture(*checkpoint.gguf);
  GgufConfig read = read_gguf_config(checkpoint, architecture);
  checkpoint.config = std::move(read.config);
  if (architecture.positions == Positions::rope) std::erase_if(checkpoint.tensors, [](const StoredTensor& tensor) { return tensor.name == gguf_rope_factors_name; });  // the config says it now
  checkpoint.config["dtype"] = name_dtype(checkpoint);

  std::map<std::string, StoredTensor*> by_name;
  for (StoredTensor& tensor : checkpoint.tensors) by_name[tensor.name] = &tensor;
  const auto place = [&](const TensorRow& row, int64_t block, Part part) {
    const auto found = by_name.find(gguf_tensor_name(row, block, part));
    if (found == by_name.end()) return;  // what is missing is reported with the other tensors' problems
    StoredTensor& tensor = *found->second;
    tensor.name = (block < 0 ? std::string(row.name) : fmt::format(fmt::runtime(row.name), block)) + (part == Part::bias ? ".bias" : ".weight");
    if (auto order = rows_in_file(architecture, read.facts, row.role, rows_of(tensor, part)); !order.empty()) set_row_order(tensor, std::move(order));
    if (row.kind == TensorKind::conv1d && part == Part::weight && tensor.shape.size() == 2) set_transposed(tensor);
    if (const double offset = gguf_offset(architecture, row, part); offset != 0 && tensor.shape.size() == 1) add_to_values(tensor, -offset);
  };
  for (const TensorRow& row : architecture.tensors) {
    if (!is_there(row, read.facts)) continue;
    if (row.each) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: norms of each head's own (qk_layernorm) are not read from GGUF files", checkpoint.directory.string(), gguf_tensor_name(row, 0, Part::weight)));
    const int64_t first = is_outer(row) ? -1 : 0, last = is_outer(row) ? 0 : std::min<int64_t>(read.facts.layers, std::ssize(checkpoint.tensors));
    for (int64_t block = first; block < last; ++block)
      for (Part part : {Part::weight, Part::bias}) place(row, block, part);
  }
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  const auto twice = std::ranges::adjacent_find(checkpoint.tensors, {}, &StoredTensor::name);
  if (twice != checkpoint.tensors.end()) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: is there under this name, and as llama.cpp calls it", checkpoint.directory.string(), twice->name));
}

std::vector<int32_t> gguf_source_rows(const Model& model, const PlacedTensor& placed) {
  const std::vector<int32_t> stored = rows_in_file(model.architecture(), model.config(), placed.row->role, rows_of(*placed.tensor, placed.part));
  std::vector<int32_t> source(stored.size());
  for (size_t r = 0; r < stored.size(); ++r) source[static_cast<size_t>(stored[r])] = static_cast<int32_t>(r);
  return source;
}

MixFacts gguf_mix_facts(const Model& model, MixImportance importance) {
  const ModelConfig& config = model.config();
  const GgufArchitecture& gguf = model.architecture().gguf;
  return {.layers = config.layers, .heads = config.heads, .kv_heads = config.kv_heads, .large = gguf.large, .family = gguf.mix, .importance = importance};
}

}  // namespace llmc
