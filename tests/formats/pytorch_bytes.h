// Owns PyTorch files made by hand for tests: a ZIP archive of stored entries, and the opcodes of a pickle.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmc::test {

template <typename Number>
std::string little(Number value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

struct ZipItem {
  std::string name;
  std::string content;
  uint16_t flags = 0;
  uint16_t method = 0;
  std::string local_name = name;
  uint32_t unpacked = static_cast<uint32_t>(content.size());
};

/// The records of an archive, in the order of the file.
struct ZipParts {
  std::string data, directory;
  uint16_t entries = 0;

  std::string whole() const { return data + directory + end(); }
  std::string end(std::string_view comment = "") const {
    return "PK\5\6" + little<uint32_t>(0) + little(entries) + little(entries) + little(static_cast<uint32_t>(directory.size())) + little(static_cast<uint32_t>(data.size())) + little(static_cast<uint16_t>(comment.size())) + std::string(comment);
  }
};

inline ZipParts make_zip(const std::vector<ZipItem>& items) {
  ZipParts zip;
  for (const ZipItem& item : items) {
    const auto size = static_cast<uint32_t>(item.content.size());
    const std::string common = little(item.flags) + little(item.method) + little<uint64_t>(0) + little(size) + little(item.unpacked);
    zip.directory += "PK\1\2" + little<uint32_t>(0) + common + little(static_cast<uint16_t>(item.name.size())) + little<uint64_t>(0) + little<uint32_t>(0) + little(static_cast<uint32_t>(zip.data.size())) + item.name;
    zip.data += "PK\3\4" + little<uint16_t>(0) + common + little(static_cast<uint16_t>(item.local_name.size())) + little<uint16_t>(0) + item.local_name + item.content;
    ++zip.entries;
  }
  return zip;
}

inline std::string text_op(std::string_view text) { return "X" + little(static_cast<uint32_t>(text.size())) + std::string(text); }
inline std::string int_op(int32_t value) { return "J" + little(value); }
inline std::string global_op(std::string_view module, std::string_view name) { return "c" + std::string(module) + "\n" + std::string(name) + "\n"; }
inline std::string tuple_op(const std::vector<std::string>& items) {
  std::string ops = "(";
  for (const std::string& item : items) ops += item;
  return ops + "t";
}
inline std::string numbers_op(const std::vector<int32_t>& values) {
  std::vector<std::string> items;
  for (int32_t value : values) items.push_back(int_op(value));
  return tuple_op(items);
}
inline std::string storage_op(std::string_view type, std::string_view key, int32_t count) { return tuple_op({text_op("storage"), global_op("torch", type), text_op(key), text_op("cpu"), int_op(count)}) + "Q"; }
inline std::string ordered_dict_op() { return global_op("collections", "OrderedDict") + ")R"; }
inline std::string tensor_op(const std::string& storage, int32_t offset, const std::vector<int32_t>& shape, const std::vector<int32_t>& strides) {
  return global_op("torch._utils", "_rebuild_tensor_v2") + tuple_op({storage, int_op(offset), numbers_op(shape), numbers_op(strides), "\x89", ordered_dict_op()}) + "R";
}
inline const std::string proto2 = "\x80\x02";
/// A whole pickle: a dictionary of one entry t.
inline std::string state_dict(const std::string& value) { return proto2 + "}(" + text_op("t") + value + "u."; }

}  // namespace llmc::test
