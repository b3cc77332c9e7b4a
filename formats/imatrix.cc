#include "formats/imatrix.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/output.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

// Both layouts: llama.cpp's tools/imatrix/imatrix.cpp (save_imatrix, save_imatrix_legacy) and common/imatrix-loader.cpp.

namespace llmc {
namespace {

constexpr const char* type_key = "general.type";
constexpr const char* type_name = "imatrix";
constexpr const char* datasets_key = "imatrix.datasets";
constexpr const char* chunk_count_key = "imatrix.chunk_count";
constexpr const char* chunk_size_key = "imatrix.chunk_size";
constexpr std::string_view sums_suffix = ".in_sum2", counts_suffix = ".counts";

std::vector<float> read_floats(std::span<const std::byte> bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

/// What is wrong with sums of squares; empty: nothing.
std::string find_problem(std::span<const float> sums) {
  for (size_t i = 0; i < sums.size(); ++i)
    if (!(sums[i] >= 0) || !std::isfinite(sums[i])) return fmt::format("column {}: expected a sum of squares, found {}", i, sums[i]);
  return {};
}

/// The tensors of one entry in a GGUF file.
struct EntryTensors {
  const GgufTensor* sums = nullptr;
  const GgufTensor* counts = nullptr;
};

/// Says what is wrong, or fills the entry.
std::string read_old_entry(const EntryTensors& tensors, ImatrixEntry& entry) {
  if (!tensors.sums || !tensors.counts) return fmt::format("expected tensors that end in {} and {}, the one in {} is missing", sums_suffix, counts_suffix, tensors.sums ? counts_suffix : sums_suffix);
  for (const GgufTensor* tensor : {tensors.sums, tensors.counts})
    if (tensor->type->type != GgufType::f32) return fmt::format("{}: expected F32, found {}", tensor->name, tensor->type->name);
  const auto matrices = static_cast<int64_t>(tensors.counts->bytes.size() / sizeof(float));
  const auto values = static_cast<int64_t>(tensors.sums->bytes.size() / sizeof(float));
  if (matrices != 1 || values != tensors.sums->shape.back()) return fmt::format("holds sums {} and counts {}; expected those of one matrix, experts are not supported", to_string(tensors.sums->shape), to_string(tensors.counts->shape));
  const float count = read_floats(tensors.counts->bytes)[0];
  constexpr float most = 0x1p53f;
  if (!(count >= 1) || count > most || count != std::floor(count)) return fmt::format("count: expected a whole number from 1, found {}", count);
  entry = {.sums = read_floats(tensors.sums->bytes), .count = static_cast<int64_t>(count)};
  return find_problem(entry.sums);
}

int64_t get_count(const GgufMetadata& metadata, const char* key) {
  const auto value = metadata.find_int(key);
  if (!value || *value < 0) throw Error(ErrorKind::input, fmt::format("{}: key {}: expected a number from 0, {}", metadata.where(), key, value ? fmt::format("found {}", *value) : "it is missing"));
  return *value;
}

Imatrix parse_new(std::span<const std::byte> bytes, const std::string& where) {
  const GgufContent content = parse_gguf(bytes, where);
  const GgufMetadata& metadata = content.metadata;
  if (const std::string& type = metadata.get_string(type_key); type != type_name) throw Error(ErrorKind::input, fmt::format("{}: key {}: expected {}, found {}", where, type_key, type_name, type));
  const std::vector<std::string>* datasets = metadata.find_strings(datasets_key);
  if (!datasets) throw Error(ErrorKind::input, fmt::format("{}: key {} is missing", where, datasets_key));
  Imatrix imatrix{.entries = {}, .datasets = *datasets, .chunk_count = get_count(metadata, chunk_count_key), .chunk_size = get_count(metadata, chunk_size_key)};

  Problems problems;
  std::map<std::string, EntryTensors> found;
  for (const GgufTensor& tensor : content.tensors) {
    const auto is = [&](std::string_view suffix) { return tensor.name.ends_with(suffix) && tensor.name.size() > suffix.size(); };
    if (is(sums_suffix)) found[tensor.name.substr(0, tensor.name.size() - sums_suffix.size())].sums = &tensor;
    else if (is(counts_suffix)) found[tensor.name.substr(0, tensor.name.size() - counts_suffix.size())].counts = &tensor;
    else problems.add(fmt::format("tensor {}: expected a name that ends in {} or {}", tensor.name, sums_suffix, counts_suffix));
  }
  for (const auto& [name, tensors] : found)
    if (const std::string problem = read_old_entry(tensors, imatrix.entries[name]); !problem.empty()) problems.add(fmt::format("entry {}: {}", name, problem));
  if (content.tensors.empty()) problems.add("holds no entry");
  problems.throw_if_any(ErrorKind::input, where);
  return imatrix;
}

/// Reads the little-endian values of an old file; every read says what it is of.
class OldFileCursor {
 public:
  OldFileCursor(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  uint64_t left() const { return bytes_.size(); }
  [[noreturn]] void refuse(const std::string& what) const { throw Error(ErrorKind::input, fmt::format("{}: {}", where_, what)); }

  std::span<const std::byte> take(uint64_t size, const std::string& what) {
    if (size > left()) refuse(fmt::format("truncated: {} needs {} bytes, found {}", what, size, left()));
    const auto taken = bytes_.first(static_cast<size_t>(size));
    bytes_ = bytes_.subspan(static_cast<size_t>(size));
    return taken;
  }
  /// A number of that many at least.
  int64_t read_count(int64_t least, const std::string& what) {
    int32_t value = 0;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    if (value < least) refuse(fmt::format("{}: expected at least {}, found {}", what, least, value));
    return value;
  }
  std::string read_text(int64_t size, const std::string& what) {
    const auto bytes = take(static_cast<uint64_t>(size), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
};

Imatrix parse_old(std::span<const std::byte> bytes, const std::string& where) {
  OldFileCursor cursor(bytes, where);
  constexpr uint64_t least_entry_bytes = 4 + 1 + 4 + 4 + 4;  // lengths, a name of one letter, a count, one sum
  const int64_t entries = cursor.read_count(1, "number of entries");
  if (static_cast<uint64_t>(entries) > cursor.left() / least_entry_bytes) cursor.refuse(fmt::format("is no imatrix: {} entries do not fit into a file of {} bytes", entries, bytes.size()));
  Imatrix imatrix;
  for (int64_t i = 0; i < entries; ++i) {
    const std::string number = fmt::format("entry {} of {}", i + 1, entries);
    const int64_t length = cursor.read_count(1, number + ": length of its name");
    if (length > static_cast<int64_t>(gguf_longest_name)) cursor.refuse(fmt::format("{}: expected a name of 1 to {} bytes, found {}", number, gguf_longest_name, length));
    const std::string name = cursor.read_text(length, number + ": name");
    const std::string what = "entry " + name;
    if (imatrix.entries.contains(name)) cursor.refuse(what + ": appears twice");
    ImatrixEntry& entry = imatrix.entries[name];
    entry.count = cursor.read_count(1, what + ": number of calls");
    const int64_t columns = cursor.read_count(1, what + ": number of columns");
    entry.sums = read_floats(cursor.take(static_cast<uint64_t>(columns) * sizeof(float), what));
    if (const std::string problem = find_problem(entry.sums); !problem.empty()) cursor.refuse(fmt::format("{}: {}", what, problem));
  }
  if (cursor.left() == 0) return imatrix;  // the oldest files end here
  imatrix.chunk_count = cursor.read_count(0, "number of chunks");
  const int64_t length = cursor.read_count(0, "length of the dataset's name");
  if (std::string dataset = cursor.read_text(length, "name of the dataset"); !dataset.empty()) imatrix.datasets.push_back(std::move(dataset));
  if (cursor.left() > 0) cursor.refuse(fmt::format("{} bytes are left after the name of the dataset", cursor.left()));
  return imatrix;
}

}  // namespace

std::vector<float> ImatrixEntry::mean_square() const {
  std::vector<float> means = sums;
  for (float& value : means) value /= static_cast<float>(count);
  return means;
}

Imatrix parse_imatrix(std::span<const std::byte> bytes, const std::string& where) {
  const bool is_gguf = bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
  return is_gguf ? parse_new(bytes, where) : parse_old(bytes, where);
}

void write_imatrix(const std::filesystem::path& file, const Imatrix& imatrix) {
  GgufMetadata metadata(file.string());
  metadata.set(type_key, gguf_string(type_name));
  metadata.set(datasets_key, gguf_strings(imatrix.datasets));
  metadata.set(chunk_count_key, gguf_u32(static_cast<uint32_t>(imatrix.chunk_count)));
  metadata.set(chunk_size_key, gguf_u32(static_cast<uint32_t>(imatrix.chunk_size)));
  const auto name_sums = [](const std::string& name) { return name + std::string(sums_suffix); };
  const auto name_counts = [](const std::string& name) { return name + std::string(counts_suffix); };
  std::vector<GgufLayout> layouts;
  for (const auto& [name, entry] : imatrix.entries) {
    layouts.push_back({name_sums(name), &get_info(GgufType::f32), {std::ssize(entry.sums)}});
    layouts.push_back({name_counts(name), &get_info(GgufType::f32), {1}});
  }
  require_free_space(file.parent_path(), gguf_file_bytes(metadata, layouts));
  GgufWriter writer(file, metadata, layouts);
  for (const auto& [name, entry] : imatrix.entries) {
    const auto count = static_cast<float>(entry.count);
    writer.write(name_sums(name), std::as_bytes(std::span(entry.sums)));
    writer.write(name_counts(name), std::as_bytes(std::span(&count, 1)));
  }
  writer.close();

  const MappedFile written(file);
  if (parse_imatrix(written.bytes(), file.string()) != imatrix) throw Error(ErrorKind::output, fmt::format("{}: what was read back from disk differs from what was written", file.string()));
}

}  // namespace llmc
