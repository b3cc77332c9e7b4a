// Owns the flags that quantize, prune and compress share, and what the three do once the recipe is known.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/shared_options.h"
#include "passes/compress.h"

namespace llmc {

/// Flags as given; texts are read when the command runs.
struct CompressOptions {
  std::string model;
  std::string output;
  bool force = false;
  bool dry_run = false;
  bool untie_head = false;
  bool allow_requantize = false;
  std::string shard_size;
  std::optional<std::string> format;
  std::optional<int64_t> seed;
  std::string evaluation_data;
  EvaluationFlags evaluation = {.max_windows = 32};
  std::vector<std::string> ignored_config_fields;
  std::string junit;
  std::string max_memory;
  std::string resume;
  std::string max_ppl_increase, max_kl, min_top1_agreement, max_size, min_ratio;
};

void add_compress_options(CLI::App& app, CompressOptions& options);
/// --format, for the commands whose output may be of several.
void add_format_option(CLI::App& app, CompressOptions& options);
/// --max-memory and --resume, for the commands that may calibrate.
void add_calibration_run_options(CLI::App& app, CompressOptions& options);

/// Runs the straight line (or its dry run) and prints the result. `recipe` has steps; format and seed of the flags, where
/// given, win over its own.
int run_compress(const std::string& command, const CompressOptions& options, Recipe recipe, const CommandContext& context);

}  // namespace llmc
