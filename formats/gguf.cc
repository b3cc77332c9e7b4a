#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>
#include <unordered_map>

#include "core/byte_cursor.h"
#include "core/error.h"
#include "core/side_file.h"

namespace llmc {

namespace fs = std::filesystem;

namespace {

constexpr int deepest_array = 8;
constexpr uint64_t longest_key = 65535;  // the format's limit
constexpr uint64_t least_tensor_bytes = 8 + 4 + 4 + 8, least_entry_bytes = 8 + 4 + 1;  // of the header: empty name or key, no dimension, a byte

/// Reads the values of a GGUF header.
class Cursor : public ByteCursor {
 public:
  using ByteCursor::ByteCursor;

  std::string read_string(const std::string& what) {
    const auto size = read<uint64_t>(what + ": length");
    return std::string(take_text(size, what));
  }

  GgufValueType read_type(const std::string& what) {
    const auto type = read<uint32_t>(what + ": type");
    if (type >= gguf_value_types) refuse(fmt::format("{}: value type {} is not known; expected 0 to {}", what, type, gguf_value_types - 1));
    return static_cast<GgufValueType>(type);
  }

  void check_booleans(std::span<const std::byte> bytes, const std::string& what) const {
    for (std::byte value : bytes)
      if (value > std::byte{1}) refuse(fmt::format("{}: a boolean is {}; expected 0 or 1", what, std::to_integer<int>(value)));
  }

  GgufArray read_array(const std::string& what, int depth) {
    if (depth > deepest_array) refuse(fmt::format("{}: arrays are nested more than {} deep", what, deepest_array));
    GgufArray array{.element = read_type(what + ": element"), .items = {}};
    const auto count = read<uint64_t>(what + ": count");
    const size_t scalar = gguf_scalar_bytes(array.element);
    const uint64_t least = scalar > 0 ? scalar : array.element == GgufValueType::string ? 8 : 12;
    if (count > left() / least) refuse(fmt::format("{}: {} elements of type {} need at least {} bytes each, found {} bytes in all", what, count, to_string(array.element), least, left()));
    if (scalar > 0) {
      const auto bytes = take(count * scalar, what);
      if (array.element == GgufValueType::boolean) check_booleans(bytes, what);
      array.items = std::vector<std::byte>(bytes.begin(), bytes.end());
    } else if (array.element == GgufValueType::string) {
      std::vector<std::string> strings;
      for (uint64_t i = 0; i < count; ++i) strings.push_back(read_string(fmt::format("{}: element {}", what, i)));
      array.items = std::move(strings);
    } else {
      std::vector<GgufArray> arrays;
      for (uint64_t i = 0; i < count; ++i) arrays.push_back(read_array(fmt::format("{}: element {}", what, i), depth + 1));
      array.items = std::move(arrays);
    }
    return array;
  }

  GgufValue read_value(const std::string& what) {
    const GgufValueType type = read_type(what);
    switch (type) {
      case GgufValueType::u8: return {type, uint64_t{read<uint8_t>(what)}};
      case GgufValueType::i8: return {type, int64_t{read<int8_t>(what)}};
      case GgufValueType::u16: return {type, uint64_t{read<uint16_t>(what)}};
      case GgufValueType::i16: return {type, int64_t{read<int16_t>(what)}};
      case GgufValueType::u32: return {type, uint64_t{read<uint32_t>(what)}};
      case GgufValueType::i32: return {type, int64_t{read<int32_t>(what)}};
      case GgufValueType::u64: return {type, read<uint64_t>(what)};
      case GgufValueType::i64: return {type, read<int64_t>(what)};
      case GgufValueType::f32: return {type, double{read<float>(what)}};
      case GgufValueType::f64: return {type, read<double>(what)};
      case GgufValueType::string: return {type, read_string(what)};
      case GgufValueType::array: return {type, read_array(what, 1)};
      case GgufValueType::boolean: break;
    }
    const auto bytes = take(1, what);
    check_booleans(bytes, what);
    return {type, bytes[0] == std::byte{1}};
  }
};

void read_metadata(Cursor& cursor, uint64_t count, GgufMetadata& metadata) {
  std::set<std::string> seen;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string key = cursor.read_string(fmt::format("key {} of {}", i + 1, count));
    if (key.empty() || key.size() > longest_key) cursor.refuse(fmt::format("key {} of {}: expected a name of 1 to {} bytes, found {}", i + 1, count, longest_key, key.size()));
    if (!seen.insert(key).second) cursor.refuse(fmt::format("key {}: appears twice", key));
    metadata.append(key, cursor.read_value("key " + key));
  }
}

uint64_t read_alignment(const Cursor& cursor, const GgufMetadata& metadata) {
  const int64_t alignment = metadata.find_int("general.alignment").value_or(gguf_default_alignment);
  constexpr int64_t largest = int64_t{1} << 30;
  if (alignment < 1 || alignment > largest || !std::has_single_bit(static_cast<uint64_t>(alignment))) cursor.refuse(fmt::format("key general.alignment: expected a power of two up to {}, found {}", largest, alignment));
  return static_cast<uint64_t>(alignment);
}

/// A tensor of the header, whose bytes are still to be found.
struct Listed {
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t size = 0;
};

Listed read_tensor(Cursor& cursor, const std::string& number) {
  Listed listed;
  GgufTensor& tensor = listed.tensor;
  tensor.name = cursor.read_string(number + ": name");
  if (tensor.name.empty() || tensor.name.size() > gguf_longest_name) cursor.refuse(fmt::format("{}: expected a name of 1 to {} bytes, found {}", number, gguf_longest_name, tensor.name.size()));
  const std::string what = "tensor " + tensor.name;
  const auto dimensions = cursor.read<uint32_t>(what + ": number of dimensions");
  if (dimensions < 1 || dimensions > gguf_most_dimensions) cursor.refuse(fmt::format("{}: expected 1 to {} dimensions, found {}", what, gguf_most_dimensions, dimensions));
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = cursor.read<uint64_t>(what + ": dimension");
    if (size < 1 || size > INT64_MAX) cursor.refuse(fmt::format("{}: dimension {} is {}; expected 1 to 2^63 - 1", what, d, size));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  tensor.type = &get_gguf_type(cursor.read<uint32_t>(what + ": type"), fmt::format("{}: {}", cursor.where(), what));
  listed.offset = cursor.read<uint64_t>(what + ": offset");
  return listed;
}

/// Finds the bytes of each tensor: one behind the other, each at a multiple of the alignment.
void place_tensors(std::span<const std::byte> data, uint64_t alignment, std::vector<Listed>& listed, const std::string& where) {
  Problems problems;
  uint64_t expected = 0;
  for (Listed& entry : listed) {
    const GgufTensor& tensor = entry.tensor;
    try {
      entry.size = gguf_tensor_bytes(*tensor.type, tensor.shape, "tensor " + tensor.name);
    } catch (const Error& problem) {
      problems.add(problem.what());
      break;  // where the next one should be is not known
    }
    if (entry.offset != expected) {
      const char* wrong = entry.offset % alignment != 0 ? "is not aligned" : entry.offset < expected ? "overlaps the tensor before it" : "a hole before it";
      problems.add(fmt::format("tensor {}: {}: starts at byte {} of the data, expected {}", tensor.name, wrong, entry.offset, expected));
      break;
    }
    if (entry.size > data.size() - std::min<uint64_t>(expected, data.size())) {
      problems.add(fmt::format("tensor {}: truncated: {} {} needs {} bytes at byte {} of the data, which has {}", tensor.name, tensor.type->name, to_string(tensor.shape), entry.size, expected, data.size()));
      break;
    }
    entry.tensor.bytes = data.subspan(static_cast<size_t>(expected), static_cast<size_t>(entry.size));
    expected += (entry.size + alignment - 1) / alignment * alignment;  // the sizes lie within the file and the alignment is small: no overflow
  }
  if (problems.empty() && data.size() > expected) problems.add(fmt::format("the tensors end at byte {} of the data, but the file holds {}", expected, data.size()));
  problems.throw_if_any(ErrorKind::input, where);
}

}  // namespace

uint64_t gguf_tensor_bytes(const GgufTypeInfo& type, const Shape& shape, const std::string& where) {
  const int64_t count = element_count(shape, where);
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row % type.block != 0) throw Error(ErrorKind::input, fmt::format("{}: rows of {} are not a multiple of {}, the block of {}", where, row, type.block, type.name));
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(count / type.block), static_cast<uint64_t>(type.bytes), &bytes) || bytes > INT64_MAX) throw Error(ErrorKind::input, fmt::format("{}: shape {} is not a possible size", where, to_string(shape)));
  return bytes;
}

GgufContent parse_gguf(std::span<const std::byte> bytes, const std::string& where) {
  Cursor cursor(bytes, where);
  const auto magic = cursor.take(4, "the magic number");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) cursor.refuse(fmt::format("not a GGUF file: expected it to start with GGUF, found {:02x} {:02x} {:02x} {:02x}", std::to_integer<int>(magic[0]), std::to_integer<int>(magic[1]), std::to_integer<int>(magic[2]), std::to_integer<int>(magic[3])));
  GgufContent content;
  content.metadata = GgufMetadata(where);
  content.version = cursor.read<uint32_t>("the version");
  if ((content.version & 0xffff) == 0 && content.version != 0) cursor.refuse("is big-endian; expected a little-endian file (gguf-convert-endian makes one)");
  if (content.version != 2 && content.version != 3) cursor.refuse(fmt::format("version {} is not supported; expected 2 or 3", content.version));
  const auto tensors = cursor.read<uint64_t>("the number of tensors");
  const auto entries = cursor.read<uint64_t>("the number of keys");
  if (tensors > cursor.left() / least_tensor_bytes) cursor.refuse(fmt::format("{} tensors do not fit into a file of {} bytes", tensors, bytes.size()));
  if (entries > cursor.left() / least_entry_bytes) cursor.refuse(fmt::format("{} keys do not fit into a file of {} bytes", entries, bytes.size()));
  read_metadata(cursor, entries, content.metadata);
  content.alignment = read_alignment(cursor, content.metadata);

  std::vector<Listed> listed;
  std::set<std::string> names;
  for (uint64_t i = 0; i < tensors; ++i) {
    listed.push_back(read_tensor(cursor, fmt::format("tensor {} of {}", i + 1, tensors)));
    if (!names.insert(listed.back().tensor.name).second) cursor.refuse(fmt::format("tensor {}: appears twice", listed.back().tensor.name));
  }
  const uint64_t data_start = (cursor.position() + content.alignment - 1) / content.alignment * content.alignment;
  if (!listed.empty() && data_start > bytes.size()) cursor.refuse(fmt::format("truncated: the data start at byte {}, but the file holds {}", data_start, bytes.size()));
  place_tensors(bytes.subspan(static_cast<size_t>(std::min<uint64_t>(data_start, bytes.size()))), content.alignment, listed, where);
  for (Listed& entry : listed) content.tensors.push_back(std::move(entry.tensor));
  return content;
}

namespace {

/// What a shard says of the split: its number, how many there are, how many tensors in all.
struct Split {
  int64_t number = 0;
  int64_t count = 1;
  int64_t tensors = -1;  ///< not said
};

Split read_split(const GgufMetadata& metadata) {
  const Split split{.number = metadata.find_int("split.no").value_or(0), .count = metadata.find_int("split.count").value_or(1), .tensors = metadata.find_int("split.tensors.count").value_or(-1)};
  if (split.count < 0 || split.count > gguf_most_shards) throw Error(ErrorKind::input, fmt::format("{}: key split.count: expected 0 to {}, found {}", metadata.where(), gguf_most_shards, split.count));
  if (split.tensors < 0 && metadata.find("split.tensors.count")) throw Error(ErrorKind::input, fmt::format("{}: key split.tensors.count: expected a count, found {}", metadata.where(), split.tensors));
  if (split.number < 0 || split.number >= std::max<int64_t>(split.count, 1)) throw Error(ErrorKind::input, fmt::format("{}: key split.no: expected 0 to {}, found {}", metadata.where(), std::max<int64_t>(split.count, 1) - 1, split.number));
  return split;
}

bool is_about_split(const GgufEntry& entry) { return entry.key.starts_with("split.") || entry.key == "general.alignment"; }

/// What is known before a shard is joined.
struct Joined {
  std::unordered_map<std::string_view, const GgufValue*> keys;  ///< of the first shard
  std::set<std::string> tensors;
};

/// Adds the tensors of one more shard, which must agree with the first.
void join_shard(GgufFiles& all, Joined& joined, const Split& first, int64_t number, const fs::path& path) {
  if (!has_entry(path)) throw Error(ErrorKind::input, fmt::format("{}: not found; the file is split into {} shards", path.string(), first.count));
  all.files.emplace_back(path);
  GgufContent shard = parse_gguf(all.files.back().bytes(), path.string());
  const Split split = read_split(shard.metadata);
  const auto refuse = [&](const std::string& key, int64_t expected, int64_t found) { throw Error(ErrorKind::input, fmt::format("{}: key {}: expected {}, found {}", path.string(), key, expected, found)); };
  if (split.number != number) refuse("split.no", number, split.number);
  if (split.count != first.count) refuse("split.count", first.count, split.count);
  if (split.tensors != first.tensors) refuse("split.tensors.count", first.tensors, split.tensors);
  for (const GgufEntry& entry : shard.metadata.entries()) {
    const auto known = joined.keys.find(entry.key);
    if (!is_about_split(entry) && (known == joined.keys.end() || !(*known->second == entry.value))) throw Error(ErrorKind::input, fmt::format("{}: key {}: differs from the first shard's, or is missing there", path.string(), entry.key));
  }
  for (GgufTensor& tensor : shard.tensors) {
    if (!joined.tensors.insert(tensor.name).second) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: is in an earlier shard too", path.string(), tensor.name));
    all.tensors.push_back(std::move(tensor));
  }
}

}  // namespace

std::string gguf_shard_ending(int64_t number, int64_t count) { return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count); }

GgufFiles open_gguf(const fs::path& path) {
  GgufFiles all;
  all.files.emplace_back(path);
  GgufContent content = parse_gguf(all.files[0].bytes(), path.string());
  all.metadata = std::move(content.metadata);
  all.tensors = std::move(content.tensors);
  const Split split = read_split(all.metadata);
  if (split.count > 1) {
    const std::string ending = gguf_shard_ending(split.number, split.count);
    const std::string name = path.string();
    if (split.number != 0) throw Error(ErrorKind::input, fmt::format("{}: is shard {} of {}; name the first, *{}", name, split.number + 1, split.count, gguf_shard_ending(0, split.count)));
    if (!name.ends_with(ending)) throw Error(ErrorKind::input, fmt::format("{}: says that it is the first of {} shards; expected a name that ends in {}", name, split.count, ending));
    const std::string prefix = name.substr(0, name.size() - ending.size());
    Joined joined;
    for (const GgufEntry& entry : all.metadata.entries()) joined.keys.emplace(entry.key, &entry.value);
    for (const GgufTensor& tensor : all.tensors) joined.tensors.insert(tensor.name);
    for (int64_t number = 1; number < split.count; ++number) join_shard(all, joined, split, number, prefix + gguf_shard_ending(number, split.count));
  }
  if (split.tensors >= 0 && split.tensors != std::ssize(all.tensors)) throw Error(ErrorKind::input, fmt::format("{}: key split.tensors.count: expected {}, the number of tensors in {} files, found {}", path.string(), all.tensors.size(), all.files.size(), split.tensors));
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) all.metadata.erase(key);
  return all;
}

}  // namespace llmc
