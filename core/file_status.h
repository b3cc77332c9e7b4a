// Owns looking at what a path names, with every failure an Error that says so.
#pragma once

#include <filesystem>

#include "core/error.h"

namespace llmc {

/// What is there, links followed: file_type::not_found if nothing is. Throws Error(kind) where that cannot be told: links in a circle, a name
/// too long, a directory that may not be searched.
std::filesystem::file_status get_status(const std::filesystem::path& path, ErrorKind kind);

/// The same of a link itself.
std::filesystem::file_status get_link_status(const std::filesystem::path& path, ErrorKind kind);

/// From the root, without "." and "..". Throws Error(kind) where the working directory is gone.
std::filesystem::path get_absolute(const std::filesystem::path& path, ErrorKind kind);

/// From the root, with the links of what is there followed. Throws Error(kind) as get_status does.
std::filesystem::path get_canonical(const std::filesystem::path& path, ErrorKind kind);

}  // namespace llmc
