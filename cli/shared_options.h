// Owns the flags that several commands share, and how their texts are read.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/forward.h"
#include "verify/windows.h"

namespace llmc {

/// --ignore-config-field, which may be repeated.
void add_ignored_config_fields(CLI::App& app, std::vector<std::string>& fields);
std::set<std::string> as_set(const std::vector<std::string>& fields);

/// --shard-size, for the commands that write a directory.
void add_shard_size(CLI::App& app, std::string& size);
/// Bytes; none for an empty text. Throws Error(usage).
std::optional<uint64_t> read_shard_size(const std::string& size);

/// How text is cut, scored and run.
struct EvaluationFlags {
  int64_t seqlen = 0;
  int64_t max_windows = 0;
  std::string convention = "all";
  int64_t stride = 0;
  std::string precision = "f32";
  std::optional<int> kv_cache_bits;
};
/// `length_flag` names the length of a window: --seqlen, or --eval-seqlen where --seqlen is the length of calibration samples.
void add_evaluation_flags(CLI::App& app, EvaluationFlags& flags, const std::string& length_flag);
/// Throw Error(usage) for a word that is not known.
WindowOptions read_window_options(const EvaluationFlags& flags);
ForwardOptions read_forward_options(const EvaluationFlags& flags);

}  // namespace llmc
