// Owns the question how much memory this process has used.
#pragma once

#include <cstdint>

namespace llmc {

/// Largest resident set so far, in bytes; 0 where the system does not tell.
uint64_t peak_memory_bytes();
/// Resident set now, in bytes; 0 where the system does not tell.
uint64_t current_memory_bytes();
/// From here on memory of 4 MiB and more goes back to the system as soon as it is freed, wherever it lies. The C library would
/// keep ever larger pieces, up to 64 MiB of them, the more of them it has seen. Called once, before there are threads.
void return_freed_memory();

}  // namespace llmc
