// Owns the question how much memory this process has used.
#pragma once

#include <cstdint>

namespace llmc {

/// Largest resident set since the last reset, in bytes; 0 where the system does not tell.
uint64_t peak_memory_bytes();
/// Resident set now, in bytes; 0 where the system does not tell.
uint64_t current_memory_bytes();
/// Starts a new peak where the kernel allows it (Linux, /proc/self/clear_refs); without it the peak is the process's.
void reset_peak_memory();

}  // namespace llmc
