// Owns what a teacher said of samples, kept in a file: of each token the likeliest next tokens and their probabilities.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/mapped_file.h"
#include "passes/teacher.h"

namespace llmc {

struct SoftTargetOptions {
  int64_t top = 32;        ///< tokens that are named
  double temperature = 2;  ///< of the probabilities
};

/// Runs the teacher over the samples, one after the other. The file is safetensors, rows are the tokens of the samples in order:
/// `indices` i32 [tokens, top], likeliest first; `log_probabilities` f32 [tokens, top]; `rest` f32 [tokens], what is left of 1.
void write_soft_targets(const std::filesystem::path& file, Teacher& teacher, const Sequences& samples, const SoftTargetOptions& options, const RunContext& context);

/// Teaches what such a file says.
class KeptTargets final : public Teacher {
 public:
  /// Throws Error(input) for a damaged file, Error(usage) when it was made for other samples or another temperature.
  KeptTargets(const std::filesystem::path& file, const Sequences& samples, double temperature);

  int64_t vocabulary() const override { return vocabulary_; }
  Targets kind() const override { return Targets::top; }
  TrainableHead::Teacher look_at(const Batch& batch) override;

 private:
  MappedFile file_;
  std::span<const int32_t> indices_;
  std::span<const float> log_probabilities_;
  int64_t vocabulary_ = 0, top_ = 0;
  std::vector<int64_t> first_tokens_;  ///< of each sample
  std::vector<int64_t> row_tokens_;    ///< of the batch: which token is in a row, or −1
};

}  // namespace llmc
