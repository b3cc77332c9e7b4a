// Owns the activations of all calibration sequences at one place of the model, in memory or spilled to a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "core/page_memory.h"
#include "core/tensor.h"

namespace llmc {

/// One matrix [T, width] per sequence, kept as f32 or bf16. Different sequences may be read and written from several
/// threads at once.
class ActivationStore {
 public:
  /// `lengths`: T of each sequence. `dtype`: f32 or bf16. With a directory the values live in a file there that has no name
  /// and goes with the store; without one, in memory: in `used`, whatever it holds, if it is large enough
  /// (what is too much goes back), else in new memory.
  /// Throws Error(output) when the file cannot be made.
  ActivationStore(std::span<const int64_t> lengths, int64_t width, DType dtype, const std::optional<std::filesystem::path>& spill_directory, PageMemory used = {});
  ActivationStore(ActivationStore&& other) noexcept;
  ActivationStore& operator=(ActivationStore&& other) noexcept;
  ~ActivationStore();

  int64_t sequences() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t length(int64_t sequence) const;
  int64_t width() const { return width_; }

  /// Rounds to the store's type. Throws Error(output) naming the directory when the disk is full.
  void write(int64_t sequence, ConstMatrixView values);
  Matrix read(int64_t sequence) const;
  /// The values where they are, if they are in memory as f32; else read into `buffer`, which the view borrows.
  ConstMatrixView view(int64_t sequence, Matrix& buffer) const;
  /// A place for new values of a sequence: in the store itself, or `buffer`, sized; commit() stores what is there.
  MatrixView open(int64_t sequence, Matrix& buffer);
  void commit(int64_t sequence, ConstMatrixView values);

  /// The memory of a store that is done with, for another one: pages that are there need not be cleared. None when it is a file.
  PageMemory take_memory() && { return std::move(memory_); }

  /// All values as they are kept, for a checkpoint of a run. Throw Error(output), Error(input).
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

  /// Bytes that a store of `tokens` tokens takes.
  static uint64_t size_of(int64_t tokens, int64_t width, DType dtype);

 private:
  bool is_direct() const { return file_ < 0 && dtype_ == DType::f32; }
  /// The values of a sequence in memory, of a store that is_direct().
  float* direct(int64_t sequence) const;
  std::vector<std::byte> read_bytes(int64_t sequence) const;

  std::vector<int64_t> offsets_;  ///< first token of each sequence, and the end
  int64_t width_ = 0;
  DType dtype_ = DType::f32;
  PageMemory memory_;  ///< or
  int file_ = -1;
  std::filesystem::path directory_;
};

}  // namespace llmc
