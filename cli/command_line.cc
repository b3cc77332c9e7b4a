#include "cli/command_line.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <stop_token>
#include <system_error>
#include <thread>

#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/terminal.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/suggest.h"
#include "core/version.h"

namespace llmc {

const std::vector<CommandInfo>& command_list() {
  static const std::vector<CommandInfo> list = {
      {"quantize", add_quantize}, {"prune", add_prune}, {"compress", add_compress}, {"convert", add_convert}, {"distill", add_distill}, {"evaluate", add_evaluate}, {"export", add_export}, {"generate", add_generate}, {"imatrix", add_imatrix}, {"inspect", add_inspect}, {"list", add_list}, {"completions", add_completions}, {"manual", add_manual},
  };
  return list;
}

namespace {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return exit_usage;
    case ErrorKind::input: return exit_input;
    case ErrorKind::output: return exit_output;
    case ErrorKind::interrupted: return exit_interrupted;
    case ErrorKind::bug: return exit_bug;
  }
  return exit_bug;
}

/// Turns the first SIGINT, SIGTERM or SIGHUP into a stop request, and a second (but SIGHUP, which a closing terminal sends twice) into an
/// immediate end. Signals are blocked in every thread and awaited in one, so nothing runs inside a signal handler.
class SignalWatch {
 public:
  SignalWatch() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    if (!is_ignored(SIGHUP)) sigaddset(&signals_, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    for (int told_by_the_call : {SIGPIPE, SIGXFSZ}) signal(told_by_the_call, SIG_IGN);
    exit_on_lost_pages(exit_input);
    thread_ = std::thread([this] {
      int received = 0;
      sigwait(&signals_, &received);
      stop_.request_stop();
      if (finished_) return;
      do sigwait(&signals_, &received);
      while (received == SIGHUP);
      if (!finished_) ::_exit(exit_interrupted);
    });
  }
  ~SignalWatch() {
    finished_ = true;
    for (int i = 0; i < 2; ++i) pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  std::stop_token token() const { return stop_.get_token(); }

 private:
  /// As nohup does before it starts a program.
  static bool is_ignored(int number) {
    struct sigaction action{};
    return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  }

  sigset_t signals_{};
  std::stop_source stop_;
  std::atomic<bool> finished_ = false;
  std::thread thread_;
};

void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--threads", options.threads, "Threads to use; 0: all cores")->check(whole_number(0, 1024))->group("Common");
  app.add_flag("-q,--quiet", options.quiet, "No progress on stderr; warnings and errors only")->group("Common");
  app.add_flag("-v,--verbose", options.verbose, "More about what is going on, on stderr")->group("Common");
  app.add_flag("--json", options.json, "The result as JSON on stdout")->group("Common");
}

/// CLI11's message for a wrong command line, with the nearest known flag or command.
std::string explain(const CLI::ParseError& problem, const CLI::App& app) {
  const CLI::App* scope = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
  const bool names_extras = dynamic_cast<const CLI::ExtrasError*>(&problem) != nullptr;
  std::vector<std::string> names;
  for (const CLI::Option* option : scope->get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  for (const CLI::App* command : scope->get_subcommands([](const CLI::App*) { return true; })) names.push_back(command->get_name());

  std::string text = problem.what();
  const std::vector<std::string> extras = scope->remaining();
  if (scope == &app && !extras.empty()) return fmt::format("'{}' is no command{}", extras.front(), did_you_mean(extras.front(), names));
  for (const std::string& extra : extras) {
    if (!names_extras && !extra.starts_with('-')) continue;
    const std::string flag = extra.substr(0, extra.find('='));
    text += (names_extras ? "" : fmt::format("; {} is no flag", flag)) + did_you_mean(flag, names);
  }
  return text;
}

/// A standard stream that is closed would lend its number to the next file opened, and messages would land in that file.
void hold_standard_streams() {
  for (int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(descriptor, F_GETFD) < 0) ::open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);
}

/// `--max-kl "$LIMIT"` with LIMIT unset must not be a gate left out.
void refuse_empty_values(CLI::App& command) {
  for (CLI::Option* option : command.get_options())
    if (option->get_expected_max() > 0) option->transform(CLI::Validator([](std::string& value) { return value.empty() ? std::string("expected a value, found an empty one") : std::string(); }, ""));  // before the others
}

/// Whether the system had no more threads or memory to give.
bool is_scarcity(const std::exception& error) {
  const auto* told = dynamic_cast<const std::system_error*>(&error);
  return told && (told->code() == std::errc::resource_unavailable_try_again || told->code() == std::errc::not_enough_memory);
}

/// Whether the path is the command's output or below it.
bool is_output(const std::filesystem::path& path, const CLI::App& app) {
  const CLI::App* command = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
  const CLI::Option* option = command->get_option_no_throw("--output");
  if (!option || option->empty()) return false;
  const auto is_below = [&](const std::filesystem::path& output) { return std::ranges::mismatch(path, output).in2 == output.end(); };
  const std::filesystem::path output = option->as<std::string>();
  std::error_code ignored;
  return is_below(output) || is_below(std::filesystem::absolute(output, ignored).lexically_normal());
}

int fail(const std::string& message, int code) {
  std::fflush(stdout);
  write_untrusted("llmc: error: " + message);
  return code;
}

}  // namespace

int run_command_line(int argc, char** argv) {
  hold_standard_streams();
  CLI::App app("Makes Transformer checkpoints smaller and proves that they still work.", "llmc");
  app.set_version_flag("--version", fmt::format("llmc {}", version_text));
  app.require_subcommand(1);
  app.footer("Examples:\n  llmc quantize MODEL -o OUT --bits 4 --group-size 32 --max-ppl-increase 3%\n  llmc prune MODEL -o OUT --sparsity 0.5\n  llmc evaluate OUT --reference MODEL\n\nExit codes: 0 done, 1 a gate was missed, 2 usage, 3 bad input, 4 output, 70 a bug, 130 interrupted.");
  CommonOptions common;
  std::vector<std::pair<CLI::App*, CommandFunction>> commands;
  for (const CommandInfo& info : command_list()) {
    CLI::App* subcommand = app.add_subcommand(info.name);
    commands.emplace_back(subcommand, info.add(*subcommand));
    add_common_options(*subcommand, common);
    refuse_empty_values(*subcommand);
    refuse_wrong_numbers(*subcommand);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    const int code = app.exit(request);
    return std::cout.flush() ? code : fail("cannot write the result to stdout", exit_output);
  } catch (const CLI::ParseError& problem) {
    return fail(fmt::format("{}\nRun `llmc {}--help` for the flags.", explain(problem, app), app.get_subcommands().empty() ? "" : app.get_subcommands().front()->get_name() + " "), exit_usage);
  }

  try {
    SignalWatch signals;
    TerminalSink sink(common.quiet, common.verbose);
    const RunContext run{.sink = sink, .stop = signals.token()};
    int code = exit_bug;
    with_threads(common.threads, [&] {
      for (const auto& [subcommand, function] : commands)
        if (subcommand->parsed()) code = function({common, run});
    });
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return fail("cannot write the result to stdout", exit_output);
    return code;
  } catch (const Error& error) {
    return fail(error.what(), exit_code(error.kind()));
  } catch (const std::bad_alloc&) {
    return fail("the memory did not suffice", exit_output);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(fmt::format("{}: {}", error.path1().string(), error.code().message()), is_output(error.path1(), app) ? exit_output : exit_input);
  } catch (const std::exception& error) {
    if (std::ferror(stdout) != 0) return fail("cannot write the result to stdout", exit_output);  // fmt::print threw
    if (is_scarcity(error)) return fail(fmt::format("the memory did not suffice, or threads are limited: {}", error.what()), exit_output);
    return fail(fmt::format("unexpected: {} (this is a bug in llmc)", error.what()), exit_bug);
  }
}

}  // namespace llmc
