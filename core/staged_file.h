// Owns an output file that appears whole or not at all, with small files about it beside it.
#pragma once

#include <filesystem>

#include "core/output.h"

namespace llmc {

/// A file that is written in a staging directory beside its final name and put there in one rename. Other files of that
/// directory go beside it: report.json of OUT.gguf becomes OUT.report.json. Without commit() nothing is left.
/// With Overwrite::replace only a regular file is replaced.
class StagedFile {
 public:
  StagedFile(const std::filesystem::path& target, Overwrite overwrite);

  const std::filesystem::path& directory() const { return staging_.path(); }
  /// Where the file is to be written.
  std::filesystem::path path() const { return directory() / target_.filename(); }
  /// Renames. Throws Error(output); an old file is then still in place.
  void commit();

 private:
  std::filesystem::path target_;
  Overwrite overwrite_;
  StagedDirectory staging_;
};

}  // namespace llmc
