#include "core/file_status.h"

#include <fmt/format.h>

namespace llmc {

namespace fs = std::filesystem;

namespace {

void throw_if_unknown(const fs::path& path, ErrorKind kind, const std::error_code& problem) {
  if (problem) throw Error(kind, fmt::format("{}: cannot be looked at: {}", path.string(), problem.message()));
}

}  // namespace

fs::file_status get_status(const fs::path& path, ErrorKind kind) {
  std::error_code problem;
  const fs::file_status status = fs::status(path, problem);
  if (status.type() == fs::file_type::none) throw_if_unknown(path, kind, problem);
  return status;
}

fs::file_status get_link_status(const fs::path& path, ErrorKind kind) {
  std::error_code problem;
  const fs::file_status status = fs::symlink_status(path, problem);
  if (status.type() == fs::file_type::none) throw_if_unknown(path, kind, problem);
  return status;
}

fs::path get_absolute(const fs::path& path, ErrorKind kind) {
  std::error_code problem;
  const fs::path absolute = fs::absolute(path, problem);
  throw_if_unknown(path, kind, problem);
  return absolute.lexically_normal();
}

fs::path get_canonical(const fs::path& path, ErrorKind kind) {
  std::error_code problem;
  const fs::path canonical = fs::weakly_canonical(path, problem);
  throw_if_unknown(path, kind, problem);
  return canonical.filename().empty() ? canonical.parent_path() : canonical;  // a trailing slash
}

}  // namespace llmc
