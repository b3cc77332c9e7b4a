// Owns how people write sizes and shares: "40MB", "1%".
#pragma once

#include <cstdint>
#include <string>

namespace llmc {

/// "40MB" (decimal), "40MiB" (binary), "1234" → bytes. Throws Error(usage) naming `what`.
uint64_t parse_size(const std::string& text, const std::string& what);
/// "1%" or "0.01" → 0.01. Throws Error(usage) naming `what` unless finite and not negative.
double parse_share(const std::string& text, const std::string& what);
/// 14696792 → "14.70 MB"
std::string format_size(uint64_t bytes);

}  // namespace llmc
