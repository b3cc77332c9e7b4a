#include "core/side_file.h"

#include "core/mapped_file.h"

namespace llmc {

namespace fs = std::filesystem;

bool has_entry(const fs::path& path) {
  std::error_code unknown;  // a folder that may not be searched: reading says so
  return fs::symlink_status(path, unknown).type() != fs::file_type::not_found;
}

std::optional<std::string> find_text_file(const fs::path& path) { return has_entry(path) ? std::optional(read_text_file(path)) : std::nullopt; }

}  // namespace llmc
