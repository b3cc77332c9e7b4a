#include "calib/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/error.h"

namespace llmc {

static_assert(std::endian::native == std::endian::little, ".npy data is used as it lies in the file");

namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr size_t most_dimensions = 32;  // NumPy 1's limit

struct TypeCode {
  std::string_view code;
  DType dtype;
};
constexpr std::array<TypeCode, 13> type_codes = {{{"<f8", DType::f64},
                                                  {"<f4", DType::f32},
                                                  {"<f2", DType::f16},
                                                  {"<i8", DType::i64},
                                                  {"<i4", DType::i32},
                                                  {"<i2", DType::i16},
                                                  {"|i1", DType::i8},
                                                  {"<u8", DType::u64},
                                                  {"<u4", DType::u32},
                                                  {"<u2", DType::u16},
                                                  {"|u1", DType::u8},
                                                  {"<u1", DType::u8},
                                                  {"|b1", DType::boolean}}};

/// Reads the header's Python literal: {'descr': '<u2', 'fortran_order': False, 'shape': (3, 4), }
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  void read() {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = read_string();
      expect(':');
      if (key == "descr" && !descr) descr = read_string();
      else if (key == "fortran_order" && !fortran_order) fortran_order = read_bool();
      else if (key == "shape" && !shape) shape = read_shape();
      else refuse(fmt::format("key '{}' is not known or comes twice", key));
      if (!accept(',') && !follows('}')) refuse("expected , or }");
    }
    skip_space();
    if (!text_.empty()) refuse("expected the end of the header");
    if (!descr || !fortran_order || !shape) refuse("expected the keys 'descr', 'fortran_order' and 'shape'");
  }

  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::input, fmt::format("{}: .npy header: {}, found \"{}\"", where_, what, text_.substr(0, 20)));
  }
  void skip_space() { text_.remove_prefix(std::min(text_.find_first_not_of(" \n"), text_.size())); }
  bool follows(char c) {
    skip_space();
    return text_.starts_with(c);
  }
  bool accept(char c) {
    if (!follows(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) refuse(fmt::format("expected {}", c));
  }

  std::string_view read_string() {
    skip_space();
    const char quote = text_.empty() ? '\0' : text_.front();
    const size_t end = text_.find(quote, 1);
    if ((quote != '\'' && quote != '"') || end == std::string_view::npos) refuse("expected a string");
    const std::string_view value = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return value;
  }

  bool read_bool() {
    skip_space();
    const std::string_view word = text_.starts_with("True") ? "True" : "False";
    if (!text_.starts_with(word)) refuse("expected True or False");
    text_.remove_prefix(word.size());
    return word == "True";
  }

  Shape read_shape() {
    Shape result;
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t dimension = -1;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), dimension);
      if (error != std::errc() || dimension < 0 || result.size() == most_dimensions) refuse("expected a dimension or )");
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      result.push_back(dimension);
      if (!accept(',') && !follows(')')) refuse("expected , or )");
    }
    return result;
  }

  std::string_view text_;
  const std::string& where_;
};

}  // namespace

TensorView parse_npy(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto refuse = [&](const std::string& what) { return Error(ErrorKind::input, fmt::format("{}: {}", where, what)); };
  if (!text.starts_with(magic)) throw refuse("not a .npy file: it does not start with \\x93NUMPY");
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const unsigned version = byte(6);
  if (version < 1 || version > 3) throw refuse(fmt::format(".npy version {}.{} is not supported (only 1.0, 2.0 and 3.0)", version, byte(7)));
  const size_t begin = version == 1 ? 10 : 12;  // magic, version, length of the header as u16 or u32
  const size_t size = byte(8) | byte(9) << 8 | (version == 1 ? 0 : byte(10) << 16 | byte(11) << 24);
  if (begin > text.size() || size > text.size() - begin) throw refuse(fmt::format("truncated: the .npy header needs {} bytes, found {}", begin + size, text.size()));

  HeaderReader header(text.substr(begin, size), where);
  header.read();
  const auto type = std::ranges::find(type_codes, *header.descr, &TypeCode::code);
  if (type == type_codes.end()) throw refuse(fmt::format(".npy type '{}' is not supported", *header.descr));
  if (*header.fortran_order && header.shape->size() > 1) throw refuse("a .npy array in Fortran order is not supported");
  int64_t expected = element_count(*header.shape, where);
  const size_t found = text.size() - begin - size;
  if (__builtin_mul_overflow(expected, static_cast<int64_t>(get_info(type->dtype).bytes), &expected) || static_cast<uint64_t>(expected) != found)
    throw refuse(fmt::format("{} {} needs {} bytes, found {}", *header.descr, to_string(*header.shape), expected, found));
  return {.dtype = type->dtype, .shape = *header.shape, .bytes = bytes.subspan(begin + size)};
}

std::string encode_npy(DType dtype, std::span<const std::byte> values, const Shape& shape) {
  const size_t size_of_one = get_info(dtype).bytes;
  if ((dtype != DType::f32 && dtype != DType::i32) || static_cast<size_t>(element_count(shape, ".npy array")) * size_of_one != values.size())
    throw Error(ErrorKind::bug, fmt::format(".npy array: shape {} of {} for {} bytes", to_string(shape), get_info(dtype).name, values.size()));
  std::string header = fmt::format("{{'descr': '<{}4', 'fortran_order': False, 'shape': (", dtype == DType::f32 ? 'f' : 'i');
  for (int64_t dimension : shape) header += fmt::format("{}, ", dimension);
  header += "), }";
  constexpr size_t before = 10;  // magic, version, length
  header.resize((before + header.size() + 1 + 63) / 64 * 64 - before - 1, ' ');  // the data start at a multiple of 64 bytes
  header += '\n';
  const auto size = static_cast<uint16_t>(header.size());
  std::string file(magic);
  file += {'\x01', '\x00', static_cast<char>(size & 0xFF), static_cast<char>(size >> 8)};
  file += header;
  file.append(reinterpret_cast<const char*>(values.data()), values.size());
  return file;
}

}  // namespace llmc
