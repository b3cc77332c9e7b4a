// Owns the error kinds: who is at fault, and so which exit code the command line returns.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace llmc {

enum class ErrorKind {
  usage,        ///< the command line or recipe asks for something that makes no sense
  input,        ///< a file that was read is missing, damaged or not understood
  output,       ///< the result could not be written
  interrupted,  ///< the user pressed Ctrl-C
  bug,          ///< llmc broke a promise of its own
};

/// Everything that stops a command. The message names file, tensor, expected and found; control characters in it are escaped.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message);
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Collects every problem of a validation loop, so that the user sees all of them at once.
class Problems {
 public:
  void add(std::string problem);
  bool empty() const { return problems_.empty(); }
  /// Whether what is added next is counted, but not shown: nobody needs its text.
  bool is_full() const;
  /// The first of them: as many as are ever shown.
  const std::vector<std::string>& list() const { return problems_; }
  /// Throws one Error that lists the problems (at most 20, then a count), or returns.
  void throw_if_any(ErrorKind kind, const std::string& headline) const;

 private:
  std::vector<std::string> problems_;
  size_t count_ = 0;
};

}  // namespace llmc
