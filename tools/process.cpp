// SPDX-License-Identifier: Apache-2.0
// Child processes without a shell.
#include "tools/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "tools/output.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"

extern char** environ;

namespace vmoba::tools {

namespace fs = std::filesystem;

std::string find_python(const std::string& path) {
  if (!path.empty()) {
    if (path.find('/') != std::string::npos && access(path.c_str(), X_OK) != 0)
      throw_file(path, "cannot be run as the Python interpreter",
                 "give --python the path of one that has vmoba installed");
    return path;
  }
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (fs::path folder = program.parent_path(); !folder.empty(); folder = folder.parent_path()) {
    const fs::path python = folder / ".venv" / "bin" / "python3";
    if (access(python.c_str(), X_OK) == 0) return python.string();
    if (folder == folder.root_path()) break;
    if (folder == program.parent_path().parent_path()) break;  // the folder of the program and the one above it
  }
  return "python3";
}

Outcome run_process(const std::vector<std::string>& command, bool capture) {
  std::vector<char*> arguments;
  for (const std::string& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
  arguments.push_back(nullptr);
  std::array<std::array<int, 2>, 2> pipes{};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (capture)
    for (int i = 0; i < 2; ++i) {
      if (pipe2(pipes[i].data(), O_CLOEXEC) != 0) return {127, "", "no pipe"};
      posix_spawn_file_actions_adddup2(&actions, pipes[i][1], i + 1);
    }
  pid_t child = 0;
  const int failed = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  Outcome outcome;
  if (capture) {
    for (auto& one : pipes) close(one[1]);
    std::array<pollfd, 2> waiting{pollfd{pipes[0][0], POLLIN, 0}, pollfd{pipes[1][0], POLLIN, 0}};
    std::array<std::string*, 2> into{&outcome.out, &outcome.errors};
    for (int open = failed ? 0 : 2; open > 0;) {
      if (poll(waiting.data(), waiting.size(), -1) < 0) continue;
      for (int i = 0; i < 2; ++i) {
        if (waiting[i].fd < 0 || waiting[i].revents == 0) continue;
        std::array<char, 65536> buffer;
        const ssize_t got = read(waiting[i].fd, buffer.data(), buffer.size());
        if (got > 0) {
          into[i]->append(buffer.data(), static_cast<std::size_t>(got));
        } else {
          waiting[i].fd = -1;
          --open;
        }
      }
    }
    for (auto& one : pipes) close(one[0]);
  }
  if (failed) return {127, "", command[0] + " cannot be started"};
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

int run_module(const std::vector<std::string>& command, const std::string& asked) {
  const Outcome outcome = run_process(command, true);
  const std::string last = last_line(outcome.errors);
  if (outcome.code == 0) {
    print(outcome.out);
    return exit_fine;
  }
  if (outcome.code == exit_file) {
    fmt::print(stderr, "{}\n", last);
    return exit_file;
  }
  if (outcome.code == exit_interrupted) return exit_interrupted;
  throw Error(Error::Kind::unsupported, asked, "",
              fmt::format("needs Python, and {} ended with code {}: {}", command.at(0), outcome.code, last),
              "give --python an interpreter that has vmoba, matplotlib and opencv-python-headless");
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const std::size_t cut = text.find_last_of('\n');
  return cut == std::string::npos ? text : text.substr(cut + 1);
}

}  // namespace vmoba::tools
