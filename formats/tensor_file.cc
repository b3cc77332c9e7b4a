#include "formats/tensor_file.h"

#include <fmt/format.h>

#include <vector>

#include "core/error.h"

namespace llmc {

TensorFile::TensorFile(const std::filesystem::path& path, const std::string& header) : file_(path) { file_.write(header); }

void TensorFile::place(const std::string& name, uint64_t offset, uint64_t size) {
  if (!places_.try_emplace(name, Place{.offset = offset, .size = size}).second) throw Error(ErrorKind::bug, fmt::format("tensor {} would be written twice", name));
}

uint64_t TensorFile::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto place = places_.find(name);
  if (place == places_.end() || place->second.written || place->second.size != bytes.size()) throw Error(ErrorKind::bug, fmt::format("tensor {}: {} bytes do not fit its layout", name, bytes.size()));
  file_.write_at(place->second.offset, bytes);
  place->second.written = true;
  return place->second.offset + bytes.size();
}

void TensorFile::pad(uint64_t offset, uint64_t size) { file_.write_at(offset, std::vector<std::byte>(static_cast<size_t>(size))); }

void TensorFile::close() {
  for (const auto& [name, place] : places_)
    if (!place.written) throw Error(ErrorKind::bug, fmt::format("tensor {} was never written", name));
  file_.close();
}

}  // namespace llmc
