// Owns the report: everything a run has to say, as data, as JSON (docs/report.md) and as JUnit XML.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "verify/choices.h"
#include "verify/gates.h"
#include "verify/product_speed.h"
#include "verify/quality.h"
#include "verify/tensor_errors.h"

namespace llmc {

constexpr int report_version = 1;

/// One tensor of the artifact.
struct TensorReport {
  std::string name;
  std::string role;
  int64_t block = -1;
  Shape shape;
  std::string treatment;   ///< "W4A16-g32-symmetric", "50 % zeros", "kept", …
  std::string codec;
  std::vector<std::pair<std::string_view, uint64_t>> candidates;  ///< codecs that could have stored it and their bytes, when there was a choice
  uint64_t source_bytes = 0;
  uint64_t bytes = 0;
  int64_t multiply_adds = 0;  ///< with each token, zeros included
  TensorError error;
  bool moved = false;      ///< scales or rotations were moved between tensors: its values compare with no source tensor's
};

/// Time and memory of a stage of the run.
struct StepReport {
  std::string name;
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;
  nlohmann::json details = nlohmann::json::object();  ///< what the pass has to say: tensors touched, sparsity reached, …
};

struct Report {
  std::string llmc_version;
  std::string source_path;
  std::string artifact_path;
  std::string architecture;
  std::string container;
  int64_t parameters = 0;                    ///< of the source
  int64_t multiply_adds = 0;                 ///< of the source's weights with each token
  uint64_t source_bytes = 0;                 ///< weight files of the source
  uint64_t artifact_bytes = 0;               ///< weight file of the artifact
  std::optional<uint64_t> dense_bytes;       ///< weight file with the zeros written out, when a packed codec saved them
  bool pruned = false;                       ///< a pass made zeros
  double sparsity = 0;                       ///< share of exact zeros over the weights that passes may treat
  std::vector<TensorReport> tensors;
  std::optional<Quality> quality;
  std::optional<OracleAgreement> oracle;
  ProductSpeeds products;
  std::vector<StepReport> steps;
  nlohmann::json recipe;
  nlohmann::json calibration;                ///< what was calibrated on, and its overlap with the evaluation data; null without
  std::vector<std::string> notes;            ///< choices the run made that the user should know of
  std::vector<Gate> gates;

  double ratio() const { return static_cast<double>(source_bytes) / static_cast<double>(artifact_bytes); }
  double bits_per_weight() const { return 8.0 * static_cast<double>(artifact_bytes) / static_cast<double>(parameters); }
  bool passed() const;
};

/// Bytes and weights of one role, summed over the model.
struct RoleSize {
  std::string role;
  int64_t tensors = 0;
  int64_t weights = 0;
  uint64_t source_bytes = 0;
  uint64_t bytes = 0;
};
std::vector<RoleSize> sizes_by_role(const Report& report);

/// Zeros of some tensors of the artifact.
struct ZeroCount {
  int64_t tensors = 0;
  int64_t weights = 0;
  int64_t zeros = 0;
  uint64_t bytes = 0;
  int64_t multiply_adds = 0;         ///< with each token, zeros included
  int64_t nonzero_multiply_adds = 0;

  double share() const { return static_cast<double>(zeros) / static_cast<double>(weights); }
};
ZeroCount count_zeros(const Report& report);
std::map<std::string, ZeroCount> zeros_by_codec(const Report& report);
/// Of the linear weights.
std::map<int64_t, ZeroCount> zeros_by_block(const Report& report);

/// NaN and infinities, which JSON lacks, become null.
nlohmann::json number(double value);
nlohmann::json to_json(const Quality& quality);
/// What a reference has beside a model: its own figures and how the model differs.
nlohmann::json to_json(const Comparison& comparison);
nlohmann::json to_json(const ChoiceQuality& choices);
nlohmann::json to_json(const OracleAgreement& oracle);
/// null when no zeros are skipped.
nlohmann::json to_json(const ProductSpeeds& products);
nlohmann::json to_json(const Report& report);
/// One test case per gate; a missed gate is a failure.
std::string to_junit(const Report& report);

}  // namespace llmc
