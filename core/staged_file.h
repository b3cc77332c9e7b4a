// Owns an output file that appears whole or not at all, with small files about it beside it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/output.h"

namespace llmc {

/// A GGUF file that is written in a staging directory beside its final name and put there in one rename. Other files of that
/// directory go beside it: report.json of OUT.gguf becomes OUT.report.json. Without commit() nothing is left.
/// With Overwrite::replace only a GGUF file is replaced, or an empty one, and beside it only an earlier report and its plots. Where there are
/// parts, they take the place of the file.
class StagedFile {
 public:
  StagedFile(const std::filesystem::path& target, Overwrite overwrite);

  /// Throws Error(output) if commit() could not put a file of that name beside the target.
  void check_beside(std::string_view name) const;

  const std::filesystem::path& directory() const { return staging_.path(); }
  /// Where the file is to be written.
  std::filesystem::path path() const { return directory() / target_.filename(); }
  /// The first part, if there are any.
  std::filesystem::path main_path() const { return parts_.empty() ? path() : directory() / parts_.front(); }
  /// Where the next part is to be written: its name is the target's with another ending ("OUT.gguf", "-1.gguf": OUT-1.gguf). Throws
  /// Error(output) as the constructor does.
  std::filesystem::path add_part(const std::string& ending);
  /// Checks all that is in the way, then renames, the first part last. Throws Error(output); an old file is then still in place, of several parts some may be.
  void commit();

 private:
  std::filesystem::path target_;
  Overwrite overwrite_;
  StagedDirectory staging_;
  std::vector<std::string> parts_;  ///< names
};

}  // namespace llmc
