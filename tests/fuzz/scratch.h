// Owns what fuzzers of directories share: inputs that hold several files, and a directory in memory that these are written to.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include "core/error.h"

namespace llmc::fuzz {

/// Between the files of an input; make_file_seeds.py and make_state_seeds.cc write it too.
constexpr std::string_view file_mark = "\n--8<--\n";

inline std::vector<std::string_view> split_files(std::string_view input) {
  std::vector<std::string_view> files;
  for (size_t end = input.find(file_mark); end != std::string_view::npos; end = input.find(file_mark)) {
    files.push_back(input.substr(0, end));
    input.remove_prefix(end + file_mark.size());
  }
  files.push_back(input);
  return files;
}

/// One directory for all inputs, in memory where there is such a place; gone when the fuzzer ends.
class Scratch {
 public:
  Scratch() {
    std::string pattern = std::filesystem::exists("/dev/shm") ? "/dev/shm/llmc-fuzz-XXXXXX" : "/tmp/llmc-fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) std::abort();
    path_ = pattern;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline const std::filesystem::path& scratch() {
  static const Scratch directory;
  return directory.path();
}

inline void write(const std::string& name, std::string_view content) {
  std::FILE* file = std::fopen((scratch() / name).c_str(), "wb");
  if (!file || std::fwrite(content.data(), 1, content.size(), file) != content.size()) std::abort();
  std::fclose(file);
}

inline void clear() {
  for (const auto& entry : std::filesystem::directory_iterator(scratch())) std::filesystem::remove_all(entry.path());
}

/// Calls body; an error that says that llmc is at fault is a finding, as is any other exception.
void expect_no_bug(const auto& body) {
  try {
    body();
  } catch (const Error& problem) {
    if (problem.kind() == ErrorKind::bug) std::abort();
  }
}

inline void check_ids(std::span<const int32_t> ids, int64_t vocabulary) {
  for (const int32_t id : ids)
    if (id < 0 || id >= vocabulary) std::abort();
}

}  // namespace llmc::fuzz
