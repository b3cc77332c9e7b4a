// Owns the names of the files of an artifact: what llmc writes there, and so what --force may remove.
#pragma once

#include <span>
#include <string_view>

namespace llmc {

/// Files of a checkpoint directory that belong to the model and hold no weights; an artifact has them too.
std::span<const std::string_view> carried_file_names();

/// Whether llmc writes files of that name into artifacts and bundles.
bool is_artifact_file(std::string_view name);

/// The one folder in them: a bundle's student, an artifact itself.
constexpr std::string_view student_folder_name = "student";

}  // namespace llmc
