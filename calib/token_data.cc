#include "calib/token_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "calib/json_lines.h"
#include "calib/npy.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "core/utf8.h"

namespace llmc {

static_assert(std::endian::native == std::endian::little, ".u16 and .u32 files are read as they lie in memory");

namespace {

/// ".npy" of IDS.NPY too.
std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& letter : extension) letter = letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  return extension;
}

/// Throws unless there is an id, and every id is in the vocabulary.
TokenData checked(TokenData data, int64_t vocabulary) {
  const bool is_empty = std::ranges::all_of(data.sequences, [](const auto& sequence) { return sequence.empty(); });
  if (is_empty) throw Error(ErrorKind::input, data.name + ": holds no tokens");
  for (size_t s = 0; s < data.sequences.size(); ++s)
    for (size_t i = 0; i < data.sequences[s].size(); ++i)
      if (const int32_t id = data.sequences[s][i]; id < 0 || id >= vocabulary)
        throw Error(ErrorKind::input, fmt::format("{}: sequence {}, position {}: expected a token id from 0 to {}, found {}", data.name, s, i, vocabulary - 1, id));
  return data;
}

template <typename Stored>
std::vector<int32_t> read_ids(std::span<const std::byte> bytes, const std::string& where) {
  std::vector<int32_t> ids(bytes.size() / sizeof(Stored));
  for (size_t i = 0; i < ids.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof stored, sizeof stored);
    if (!std::in_range<int32_t>(stored)) throw Error(ErrorKind::input, fmt::format("{}: {} at position {} is not a token id", where, stored, i));
    ids[i] = static_cast<int32_t>(stored);
  }
  return ids;
}

std::vector<int32_t> read_ids(DType dtype, std::span<const std::byte> bytes, const std::string& where) {
  switch (dtype) {
    case DType::u8: return read_ids<uint8_t>(bytes, where);
    case DType::u16: return read_ids<uint16_t>(bytes, where);
    case DType::u32: return read_ids<uint32_t>(bytes, where);
    case DType::i32: return read_ids<int32_t>(bytes, where);
    case DType::i64: return read_ids<int64_t>(bytes, where);
    default: throw Error(ErrorKind::input, fmt::format("{}: expected token ids of type U8, U16, U32, I32 or I64, found {}", where, get_info(dtype).name));
  }
}

std::vector<std::vector<int32_t>> read_npy(std::span<const std::byte> bytes, const std::string& where) {
  const TensorView array = parse_npy(bytes, where);
  if (array.shape.size() != 1 && array.shape.size() != 2)
    throw Error(ErrorKind::input, fmt::format("{}: expected token ids in 1 or 2 dimensions, found shape {}", where, to_string(array.shape)));
  if (array.bytes.empty()) return {};
  const size_t rows = array.shape.size() == 1 ? 1 : static_cast<size_t>(array.shape[0]);
  const size_t row_bytes = array.bytes.size() / rows;
  std::vector<std::vector<int32_t>> sequences;
  for (size_t row = 0; row < rows; ++row) sequences.push_back(read_ids(array.dtype, array.bytes.subspan(row * row_bytes, row_bytes), where));
  return sequences;
}

std::vector<int32_t> read_raw(DType dtype, std::span<const std::byte> bytes, const std::string& where) {
  const size_t each = get_info(dtype).bytes;
  if (bytes.size() % each != 0) throw Error(ErrorKind::input, fmt::format("{}: expected a multiple of {} bytes, found {}", where, each, bytes.size()));
  return read_ids(dtype, bytes, where);
}

/// Adds a sequence per line.
void read_jsonl(std::string_view text, const TextReading& reading, TokenData& data) {
  std::vector<std::string> texts;
  for_each_json_line(text, data.name, [&](const nlohmann::json& object, const std::string& where) { texts.push_back(FieldReader(object, where).get_string(reading.field)); });
  data.sequences = reading.tokenizer->encode_all(texts, SpecialTokens::omit);
  data.byte_lengths.resize(data.sequences.size());
  parallel_for(std::ssize(data.sequences), [&](int64_t i) { data.byte_lengths[static_cast<size_t>(i)] = reading.tokenizer->byte_lengths(data.sequences[static_cast<size_t>(i)]); });
}

}  // namespace

bool holds_token_ids(const std::filesystem::path& path) {
  const std::string extension = lower_extension(path);
  return extension == ".npy" || extension == ".u16" || extension == ".u32";
}

TokenData load_token_data(const std::filesystem::path& path, const TextReading& reading, int64_t vocabulary) {
  const std::string where = path.string();
  const std::string extension = lower_extension(path);
  const MappedFile file(path);
  TokenData data{.name = where, .sequences = {}, .byte_lengths = {}, .sha256 = sha256(file.bytes())};
  if (extension == ".npy") data.sequences = read_npy(file.bytes(), where);
  else if (extension == ".u16") data.sequences = {read_raw(DType::u16, file.bytes(), where)};
  else if (extension == ".u32") data.sequences = {read_raw(DType::u32, file.bytes(), where)};
  else if (reading.tokenizer && extension == ".jsonl") read_jsonl(file.text(), reading, data);
  else if (reading.tokenizer) return tokenize_text(file.text(), where, *reading.tokenizer, vocabulary);
  else throw Error(ErrorKind::input, fmt::format("{}: text needs a tokenizer.json in the model's folder; without one, give token ids (.npy, .u16 or .u32)", where));
  return checked(std::move(data), vocabulary);
}

TokenData tokenize_text(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t vocabulary) {
  if (const auto position = find_invalid_utf8(text)) throw Error(ErrorKind::input, fmt::format("{}: {}", name, describe_invalid_utf8(text, *position)));
  TokenData data{.name = name, .sequences = {tokenizer.encode(text, SpecialTokens::omit)}, .byte_lengths = {}, .sha256 = sha256(std::as_bytes(std::span(text)))};
  data = checked(std::move(data), vocabulary);
  data.byte_lengths = {tokenizer.byte_lengths(data.sequences.front())};
  return data;
}

}  // namespace llmc
