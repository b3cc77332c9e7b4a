#include "core/process_memory.h"

#include <malloc.h>

#include <fstream>
#include <string>
#include <string_view>

namespace llmc {

namespace {

/// A line of /proc/self/status in bytes.
uint64_t read_status(std::string_view field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return std::stoull(line.substr(field.size())) * 1024;
  return 0;
}

}  // namespace

uint64_t peak_memory_bytes() { return read_status("VmHWM:"); }
void return_freed_memory() {
#ifdef __GLIBC__
  constexpr int size = 4 << 20;
  mallopt(M_MMAP_THRESHOLD, size);
  mallopt(M_TRIM_THRESHOLD, size);
#endif
}

uint64_t current_memory_bytes() { return read_status("VmRSS:"); }

}  // namespace llmc
