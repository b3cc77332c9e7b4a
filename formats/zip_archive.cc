#include "formats/zip_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "core/byte_cursor.h"

namespace llmc {
namespace {

constexpr uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50;
constexpr uint32_t end64_signature = 0x06064b50, locator64_signature = 0x07064b50;
constexpr size_t end_bytes = 22, end64_bytes = 56, locator64_bytes = 20, longest_comment = 65535;
constexpr uint16_t encrypted_flag = 1, extra64 = 1;
constexpr uint32_t in_extra32 = 0xffffffffu;  // "see the ZIP64 record"
constexpr uint16_t in_extra16 = 0xffffu;

uint32_t read_signature(std::span<const std::byte> bytes) {
  uint32_t signature = 0;
  std::memcpy(&signature, bytes.data(), sizeof signature);
  return signature;
}

/// Where the central directory lies; offsets in bytes from the archive's start.
struct Directory {
  uint64_t entries = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
};

/// What the ZIP64 end record says where the old record has no room for it; the two must not contradict each other.
uint64_t widened(const ByteCursor& cursor, uint64_t narrow, uint64_t full, uint64_t wide, const char* what) {
  if (narrow != full && narrow != wide) cursor.refuse(fmt::format("the ZIP end records disagree on {}: {} and {}", what, narrow, wide));
  return wide;
}

/// From the end record, which ends the file, and the ZIP64 one before it, if there is one.
Directory find_directory(std::span<const std::byte> bytes, const std::string& where) {
  const ByteCursor whole(bytes, where);
  const size_t most = std::min(bytes.size(), end_bytes + longest_comment);
  std::optional<size_t> end;
  for (size_t back = end_bytes; back <= most && !end; ++back) {
    const auto record = bytes.last(back);
    uint16_t comment = 0;
    std::memcpy(&comment, record.data() + end_bytes - sizeof comment, sizeof comment);
    if (read_signature(record) == end_signature && comment == back - end_bytes) end = bytes.size() - back;
  }
  if (!end) whole.refuse("no ZIP archive, or a truncated one: the record that ends it is missing");

  ByteCursor record(bytes.subspan(*end), where);
  record.take(4, "end record");
  const auto disk = record.read<uint16_t>("end record"), first_disk = record.read<uint16_t>("end record");
  const auto here = record.read<uint16_t>("end record"), entries = record.read<uint16_t>("end record");
  const auto size = record.read<uint32_t>("end record"), offset = record.read<uint32_t>("end record");
  if (disk != 0 || first_disk != 0 || here != entries) whole.refuse("the ZIP archive is split over several files; expected one");
  Directory directory{.entries = entries, .offset = offset, .size = size};

  size_t begin = *end;  // of the end records
  if (*end >= locator64_bytes && read_signature(bytes.subspan(*end - locator64_bytes)) == locator64_signature) {
    if (*end < locator64_bytes + end64_bytes) whole.refuse("truncated: no room for the ZIP64 end record");
    begin = *end - locator64_bytes - end64_bytes;
    ByteCursor locator(bytes.subspan(*end - locator64_bytes + 8), where), record64(bytes.subspan(begin), where);
    const auto at = locator.read<uint64_t>("ZIP64 locator");
    if (at != begin || record64.read<uint32_t>("ZIP64 end record") != end64_signature) whole.refuse(fmt::format("the ZIP64 end record is expected at byte {}, the locator says {}", begin, at));
    record64.take(20, "ZIP64 end record");  // its size, versions, disks
    const auto here64 = record64.read<uint64_t>("ZIP64 end record"), entries64 = record64.read<uint64_t>("ZIP64 end record");
    const auto size64 = record64.read<uint64_t>("ZIP64 end record"), offset64 = record64.read<uint64_t>("ZIP64 end record");
    if (here64 != entries64) whole.refuse("the ZIP archive is split over several files; expected one");
    directory = {.entries = widened(whole, entries, in_extra16, entries64, "the number of entries"), .offset = widened(whole, offset, in_extra32, offset64, "the place of the directory"), .size = widened(whole, size, in_extra32, size64, "the size of the directory")};
  }
  if (directory.offset > begin || directory.size != begin - directory.offset) whole.refuse(fmt::format("the ZIP directory is said to be {} bytes from byte {}; expected it to end at byte {}", directory.size, directory.offset, begin));
  return directory;
}

/// One row of the central directory.
struct Entry {
  std::string name;
  uint64_t packed = 0;  ///< bytes in the archive
  uint64_t size = 0;    ///< bytes unpacked
  uint64_t header = 0;  ///< offset of the local header
};

/// Sizes and offset that did not fit their 32 bits, in the order in which the row leaves them out.
void read_extra64(std::span<const std::byte> extra, const std::string& where, Entry& entry) {
  ByteCursor fields(extra, where);
  while (fields.left() >= 4) {
    const auto id = fields.read<uint16_t>("extra field");
    const auto size = fields.read<uint16_t>("extra field");
    ByteCursor field(fields.take(size, "extra field"), where);
    if (id != extra64) continue;
    for (uint64_t* value : {&entry.size, &entry.packed, &entry.header})
      if (*value == in_extra32) *value = field.read<uint64_t>("ZIP64 extra field");
    return;
  }
}

Entry read_zip_entry(ByteCursor& cursor, const std::string& number) {
  if (cursor.read<uint32_t>(number) != central_signature) cursor.refuse(fmt::format("{} of the ZIP directory does not begin as one", number));
  cursor.take(4, number);  // versions
  const auto flags = cursor.read<uint16_t>(number), method = cursor.read<uint16_t>(number);
  cursor.take(8, number);  // time, checksum
  Entry entry;
  entry.packed = cursor.read<uint32_t>(number);
  entry.size = cursor.read<uint32_t>(number);
  const auto name = cursor.read<uint16_t>(number), extra = cursor.read<uint16_t>(number), comment = cursor.read<uint16_t>(number);
  const auto disk = cursor.read<uint16_t>(number);
  cursor.take(6, number);  // attributes
  entry.header = cursor.read<uint32_t>(number);
  entry.name = cursor.take_text(name, number);
  read_extra64(cursor.take(extra, number), cursor.where(), entry);
  cursor.take(comment, number);
  if (disk != 0) cursor.refuse(fmt::format("entry {}: lies in another file", entry.name));
  if (flags & encrypted_flag) cursor.refuse(fmt::format("entry {}: is encrypted", entry.name));
  if (method != 0 || entry.packed != entry.size) cursor.refuse(fmt::format("entry {}: is compressed (method {}, {} bytes from {}); expected it stored as it is", entry.name, method, entry.size, entry.packed));
  return entry;
}

/// From the local header to the end of the data; `data` are the last entry.size bytes of it.
std::span<const std::byte> find_data(std::span<const std::byte> before_directory, const Entry& entry, const std::string& where) {
  const std::string what = "entry " + entry.name;
  ByteCursor cursor(before_directory, where);
  cursor.take(entry.header, what);
  if (cursor.read<uint32_t>(what) != local_signature) cursor.refuse(fmt::format("{}: no local header at byte {}", what, entry.header));
  cursor.take(2, what);
  const auto flags = cursor.read<uint16_t>(what), method = cursor.read<uint16_t>(what);
  cursor.take(16, what);  // time, and sizes that may stand behind the data instead
  const auto name = cursor.read<uint16_t>(what), extra = cursor.read<uint16_t>(what);
  const std::string_view local_name = cursor.take_text(name, what);
  if (local_name != entry.name || method != 0 || (flags & encrypted_flag)) cursor.refuse(fmt::format("{}: its local header says otherwise: {}, method {}", what, local_name, method));
  cursor.take(extra, what);
  cursor.take(entry.size, what);
  return before_directory.subspan(static_cast<size_t>(entry.header), cursor.position() - static_cast<size_t>(entry.header));
}

}  // namespace

std::map<std::string, std::span<const std::byte>> parse_stored_zip(std::span<const std::byte> bytes, const std::string& where) {
  const Directory directory = find_directory(bytes, where);
  ByteCursor cursor(bytes.subspan(static_cast<size_t>(directory.offset), static_cast<size_t>(directory.size)), where);
  const auto before = bytes.first(static_cast<size_t>(directory.offset));
  std::map<std::string, std::span<const std::byte>> entries;
  std::vector<std::pair<std::span<const std::byte>, std::string>> extents;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    const Entry entry = read_zip_entry(cursor, fmt::format("entry {} of {}", i + 1, directory.entries));
    const auto extent = find_data(before, entry, where);
    if (!entries.try_emplace(entry.name, extent.last(static_cast<size_t>(entry.size))).second) cursor.refuse(fmt::format("entry {}: appears twice", entry.name));
    extents.emplace_back(extent, entry.name);
  }
  if (cursor.left() > 0) cursor.refuse(fmt::format("the ZIP directory lists {} entries, but {} more bytes follow them", directory.entries, cursor.left()));
  std::ranges::sort(extents, {}, [](const auto& extent) { return extent.first.data(); });
  for (size_t i = 1; i < extents.size(); ++i)
    if (extents[i - 1].first.data() + extents[i - 1].first.size() > extents[i].first.data()) cursor.refuse(fmt::format("entries {} and {} overlap", extents[i - 1].second, extents[i].second));
  return entries;
}

}  // namespace llmc
