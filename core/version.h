// Owns the version of llmc.
#pragma once

namespace llmc {

constexpr const char* version_text = "0.1.0";

}  // namespace llmc
