#include "cli/command_line.h"
#include "core/process_memory.h"

int main(int argc, char** argv) {
  llmc::return_freed_memory();
  return llmc::run_command_line(argc, argv);
}
