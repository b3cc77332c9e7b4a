// Owns how much of a file's own text a message repeats: a line or two at most.
#pragma once

#include <string>

#include "core/printable.h"

namespace llmc {

inline std::string shown(const std::string& text) { return shorten(text, 200); }

}  // namespace llmc
