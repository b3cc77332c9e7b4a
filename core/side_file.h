// Owns reading the small files beside the weights, which may be missing.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace llmc {

/// Whether the folder has an entry of that name, be it a link that leads nowhere.
bool has_entry(const std::filesystem::path& path);

/// The content; nothing when there is no such entry. Throws Error(input) when it cannot be read: a link that leads nowhere or to
/// itself, a folder, a pipe, no permission.
std::optional<std::string> find_text_file(const std::filesystem::path& path);

}  // namespace llmc
