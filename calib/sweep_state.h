// Owns what a sweep keeps on disk: the weights of finished blocks, and all that a run needs to go on after a kill.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "calib/activation_store.h"
#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// Whether the state outlives the process.
enum class Persistence {
  scratch,    ///< only the weights of finished blocks, so that they need no memory; of use to this process alone
  resumable,  ///< also both activation chains, so that another process can go on with the next block
};

/// A directory with, after block N: `block-N.safetensors` of each finished block (llmc's packed container),
/// `changed-N.bin` and `plain-N.bin` (both activation chains after block N), and `state.json`, which is renamed into place
/// when all of these are on the device: what it names is whole.
class SweepState {
 public:
  /// Makes the directory, or reads the state that is there. `signature` says what the result depends on; a resumable state
  /// with another one is refused (Error(usage) that names what differs), as is a directory with other things in it.
  SweepState(const std::filesystem::path& directory, Persistence persistence, nlohmann::json signature);

  /// Blocks that need not be done again.
  int64_t finished() const { return finished_; }
  const nlohmann::json& notes() const { return notes_; }

  /// Puts the weights of the finished blocks into the model, and the chains into the stores.
  void restore(Model& model, ActivationStore& changed, ActivationStore& plain);
  /// Writes a block that is done and lets the model borrow it from the file. `notes` come back from notes() later.
  void save(Model& model, int64_t block, const ActivationStore& changed, const ActivationStore& plain, nlohmann::json notes, const RunContext& context);

 private:
  std::filesystem::path block_file(int64_t block) const;
  std::filesystem::path chain_file(const char* chain, int64_t block) const;
  void adopt(Model& model, int64_t block) const;

  std::filesystem::path directory_;
  Persistence persistence_;
  nlohmann::json signature_;
  int64_t finished_ = 0;
  nlohmann::json notes_;
};

}  // namespace llmc
