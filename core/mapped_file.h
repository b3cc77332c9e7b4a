// Owns read-only memory maps of input files.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace llmc {

/// A file mapped into memory for reading, unmapped when this goes. Throws Error(input) when it cannot be opened.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(address_), size_}; }
  /// Lets the kernel take the pages back that were read so far; they are read again when they are looked at.
  void release_pages() const;
  std::string_view text() const { return {static_cast<const char*>(address_), size_}; }

 private:
  std::filesystem::path path_;
  void* address_ = nullptr;
  size_t size_ = 0;
};

/// From now on the process ends with this code and a message that names the file, not by SIGBUS, when a page of a mapped file cannot be read: the file
/// became shorter since, or its disk fails.
void exit_on_lost_pages(int code);

/// The whole of a small text file. Throws Error(input).
std::string read_text_file(const std::filesystem::path& path);

}  // namespace llmc
