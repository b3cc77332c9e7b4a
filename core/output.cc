#include "core/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "core/artifact_names.h"
#include "core/error.h"
#include "core/file_status.h"
#include "core/sha256.h"

namespace llmc {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view partial_mark = ".llmc-partial-";

[[noreturn]] void fail_output(const fs::path& path, const char* what, int error) {
  throw Error(ErrorKind::output, fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
}

void flush_directory(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_output(path, "open", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (result != 0 && error != EINVAL) fail_output(path, "flush", error);  // EINVAL: a file system without directory fsync
}

/// Opens a directory and takes its lock, or returns -1 when another process holds it.
int lock_directory(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor >= 0 && ::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  if (descriptor >= 0) ::close(descriptor);
  return -1;
}

std::string partial_prefix(const fs::path& target) { return "." + name_to_extend(target) + std::string(partial_mark); }

/// Removes what killed runs left beside `target`.
void remove_abandoned(const fs::path& target) {
  std::error_code ignored, error;
  const std::string prefix = partial_prefix(target);
  for (fs::directory_iterator entry(target.parent_path(), error), end; !error && entry != end; entry.increment(error)) {
    if (!entry->path().filename().string().starts_with(prefix) || !entry->is_directory(ignored)) continue;
    const int lock = lock_directory(entry->path());
    if (lock < 0) continue;
    fs::remove_all(entry->path(), ignored);
    ::close(lock);
  }
}

/// What lies in a directory.
struct Entries {
  size_t count = 0;
  bool has_mark = false;             ///< llmc.json
  std::vector<std::string> foreign;  ///< what llmc does not write, as paths below the directory
};

void list_entries(const fs::path& directory, const std::string& prefix, Entries& entries) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    ++entries.count;
    const bool is_folder = get_link_status(entry->path(), ErrorKind::output).type() == fs::file_type::directory;
    if (is_folder && prefix.empty() && name == student_folder_name) list_entries(entry->path(), name + "/", entries);
    else if (is_folder || !is_artifact_file(name)) entries.foreign.push_back(prefix + name);
    else if (prefix.empty() && name == "llmc.json") entries.has_mark = true;
  }
  if (error) fail_output(directory, "read", error.value());
}

void check_directory(const fs::path& target, Overwrite overwrite) {
  const fs::file_status status = get_link_status(target, ErrorKind::output);
  if (!fs::exists(status)) return;
  if (overwrite == Overwrite::refuse)
    throw Error(ErrorKind::output, fmt::format("{}: already exists; --force replaces it", target.string()));
  Entries entries;
  if (fs::is_directory(status)) list_entries(target, "", entries);
  if (!fs::is_directory(status) || (entries.count > 0 && !entries.has_mark))
    throw Error(ErrorKind::output, fmt::format("{}: --force replaces only an earlier llmc artifact (a directory with llmc.json) or an empty directory", target.string()));
  if (entries.foreign.empty()) return;
  std::ranges::sort(entries.foreign);
  constexpr size_t most = 3;
  const size_t shown = std::min(most, entries.foreign.size());
  const std::string others = entries.foreign.size() > shown ? fmt::format(" and {} more", entries.foreign.size() - shown) : "";
  throw Error(ErrorKind::output, fmt::format("{}: --force replaces only what llmc wrote, and the directory also holds {}{}; move that away, or choose another output", target.string(), fmt::join(entries.foreign.begin(), entries.foreign.begin() + static_cast<std::ptrdiff_t>(shown), ", "), others));
}

/// Of a mapped file whose pages are gone the first such ends the process with its name (core/mapped_file), which EFAULT does not say.
void touch_pages(std::span<const std::byte> bytes) {
  for (size_t at = 0; at < bytes.size(); at += 4096) *static_cast<const volatile std::byte*>(&bytes[at]);
}

[[maybe_unused]] bool holds_artifact_files_only(const fs::path& directory) {
  Entries entries;
  list_entries(directory, "", entries);
  return entries.foreign.empty();
}

}  // namespace

std::string name_to_extend(const fs::path& path) {
  constexpr size_t longest = 200;
  const std::string name = path.filename().string();
  return name.size() <= longest ? name : sha256(std::as_bytes(std::span(name)));
}

OutputFile::OutputFile(const fs::path& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("create");
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::fail(const char* what) const { fail_output(path_, what, errno); }

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EFAULT) touch_pages(bytes);
    if (written < 0) fail("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void OutputFile::write(std::span<const std::byte> bytes) {
  write_at(size_, bytes);
  size_ += bytes.size();
}

void OutputFile::close() {
  if (::fsync(descriptor_) != 0) fail("flush");
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) fail("close");
}

StagedDirectory::StagedDirectory(const fs::path& target, Overwrite overwrite)
    : target_(get_absolute(target, ErrorKind::output)), overwrite_(overwrite) {
  if (target_.filename().empty()) target_ = target_.parent_path();  // a trailing slash
  check_directory(target_, overwrite);
  if (!fs::is_directory(get_status(target_.parent_path(), ErrorKind::output)))
    throw Error(ErrorKind::output, fmt::format("{}: the directory {} does not exist", target.string(), target_.parent_path().string()));
  remove_abandoned(target_);
  staging_ = target_.parent_path() / (partial_prefix(target_) + std::to_string(::getpid()));
  std::error_code error;
  if (!fs::create_directory(staging_, error)) fail_output(staging_, "create", error ? error.value() : EEXIST);
  lock_ = lock_directory(staging_);
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void StagedDirectory::commit() {
  assert(holds_artifact_files_only(staging_));  // else a later --force would refuse to replace them
  flush_directory(staging_);
  check_directory(target_, overwrite_);  // somebody may have been faster
  if (fs::exists(get_status(target_, ErrorKind::output))) {
    if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0)
      fail_output(target_, "replace", errno);
    committed_ = true;
    std::error_code ignored;
    fs::remove_all(staging_, ignored);  // the old output, now under the staging name
  } else {
    if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) != 0)
      fail_output(target_, "rename to", errno);
    committed_ = true;
  }
  flush_directory(target_.parent_path());
}

void write_text(const fs::path& path, std::string_view text) {
  OutputFile file(path);
  file.write(text);
  file.close();
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  const fs::path staging = path.parent_path() / (name_to_extend(path) + std::string(partial_mark) + std::to_string(::getpid()));
  std::error_code ignored;
  fs::remove(staging, ignored);
  try {
    OutputFile file(staging);
    file.write(content);
    file.close();
    if (::rename(staging.c_str(), path.c_str()) != 0) fail_output(path, "rename to", errno);
  } catch (...) {
    fs::remove(staging, ignored);
    throw;
  }
}

void require_free_space(const fs::path& path, uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(path, error);
  if (error) fail_output(path, "read the free space of", error.value());
  if (space.available < bytes)
    throw Error(ErrorKind::output, fmt::format("{}: needs {} bytes of free disk space, found {}", path.string(), bytes, space.available));
}

}  // namespace llmc
