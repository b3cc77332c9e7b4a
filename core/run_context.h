// Owns what a long computation may tell the outside while it runs, and how it learns that it should stop.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>

#include "core/error.h"

namespace llmc {

/// Receives messages and progress; the command line shows them, tests record them.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void begin(const std::string& stage, int64_t total) = 0;
  virtual void advance(int64_t done) = 0;  ///< may be called from any thread
  virtual void end() = 0;
  virtual void note(const std::string& /*text*/) {}  ///< how the stage is going, beside its progress
  virtual void info(const std::string& message) = 0;
  virtual void warn(const std::string& message) = 0;
};

/// Hears everything and says nothing.
class SilentSink final : public ProgressSink {
 public:
  void begin(const std::string&, int64_t) override {}
  void advance(int64_t) override {}
  void end() override {}
  void info(const std::string&) override {}
  void warn(const std::string&) override {}
};

struct RunContext {
  ProgressSink& sink;
  std::stop_token stop;

  /// Throws Error(interrupted) once the user asked to stop.
  void check_stop() const {
    if (stop.stop_requested()) throw Error(ErrorKind::interrupted, "interrupted; nothing was written");
  }
};

/// Announces a stage for as long as it lives.
class Stage {
 public:
  Stage(const RunContext& context, const std::string& name, int64_t total) : context_(context) { context_.sink.begin(name, total); }
  ~Stage() { context_.sink.end(); }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  void note(const std::string& text) { context_.sink.note(text); }
  /// Counts `done` more units.
  void count(int64_t done = 1) { context_.sink.advance(done); }
  /// And stops the run here if the user asked for it.
  void advance(int64_t done = 1) {
    count(done);
    context_.check_stop();
  }

 private:
  const RunContext& context_;
};

}  // namespace llmc
