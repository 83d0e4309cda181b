// SPDX-License-Identifier: Apache-2.0
// Running the package's Python modules from the program.
#pragma once

#include <string>
#include <vector>

namespace vmoba::tools {

// The interpreter to use: path when given (Error when it cannot be run), else .venv/bin/python3 beside the folder that
// holds the program, or one folder up, else python3 of PATH.
std::string find_python(const std::string& path);

struct Outcome {
  int code = 0;             // exit code; 128 + signal when it was ended by one; 127 when it could not be started
  std::string out, errors;  // what it wrote, when captured
};
// Runs command[0] with the arguments, waits. capture: stdout and stderr are collected, else they are ours. No shell.
Outcome run_process(const std::vector<std::string>& command, bool capture);
// Runs a Python module that draws, prints what it printed, and passes its refusal of a file (exit code 3) and an
// interrupt on. Error when it ends otherwise: the interpreter lacks something; asked, in the words of the command line,
// is what needed it. Returns an exit code of the program.
int run_module(const std::vector<std::string>& command, const std::string& asked);
std::string last_line(std::string text);  // without empty lines at the end

}  // namespace vmoba::tools
