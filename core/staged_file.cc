#include "core/staged_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/file_status.h"

namespace llmc {
namespace fs = std::filesystem;
namespace {

/// The first bytes of a regular file.
std::string read_beginning(const fs::path& path, size_t most) {
  std::ifstream file(path, std::ios::binary);
  std::string beginning(most, '\0');
  file.read(beginning.data(), static_cast<std::streamsize>(most));
  if (file.bad() || (!file.is_open())) throw Error(ErrorKind::output, fmt::format("{}: cannot be read to see what --force would replace", path.string()));
  beginning.resize(static_cast<size_t>(file.gcount()));
  return beginning;
}

bool is_ours_or_empty(const fs::path& path) {
  const std::string ending = path.extension().string();
  const std::string beginning = read_beginning(path, ending == ".json" ? 1 << 20 : 16);
  if (beginning.empty()) return true;
  if (ending == ".json") return beginning.starts_with("{") && beginning.find("llmc") != std::string::npos;
  return beginning.starts_with(ending == ".svg" ? "<svg" : "GGUF");
}

void check_file(const fs::path& target, Overwrite overwrite) {
  const fs::file_status status = get_link_status(target, ErrorKind::output);
  if (!fs::exists(status)) return;
  if (overwrite == Overwrite::refuse) throw Error(ErrorKind::output, fmt::format("{}: already exists; --force replaces it", target.string()));
  if (!fs::is_regular_file(status)) throw Error(ErrorKind::output, fmt::format("{}: --force replaces only a file", target.string()));
  if (!is_ours_or_empty(target)) throw Error(ErrorKind::output, fmt::format("{}: --force replaces only an earlier output, and this is no {} of llmc's", target.string(), target.extension() == ".json" ? "report" : target.extension() == ".svg" ? "plot" : "GGUF file"));
}

fs::path checked(const fs::path& target, Overwrite overwrite) {
  const fs::path path = get_absolute(target, ErrorKind::output);
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

/// Beside the file; of a long name a hash of it.
fs::path staging_name(const fs::path& target) { return target.parent_path() / (name_to_extend(target) + ".work"); }

/// Where a file that is not the target goes.
fs::path beside(const fs::path& target, std::string_view name) { return target.parent_path() / (target.stem().string() + "." + std::string(name)); }

}  // namespace

StagedFile::StagedFile(const fs::path& target, Overwrite overwrite) : target_(checked(target, overwrite)), overwrite_(overwrite), staging_(staging_name(target_), Overwrite::refuse) {}

void StagedFile::check_beside(std::string_view name) const { check_file(beside(target_, name), overwrite_); }

fs::path StagedFile::add_part(const std::string& ending) {
  parts_.push_back(target_.stem().string() + ending);
  check_file(target_.parent_path() / parts_.back(), overwrite_);
  return directory() / parts_.back();
}

void StagedFile::commit() {
  check_file(target_, overwrite_);  // somebody may have been faster
  for (const std::string& part : parts_) check_file(target_.parent_path() / part, overwrite_);
  const auto is_part = [&](const fs::path& file) { return std::ranges::find(parts_, file.filename().string()) != parts_.end(); };
  std::vector<std::string> others;
  std::error_code error;
  for (fs::directory_iterator entry(directory(), error), end; !error && entry != end; entry.increment(error))
    if (entry->path() != path() && !is_part(entry->path())) others.push_back(entry->path().filename().string());
  if (error) throw Error(ErrorKind::output, fmt::format("{}: cannot read: {}", directory().string(), error.message()));
  for (const std::string& name : others) check_beside(name);
  for (const std::string& name : others) rename_file(directory() / name, beside(target_, name), overwrite_);
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) rename_file(directory() / *part, target_.parent_path() / *part, overwrite_);  // readers open the first one: it comes last
  if (parts_.empty()) rename_file(path(), target_, overwrite_);
  else fs::remove(target_, error);  // an old one, with --force
  if (error) throw Error(ErrorKind::output, fmt::format("{}: cannot be removed: {}", target_.string(), error.message()));
  flush(target_.parent_path());
}

}  // namespace llmc
