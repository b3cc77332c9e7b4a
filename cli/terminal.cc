#include "cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "core/printable.h"

namespace llmc {

bool use_colour(int descriptor) {
  const char* no_colour = std::getenv("NO_COLOR");
  return ::isatty(descriptor) && !(no_colour && *no_colour);
}

void write_message(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

void write_untrusted(const std::string& text) {
  constexpr size_t most = 8000;
  write_message(shorten(printable(text), most) + "\n");
}

TerminalSink::TerminalSink(bool quiet, bool verbose) : quiet_(quiet), verbose_(verbose), terminal_(::isatty(STDERR_FILENO)) {}

void TerminalSink::begin(const std::string& stage, int64_t total) {
  const std::scoped_lock lock(mutex_);
  stage_ = stage;
  note_.clear();
  total_ = total;
  done_ = 0;
  started_ = drawn_ = Clock::now();
}

void TerminalSink::advance(int64_t done) {
  const std::scoped_lock lock(mutex_);
  done_ += done;
  constexpr auto interval = std::chrono::milliseconds(100);
  if (!quiet_ && terminal_ && Clock::now() - drawn_ > interval) draw(false);
}

void TerminalSink::note(const std::string& text) {
  const std::scoped_lock lock(mutex_);
  note_ = text;
}

void TerminalSink::end() {
  const std::scoped_lock lock(mutex_);
  if (!quiet_) draw(true);
}

void TerminalSink::draw(bool final) {
  drawn_ = Clock::now();
  const double seconds = std::chrono::duration<double>(drawn_ - started_).count();
  const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0;
  if (final) {
    clear_bar();
    if (terminal_ && !verbose_) return;  // a finished bar leaves nothing behind; plain lines are for logs
    write_message(fmt::format("{}: {}/{} in {:.1f} s{}{}\n", stage_, done_, total_, seconds, note_.empty() ? "" : "  ", note_));
    return;
  }
  constexpr int64_t width = 24;
  const int64_t filled = total_ > 0 ? std::min(width, width * done_ / total_) : 0;
  const std::string left = rate > 0 ? fmt::format("{:.0f} s left", static_cast<double>(total_ - done_) / rate) : "";
  write_message(fmt::format("\r\033[K{} [{}{}] {}/{}  {:.1f}/s  {}  {}", stage_, std::string(static_cast<size_t>(filled), '='), std::string(static_cast<size_t>(width - filled), ' '), done_, total_, rate, left, note_));
  std::fflush(stderr);
  bar_shown_ = true;
}

void TerminalSink::clear_bar() {
  if (bar_shown_) write_message("\r\033[K");
  bar_shown_ = false;
}

void TerminalSink::info(const std::string& message) {
  const std::scoped_lock lock(mutex_);
  if (!verbose_ || quiet_) return;
  clear_bar();
  write_untrusted("llmc: " + message);
}

void TerminalSink::warn(const std::string& message) {
  const std::scoped_lock lock(mutex_);
  clear_bar();
  write_untrusted("llmc: note: " + message);
}

}  // namespace llmc
