#include "core/process_memory.h"

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
uint64_t current_memory_bytes() { return read_status("VmRSS:"); }

}  // namespace llmc
