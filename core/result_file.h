// Owns small result files that the user names beside the output, such as --junit's and --logits'.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace llmc {

/// How a file of a kind begins, and what it is called.
struct ResultFileKind {
  std::string_view flag;    ///< that names the file
  std::string_view begins;  ///< an earlier one, which may be replaced
  std::string_view called;
};

/// A file that is written when the work is done, and checked before: it replaces an earlier one of its kind or an empty file only, never what the run
/// reads. A device such as /dev/null or a pipe is written to.
class ResultFile {
 public:
  /// Throws Error(usage) for a path that is one of `others` or lies in one of them: what the run reads, and its output; Error(output) for one that
  /// cannot be written.
  ResultFile(const ResultFileKind& kind, const std::filesystem::path& path, std::span<const std::filesystem::path> others);
  /// Throws Error(output).
  void write(std::string_view content) const;

 private:
  bool is_stream() const;
  void check() const;

  ResultFileKind kind_;
  std::filesystem::path path_;
};

}  // namespace llmc
