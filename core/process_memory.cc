#include "core/process_memory.h"

#include <fstream>
#include <string>

namespace llmc {

uint64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  return 0;
}

void reset_peak_memory() {
  std::ofstream control("/proc/self/clear_refs");
  control << "5";
}

}  // namespace llmc
