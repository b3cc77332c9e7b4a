// Owns a file of tensors while it is written: a place for each, written once and whole, in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "core/output.h"

namespace llmc {

/// What the writers of containers share; they know the header and where tensors belong.
class TensorFile {
 public:
  /// Starts with the header. Throws Error(output), as all that writes.
  TensorFile(const std::filesystem::path& path, const std::string& header);
  /// Bytes of the header.
  uint64_t size() const { return file_.size(); }

  /// Throws Error(bug) when the tensor has a place already.
  void place(const std::string& name, uint64_t offset, uint64_t size);
  /// Answers where the tensor ends. Throws Error(bug) when it has no place, was written, or is of another size.
  uint64_t write(const std::string& name, std::span<const std::byte> bytes);
  /// Zeros between tensors.
  void pad(uint64_t offset, uint64_t size);
  /// Flushes. Throws Error(bug) when a tensor was never written.
  void close();

 private:
  struct Place {
    uint64_t offset = 0;
    uint64_t size = 0;
    bool written = false;
  };
  OutputFile file_;
  std::map<std::string, Place> places_;
};

}  // namespace llmc
