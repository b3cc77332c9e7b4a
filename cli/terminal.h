// Owns stderr: progress as a bar on a terminal and as plain lines elsewhere, and messages.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "core/run_context.h"

namespace llmc {

/// Whether to colour what goes to this file descriptor: a terminal, and NO_COLOR is not set.
bool use_colour(int descriptor);

/// Writes to stderr, as it is. A stderr that takes nothing (a full disk, a closed pipe) loses the message and stops no run.
void write_message(const std::string& text);

/// A line of what may hold names and texts from files: control characters are escaped, and of a very long one the middle is left out.
void write_untrusted(const std::string& text);

class TerminalSink final : public ProgressSink {
 public:
  TerminalSink(bool quiet, bool verbose);
  void begin(const std::string& stage, int64_t total) override;
  void advance(int64_t done) override;
  void end() override;
  void note(const std::string& text) override;
  void info(const std::string& message) override;
  void warn(const std::string& message) override;

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool final);
  void clear_bar();

  const bool quiet_;
  const bool verbose_;
  const bool terminal_;
  std::mutex mutex_;
  std::string stage_;
  std::string note_;
  int64_t total_ = 0;
  int64_t done_ = 0;
  Clock::time_point started_;
  Clock::time_point drawn_;
  bool bar_shown_ = false;
};

}  // namespace llmc
