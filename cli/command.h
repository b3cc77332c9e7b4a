// Owns what a command is: flags bound to a request, and a function that runs it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/run_context.h"

namespace llmc {

constexpr int exit_done = 0;
constexpr int exit_gate_missed = 1;
constexpr int exit_usage = 2;
constexpr int exit_input = 3;
constexpr int exit_output = 4;
constexpr int exit_bug = 70;
constexpr int exit_interrupted = 130;

/// Flags that every command has.
struct CommonOptions {
  int threads = 0;
  bool quiet = false;
  bool verbose = false;
  bool json = false;
};

/// What a command works with besides its own flags.
struct CommandContext {
  const CommonOptions& common;
  const RunContext& run;
};

/// A subcommand that was parsed; returns the exit code.
using CommandFunction = std::function<int(const CommandContext&)>;

/// Adds a subcommand with its flags and returns what runs it.
struct CommandInfo {
  const char* name;
  CommandFunction (*add)(CLI::App& subcommand);
};
const std::vector<CommandInfo>& command_list();

CommandFunction add_quantize(CLI::App& app);
CommandFunction add_prune(CLI::App& app);
CommandFunction add_compress(CLI::App& app);
CommandFunction add_convert(CLI::App& app);
CommandFunction add_distill(CLI::App& app);
CommandFunction add_evaluate(CLI::App& app);
CommandFunction add_generate(CLI::App& app);
CommandFunction add_export(CLI::App& app);
CommandFunction add_imatrix(CLI::App& app);
CommandFunction add_inspect(CLI::App& app);
CommandFunction add_list(CLI::App& app);
CommandFunction add_completions(CLI::App& app);
CommandFunction add_manual(CLI::App& app);

}  // namespace llmc
