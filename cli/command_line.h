// Owns the program: argv to a command, errors to messages and exit codes, Ctrl-C to a clean stop.
#pragma once

namespace llmc {

/// Exit codes: 0 done, 1 done but a gate was missed, 2 usage, 3 bad input, 4 output, 70 a bug, 130 interrupted.
int run_command_line(int argc, char** argv);

}  // namespace llmc
