#include "core/staged_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace llmc {
namespace fs = std::filesystem;
namespace {

void check_file(const fs::path& target, Overwrite overwrite) {
  const fs::file_status status = fs::symlink_status(target);
  if (!fs::exists(status)) return;
  if (overwrite == Overwrite::refuse) throw Error(ErrorKind::output, fmt::format("{}: already exists; --force replaces it", target.string()));
  if (!fs::is_regular_file(status)) throw Error(ErrorKind::output, fmt::format("{}: --force replaces only a file", target.string()));
}

fs::path checked(const fs::path& target, Overwrite overwrite) {
  const fs::path path = fs::absolute(target).lexically_normal();
  check_file(path, overwrite);
  return path;
}

void rename_file(const fs::path& from, const fs::path& to, Overwrite overwrite) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), overwrite == Overwrite::refuse ? RENAME_NOREPLACE : 0) != 0) throw Error(ErrorKind::output, fmt::format("{}: cannot rename to: {}", to.string(), std::strerror(errno)));
}

/// So that the renames are on the device too.
void flush(const fs::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

StagedFile::StagedFile(const fs::path& target, Overwrite overwrite) : target_(checked(target, overwrite)), overwrite_(overwrite), staging_(target_.string() + ".work", Overwrite::refuse) {}

fs::path StagedFile::add_part(const std::string& ending) {
  parts_.push_back(target_.stem().string() + ending);
  check_file(target_.parent_path() / parts_.back(), overwrite_);
  return directory() / parts_.back();
}

void StagedFile::commit() {
  check_file(target_, overwrite_);  // somebody may have been faster
  const auto is_part = [&](const fs::path& file) { return std::ranges::find(parts_, file.filename().string()) != parts_.end(); };
  for (const fs::directory_entry& entry : fs::directory_iterator(directory()))
    if (entry.path() != path() && !is_part(entry.path())) rename_file(entry.path(), target_.parent_path() / (target_.stem().string() + "." + entry.path().filename().string()), Overwrite::replace);
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {  // readers open the first one: it comes last
    check_file(target_.parent_path() / *part, overwrite_);
    rename_file(directory() / *part, target_.parent_path() / *part, overwrite_);
  }
  if (parts_.empty()) rename_file(path(), target_, overwrite_);
  else fs::remove(target_);  // an old one, with --force
  flush(target_.parent_path());
}

}  // namespace llmc
