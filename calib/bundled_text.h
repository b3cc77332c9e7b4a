// Owns the evaluation text that comes with llmc, so that a command always has something to judge on.
#pragma once

#include <string_view>

namespace llmc {

/// Held-out English text (UTF-8): the same bytes as sample_models/quill-7m/held_out.txt.
std::string_view bundled_text();

}  // namespace llmc
