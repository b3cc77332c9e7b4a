// Owns a loaded model: a checkpoint whose every tensor has a role, with nothing missing and nothing over.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/run_context.h"
#include "formats/checkpoint.h"
#include "model/architecture.h"
#include "model/config.h"

namespace llmc {

enum class Part { weight, bias };

/// A tensor in its place. `block` is −1 outside the blocks; `expert` is the number of the expert, or of the head (TensorRow::each), that it
/// is of, −1 where it is of no single one.
struct PlacedTensor {
  const TensorRow* row = nullptr;
  Part part = Part::weight;
  int64_t block = -1;
  StoredTensor* tensor = nullptr;
  int64_t expert = -1;
};

/// Where the parts of a model that was cut down came from.
struct Origin {
  std::vector<int64_t> blocks;  ///< of each block: its number in the source, or one below −1 of its own when it is from no block there
  std::vector<int32_t> tokens;  ///< of each token: its id in the source; empty when they are the same
};

class Model {
 public:
  const Architecture& architecture() const { return *architecture_; }
  const ModelConfig& config() const { return config_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  Checkpoint& checkpoint() { return *checkpoint_; }

  /// Every tensor, outer ones first, then block by block in the order of the rows. A tied head is not listed.
  const std::vector<PlacedTensor>& tensors() const { return placed_; }
  /// nullptr when the model has none (no bias, no gate, …). A tied head finds the embedding.
  const StoredTensor* find(Role role, int64_t block = -1, Part part = Part::weight, int64_t expert = -1) const;
  const StoredTensor& get(Role role, int64_t block = -1, Part part = Part::weight, int64_t expert = -1) const;
  const Origin& origin() const { return origin_; }
  void set_origin(Origin origin) { origin_ = std::move(origin); }
  /// Fields of config.json that the user vouched for.
  const std::set<std::string>& ignored_config_fields() const { return ignored_config_fields_; }
  /// Count of weights, a tied matrix counted once.
  int64_t parameters() const;

 private:
  friend Model place_tensors(Checkpoint, const std::set<std::string>&);
  const Architecture* architecture_ = nullptr;
  ModelConfig config_;
  Origin origin_;
  std::set<std::string> ignored_config_fields_;
  std::unique_ptr<Checkpoint> checkpoint_;  // stays put when the model moves: tensors are pointed to
  std::vector<PlacedTensor> placed_;
  std::map<std::tuple<Role, int64_t, Part, int64_t>, StoredTensor*> index_;
};

/// The number that a block has in the source; −1 for −1.
int64_t source_block(const Origin& origin, int64_t block);

/// A linear weight inside a block, but no router: what quantization and pruning work on.
bool is_block_linear(const PlacedTensor& placed);
/// A norm's weight or any bias: one value for each channel.
bool is_vector(const PlacedTensor& placed);

/// Gives every tensor its role and checks names, shapes and types, not values. Throws Error(input) that lists everything
/// missing, surplus or wrong.
Model place_tensors(Checkpoint checkpoint, const std::set<std::string>& ignored_config_fields);

/// Throws Error(input) that names every tensor with a NaN or an infinity.
void check_finite(const Model& model, const RunContext& context);

/// open_checkpoint, place_tensors and check_finite.
Model load_model(const std::filesystem::path& directory, const std::set<std::string>& ignored_config_fields, const RunContext& context);

}  // namespace llmc
