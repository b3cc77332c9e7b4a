#include "core/result_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/file_status.h"
#include "core/output.h"

namespace llmc {

namespace fs = std::filesystem;

namespace {

/// Whether the file begins so, or is empty.
bool begins_with(const fs::path& path, std::string_view expected) {
  std::ifstream file(path, std::ios::binary);
  std::string found(expected.size(), '\0');
  file.read(found.data(), static_cast<std::streamsize>(found.size()));
  found.resize(static_cast<size_t>(file.gcount()));
  return file.is_open() && !file.bad() && (found.empty() || found == expected);
}

bool lies_in(const fs::path& path, const fs::path& folder) { return std::ranges::mismatch(path, folder).in2 == folder.end(); }

void write_to_stream(const fs::path& path, std::string_view content) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
  const auto fail = [&](const char* what) {
    const int error = errno;
    if (descriptor >= 0) ::close(descriptor);
    throw Error(ErrorKind::output, fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
  };
  if (descriptor < 0) fail("open");
  while (!content.empty()) {
    const ssize_t written = ::write(descriptor, content.data(), content.size());
    if (written < 0 && errno != EINTR) fail("write");
    content.remove_prefix(static_cast<size_t>(std::max<ssize_t>(written, 0)));
  }
  ::close(descriptor);
}

}  // namespace

ResultFile::ResultFile(const ResultFileKind& kind, const fs::path& path, std::span<const fs::path> others) : kind_(kind), path_(get_absolute(path, ErrorKind::output)) {
  if (is_stream()) return;
  const fs::path place = get_canonical(path_, ErrorKind::output);
  for (const fs::path& other : others)
    if (lies_in(place, get_canonical(other, ErrorKind::input))) throw Error(ErrorKind::usage, fmt::format("{} {}: {} {}, which this run reads or writes; choose another place", kind.flag, path.string(), place == get_canonical(other, ErrorKind::input) ? "is" : "lies in", other.string()));
  check();
}

bool ResultFile::is_stream() const {
  const fs::file_status status = get_status(path_, ErrorKind::output);
  return fs::is_character_file(status) || fs::is_fifo(status);
}

void ResultFile::check() const {
  if (is_stream()) return;
  const fs::file_status status = get_link_status(path_, ErrorKind::output);
  if (fs::exists(status) && !fs::is_regular_file(status)) throw Error(ErrorKind::output, fmt::format("{}: is no regular file; {} replaces only an earlier {}", path_.string(), kind_.flag, kind_.called));
  if (fs::exists(status) && !begins_with(path_, kind_.begins)) throw Error(ErrorKind::output, fmt::format("{}: is no {}; {} replaces only an earlier one", path_.string(), kind_.called, kind_.flag));
  const fs::path folder = path_.parent_path();
  if (!fs::is_directory(get_status(folder, ErrorKind::output))) throw Error(ErrorKind::output, fmt::format("{}: the directory {} does not exist", path_.string(), folder.string()));
  if (::access(folder.c_str(), W_OK | X_OK) != 0) throw Error(ErrorKind::output, fmt::format("{}: cannot write to the directory {}: {}", path_.string(), folder.string(), std::strerror(errno)));
}

void ResultFile::write(std::string_view content) const {
  check();  // somebody may have been faster
  if (is_stream()) write_to_stream(path_, content);
  else write_file_atomically(path_, content);
}

}  // namespace llmc
