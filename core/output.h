// Owns everything that reaches the disk: checked writes, and outputs that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace llmc {

/// A new file. Every failure (a full disk first of all) is an Error(output) that names the file.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Writes at a position, for data that comes in another order than it lies in the file.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Bytes written in order so far.
  uint64_t size() const { return size_; }
  /// Flushes to the device and closes. Without this call the file counts as abandoned.
  void close();

 private:
  [[noreturn]] void fail(const char* what) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

enum class Overwrite { refuse, replace };

/// A directory that is filled beside its final name and put there in one rename.
///
/// The staging directory is `.NAME.llmc-partial-PID` in the parent of `target`; it is removed when this object goes
/// without commit(), and one left by a killed run is removed by the next run that writes to the same target (a lock
/// tells whether its writer still lives). With Overwrite::replace only an earlier llmc artifact (it has `llmc.json`, and
/// nothing that llmc does not write) or an empty directory is replaced.
class StagedDirectory {
 public:
  StagedDirectory(const std::filesystem::path& target, Overwrite overwrite);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  const std::filesystem::path& path() const { return staging_; }
  /// Flushes every file and renames. Throws Error(output); the old output is then still in place.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path staging_;
  int lock_ = -1;
  Overwrite overwrite_;
  bool committed_ = false;
};

/// The last part of the path, for names that begin with it; a hash where it is so long that little could follow (names have at most 255 bytes).
std::string name_to_extend(const std::filesystem::path& path);

/// Writes a small file beside its final name, flushes and renames it. A kill can leave NAME.llmc-partial-PID.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Writes a new file that nothing reads before its directory is committed.
void write_text(const std::filesystem::path& path, std::string_view text);

/// Throws Error(output) when the file system of `path` has fewer than `bytes` free.
void require_free_space(const std::filesystem::path& path, uint64_t bytes);

}  // namespace llmc
