// Owns the question how much memory this process has used.
#pragma once

#include <cstdint>

namespace llmc {

/// Largest resident set so far, in bytes; 0 where the system does not tell.
uint64_t peak_memory_bytes();
/// Resident set now, in bytes; 0 where the system does not tell.
uint64_t current_memory_bytes();

}  // namespace llmc
