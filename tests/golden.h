// Owns reading what tests/golden/make_golden.py wrote.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "calib/npy.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "model/forward.h"

/// Values of a .npy file of elements T; `shape` as the file says.
template <typename T>
struct GoldenArray {
  llmc::Shape shape;
  std::vector<T> values;
};

template <typename T>
GoldenArray<T> read_golden(const std::filesystem::path& path, llmc::DType dtype) {
  const llmc::MappedFile file(path);
  const llmc::TensorView view = llmc::parse_npy(file.bytes(), path.string());
  if (view.dtype != dtype || llmc::get_info(dtype).bytes != sizeof(T)) throw llmc::Error(llmc::ErrorKind::bug, path.string() + ": another dtype than the test expects");
  GoldenArray<T> array{view.shape, std::vector<T>(static_cast<size_t>(view.count()))};
  std::memcpy(array.values.data(), view.bytes.data(), view.bytes.size());
  return array;
}

inline std::filesystem::path golden_root() { return std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tiny"; }

/// The directories of tests/golden/tiny, by name.
inline std::vector<std::filesystem::path> golden_models() {
  std::vector<std::filesystem::path> models;
  for (const auto& entry : std::filesystem::directory_iterator(golden_root()))
    if (entry.is_directory()) models.push_back(entry.path());
  std::ranges::sort(models);
  return models;
}

/// What a model makes of the first of the token sequences that lie beside it.
inline llmc::Matrix logits_of(const llmc::Model& model, const std::filesystem::path& directory) {
  const auto tokens = read_golden<int32_t>(directory / "input_ids.npy", llmc::DType::i32);
  return llmc::compute_logits(model, std::span(tokens.values).first(static_cast<size_t>(tokens.shape[1])), {});
}
