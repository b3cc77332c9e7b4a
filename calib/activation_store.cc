#include "calib/activation_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/output.h"

namespace llmc {

namespace {

Error io_error(const std::filesystem::path& directory, const char* what) { return Error(ErrorKind::output, fmt::format("{}: {} the calibration activations: {}", directory.string(), what, std::strerror(errno))); }

}  // namespace

ActivationStore::ActivationStore(std::span<const int64_t> lengths, int64_t width, DType dtype, const std::optional<std::filesystem::path>& spill_directory, PageMemory used) : offsets_{0}, width_(width), dtype_(dtype) {
  assert(dtype == DType::f32 || dtype == DType::bf16);
  for (int64_t length : lengths) offsets_.push_back(offsets_.back() + length);
  if (!spill_directory) {
    const uint64_t size = size_of(offsets_.back(), width, dtype);
    if (used.bytes().size() < size) {
      used = {};  // before the new memory, not after
      used = PageMemory(size);
    }
    used.shrink(size);
    memory_ = std::move(used);
    return;
  }
  directory_ = *spill_directory;
  std::string pattern = (directory_ / "llmc-activations-XXXXXX").string();
  file_ = mkostemp(pattern.data(), O_CLOEXEC);
  if (file_ < 0) throw io_error(directory_, "cannot make a file for");
  unlink(pattern.c_str());
}

ActivationStore::ActivationStore(ActivationStore&& other) noexcept
    : offsets_(std::move(other.offsets_)), width_(other.width_), dtype_(other.dtype_), memory_(std::move(other.memory_)), file_(std::exchange(other.file_, -1)), directory_(std::move(other.directory_)) {}

ActivationStore& ActivationStore::operator=(ActivationStore&& other) noexcept {
  std::swap(offsets_, other.offsets_);
  std::swap(width_, other.width_);
  std::swap(dtype_, other.dtype_);
  std::swap(memory_, other.memory_);
  std::swap(file_, other.file_);
  std::swap(directory_, other.directory_);
  return *this;
}

ActivationStore::~ActivationStore() {
  if (file_ >= 0) close(file_);
}

int64_t ActivationStore::length(int64_t sequence) const { return offsets_[static_cast<size_t>(sequence) + 1] - offsets_[static_cast<size_t>(sequence)]; }

uint64_t ActivationStore::size_of(int64_t tokens, int64_t width, DType dtype) { return static_cast<uint64_t>(tokens) * static_cast<uint64_t>(width) * get_info(dtype).bytes; }

void ActivationStore::write(int64_t sequence, ConstMatrixView values) {
  assert(values.rows == length(sequence) && values.cols == width_);
  const size_t row_bytes = size_of(1, width_, dtype_);
  const uint64_t start = size_of(offsets_[static_cast<size_t>(sequence)], width_, dtype_);
  std::vector<std::byte> encoded;
  if (file_ >= 0) encoded.resize(row_bytes * static_cast<size_t>(values.rows));
  std::byte* out = file_ >= 0 ? encoded.data() : memory_.bytes().data() + start;
  for (int64_t r = 0; r < values.rows; ++r) encode_floats(dtype_, values.row_span(r), {out + static_cast<size_t>(r) * row_bytes, row_bytes});
  for (size_t done = 0; done < encoded.size();) {
    const ssize_t count = pwrite(file_, encoded.data() + done, encoded.size() - done, static_cast<off_t>(start + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw io_error(directory_, "cannot write");
    done += static_cast<size_t>(count);
  }
}

std::vector<std::byte> ActivationStore::read_bytes(int64_t sequence) const {
  std::vector<std::byte> bytes(size_of(length(sequence), width_, dtype_));
  const uint64_t start = size_of(offsets_[static_cast<size_t>(sequence)], width_, dtype_);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = pread(file_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(start + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw io_error(directory_, "cannot read");
    done += static_cast<size_t>(count);
  }
  return bytes;
}

Matrix ActivationStore::read(int64_t sequence) const {
  Matrix values(length(sequence), width_);
  if (file_ >= 0) {
    decode_floats(dtype_, read_bytes(sequence), values.values());
  } else {
    const uint64_t start = size_of(offsets_[static_cast<size_t>(sequence)], width_, dtype_);
    decode_floats(dtype_, memory_.bytes().subspan(start, size_of(length(sequence), width_, dtype_)), values.values());
  }
  return values;
}

float* ActivationStore::direct(int64_t sequence) const {
  const std::byte* start = memory_.bytes().data() + size_of(offsets_[static_cast<size_t>(sequence)], width_, dtype_);
  return const_cast<float*>(reinterpret_cast<const float*>(start));  // pages are aligned for any type
}

ConstMatrixView ActivationStore::view(int64_t sequence, Matrix& buffer) const {
  if (is_direct()) return {direct(sequence), length(sequence), width_, width_};
  buffer = read(sequence);
  return buffer.view();
}

MatrixView ActivationStore::open(int64_t sequence, Matrix& buffer) {
  if (is_direct()) return {direct(sequence), length(sequence), width_, width_};
  buffer = Matrix(length(sequence), width_);
  return buffer.view();
}

void ActivationStore::commit(int64_t sequence, ConstMatrixView values) {
  if (!is_direct()) write(sequence, values);
}

void ActivationStore::save(const std::filesystem::path& path) const {
  OutputFile file(path);
  if (file_ < 0) file.write(memory_.bytes().first(size_of(offsets_.back(), width_, dtype_)));
  else
    for (int64_t i = 0; i < sequences(); ++i) file.write(read_bytes(i));
  file.close();
}

void ActivationStore::load(const std::filesystem::path& path) {
  const MappedFile file(path);
  const uint64_t expected = size_of(offsets_.back(), width_, dtype_);
  if (file.bytes().size() != expected) throw Error(ErrorKind::input, fmt::format("{}: expected {} bytes of activations, found {}", path.string(), expected, file.bytes().size()));
  for (int64_t i = 0; i < sequences(); ++i) {
    Matrix values(length(i), width_);
    decode_floats(dtype_, file.bytes().subspan(size_of(offsets_[static_cast<size_t>(i)], width_, dtype_), size_of(length(i), width_, dtype_)), values.values());
    write(i, values.view());
  }
}

}  // namespace llmc
