// Tests reading token ids from .npy, raw and text files, and the .npy format itself.
#include "calib/token_data.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "calib/npy.h"
#include "core/mapped_file.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
namespace fs = std::filesystem;

namespace {

using Rows = std::vector<std::vector<int32_t>>;

/// A file that goes when the test ends.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, const std::string& bytes) : path_(fs::temp_directory_path() / ("llmc_token_data_" + std::to_string(::getpid()) + name)) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TemporaryFile() { fs::remove(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string npy(const std::string& header, const std::string& data) {
  std::string file("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size() & 0xFF);
  file += static_cast<char>(header.size() >> 8);
  return file + header + data;
}
std::string npy_ids(const std::string& descr, const std::string& shape, const std::string& data) {
  return npy("{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
}
template <typename T>
std::string raw(const std::vector<T>& values) { return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)); }

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
Rows load_data(const std::string& name, const std::string& bytes, int64_t vocabulary = 70000) { return load_token_data(TemporaryFile(name, bytes).path(), {}, vocabulary).sequences; }
std::string refusal(const std::string& name, const std::string& bytes, int64_t vocabulary = 70000) {
  const TemporaryFile file(name, bytes);
  const std::string message = message_of([&] { load_token_data(file.path(), {}, vocabulary); });
  CHECK(message.starts_with(file.path().string() + ": "));
  return message.substr(file.path().string().size() + 2);
}
std::string npy_refusal(const std::string& file) {
  return message_of([&] { parse_npy(bytes_of(file), "x"); });
}

}  // namespace

TEST_CASE("token data: every integer type, one sequence or a sequence per row") {
  CHECK(load_data("a.npy", npy_ids("<u2", "(3,)", raw<uint16_t>({1, 2, 65535}))) == Rows{{1, 2, 65535}});
  CHECK(load_data("a.npy", npy_ids("|u1", "(2,)", raw<uint8_t>({0, 255}))) == Rows{{0, 255}});
  CHECK(load_data("a.npy", npy_ids("<u4", "(2, 1)", raw<uint32_t>({7, 65536}))) == Rows{{7}, {65536}});
  CHECK(load_data("a.npy", npy_ids("<i4", "(2, 2)", raw<int32_t>({1, 2, 3, 4}))) == Rows{{1, 2}, {3, 4}});
  CHECK(load_data("a.npy", npy_ids("<i8", "(1, 2)", raw<int64_t>({5, 6}))) == Rows{{5, 6}});
  CHECK(load_data("a.u16", raw<uint16_t>({1, 65535})) == Rows{{1, 65535}});
  CHECK(load_data("A.U16", raw<uint16_t>({1, 65535})) == Rows{{1, 65535}});
  CHECK(load_data("A.NPY", npy_ids("<u2", "(1,)", raw<uint16_t>({7}))) == Rows{{7}});
  CHECK(holds_token_ids("A.NPY"));
  CHECK(load_data("a.u32", raw<uint32_t>({1, 65536})) == Rows{{1, 65536}});
}

TEST_CASE("token data: ids of the golden files") {
  const fs::path ids = fs::path(LLMC_SOURCE_DIR) / "tests/golden/ids";
  const TokenData sorting = load_token_data(ids / "gpt-nano-sort.npy", {}, 3);
  CHECK(sorting.sequences.size() == 729);
  CHECK(sorting.sequences[5] == std::vector<int32_t>{0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2});
  CHECK(sorting.byte_lengths.empty());
  CHECK(sorting.name == (ids / "gpt-nano-sort.npy").string());
  CHECK(load_token_data(ids / "stories260K.tinystories.npy", {}, 512).sequences.at(0).front() == 1);
}

TEST_CASE("token data: text goes through the tokenizer") {
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  const TemporaryFile file("a.txt", "the<|end|> the");
  const TokenData data = load_token_data(file.path(), {.tokenizer = &tokenizer}, 260);
  CHECK(data.sequences == Rows{{257, 259, 258}});
  CHECK(data.byte_lengths == Rows{{3, 0, 4}});
  CHECK(data.name == file.path().string());
  const TemporaryFile capitals("A.JSONL", "{\"text\": \"the<|end|>\"}\n");
  CHECK(load_token_data(capitals.path(), {.tokenizer = &tokenizer}, 260).sequences == Rows{{257, 259}});
  const TemporaryFile lines("a.jsonl", "{\"text\": \"the<|end|>\"}\n\n{\"text\": \" the\"}\n");
  const TokenData documents = load_token_data(lines.path(), {.tokenizer = &tokenizer}, 260);
  CHECK(documents.sequences == Rows{{257, 259}, {258}});
  CHECK(documents.byte_lengths == Rows{{3, 0}, {4}});
  CHECK(tokenize_text("the", "bundled text", tokenizer, 260).name == "bundled text");
  CHECK(message_of([&] { tokenize_text("the", "bundled text", tokenizer, 257); }) == "bundled text: sequence 0, position 0: expected a token id from 0 to 256, found 257");
  CHECK(message_of([&] { tokenize_text("ab\xFF", "bundled text", tokenizer, 260); }) == "bundled text: byte 2 (0xFF) is not valid UTF-8");
  CHECK(message_of([&] { tokenize_text("", "bundled text", tokenizer, 260); }) == "bundled text: holds no tokens");
}

TEST_CASE("token data: what cannot be token ids is refused") {
  check_contains(refusal("a.txt", "text"), "text needs a tokenizer.json");
  CHECK(refusal("a.u16", "abc") == "expected a multiple of 2 bytes, found 3");
  CHECK(refusal("a.u32", "abcdef") == "expected a multiple of 4 bytes, found 6");
  CHECK(refusal("a.u16", "") == "holds no tokens");
  CHECK(refusal("a.npy", npy_ids("<u2", "(0,)", "")) == "holds no tokens");
  CHECK(refusal("a.npy", npy_ids("<u2", "(5, 0)", "")) == "holds no tokens");
  CHECK(refusal("a.npy", npy_ids("<u2", "(9000000000000000000, 0)", "")) == "holds no tokens");
  CHECK(refusal("a.u16", raw<uint16_t>({1, 4096}), 4096) == "sequence 0, position 1: expected a token id from 0 to 4095, found 4096");
  CHECK(refusal("a.npy", npy_ids("<i4", "(2, 1)", raw<int32_t>({0, -1})), 4096) == "sequence 1, position 0: expected a token id from 0 to 4095, found -1");
  CHECK(refusal("a.npy", npy_ids("<i8", "(1,)", raw<int64_t>({int64_t{1} << 32}))) == "4294967296 at position 0 is not a token id");
  CHECK(refusal("a.u32", raw<uint32_t>({UINT32_MAX})) == "4294967295 at position 0 is not a token id");
  CHECK(refusal("a.npy", npy_ids("<f4", "(1,)", raw<float>({1}))) == "expected token ids of type U8, U16, U32, I32 or I64, found F32");
  CHECK(refusal("a.npy", npy_ids("<u2", "()", raw<uint16_t>({1}))) == "expected token ids in 1 or 2 dimensions, found shape []");
  CHECK(refusal("a.npy", npy_ids("<u2", "(1,1,1)", raw<uint16_t>({1}))) == "expected token ids in 1 or 2 dimensions, found shape [1, 1, 1]");
  CHECK_THROWS_AS(load_token_data("/nowhere/a.npy", {}, 3), Error);
}

TEST_CASE("npy: headers as Python may write them") {
  for (const std::string header : {"{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }", "{\"shape\":(2,),\"descr\":\"<u2\",\"fortran_order\":True}  \n",
                                   "{ 'shape' : ( 2 , 1 ) , 'fortran_order' : False, 'descr' : '<u2' }"}) {
    INFO(header);
    const std::string file = npy(header, raw<uint16_t>({1, 2}));
    const TensorView array = parse_npy(bytes_of(file), "x");
    CHECK(array.dtype == DType::u16);
    CHECK(array.shape.front() == 2);
    CHECK(array.bytes.data() == bytes_of(file).data() + file.size() - 4);
  }
  const std::string text = "{'descr': '|b1', 'fortran_order': False, 'shape': ()}";
  const std::string file = std::string("\x93NUMPY\x02\x00", 8) + static_cast<char>(text.size()) + std::string(3, '\0') + text + '\1';
  CHECK(parse_npy(bytes_of(file), "x").shape.empty());
}

TEST_CASE("npy: damaged files are refused") {
  CHECK(npy_refusal("") == "x: not a .npy file: it does not start with \\x93NUMPY");
  CHECK(npy_refusal(std::string("\x93NUMPY\x04\x00\x00\x00", 10)) == "x: .npy version 4.0 is not supported (only 1.0, 2.0 and 3.0)");
  CHECK(npy_refusal(std::string("\x93NUMPY\x01\x00\xFF\xFF", 10)) == "x: truncated: the .npy header needs 65545 bytes, found 10");
  CHECK(npy_refusal(std::string("\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF", 12)) == "x: truncated: the .npy header needs 4294967307 bytes, found 12");
  CHECK(npy_refusal(npy_ids("<u2", "(2,)", "abc")) == "x: <u2 [2] needs 4 bytes, found 3");
  CHECK(npy_refusal(npy_ids("<u2", "(2,)", "abcde")) == "x: <u2 [2] needs 4 bytes, found 5");
  CHECK(npy_refusal(npy_ids(">u2", "(2,)", "abcd")) == "x: .npy type '>u2' is not supported");
  CHECK(npy_refusal(npy_ids("|O", "(2,)", "abcd")) == "x: .npy type '|O' is not supported");
  CHECK(npy_refusal(npy_ids("<u2", "(4294967296, 4294967296)", "")) == "x: shape [4294967296, 4294967296] is not a possible size");
  check_contains(npy_refusal(npy_ids("<u8", "(2305843009213693952,)", "")), "needs");
  check_contains(npy_refusal(npy_ids("<u2", "(-1,)", "")), "expected a dimension or )");
  check_contains(npy_refusal(npy_ids("<u2", "(99999999999999999999,)", "")), "expected a dimension or )");
  check_contains(npy_refusal(npy_ids("<u2", "2", "")), "expected (");
  check_contains(npy_refusal(npy("{'descr': '<u2', 'fortran_order': True, 'shape': (1, 2)}", "abcd")), "Fortran order is not supported");
  check_contains(npy_refusal(npy("{'descr': '<u2', 'fortran_order': Maybe, 'shape': (1, 2)}", "abcd")), "expected True or False");
  check_contains(npy_refusal(npy("{'descr': '<u2', 'descr': '<u2'}", "")), "key 'descr' is not known or comes twice");
  check_contains(npy_refusal(npy("{'descr': '<u2'}", "")), "expected the keys");
  check_contains(npy_refusal(npy("{'descr': '<u2", "")), "expected a string");
  check_contains(npy_refusal(npy("", "")), "expected {");
  check_contains(npy_refusal(npy("{'descr': '<u2', 'fortran_order': False, 'shape': (0,)} x", "")), "expected the end of the header, found \"x\"");
}

TEST_CASE("npy: what is written is read back, aligned") {
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{2, 3}, Shape{0, 4}, Shape{1, 2, 3, 4}, Shape(20, 1)}) {
    std::vector<float> values(static_cast<size_t>(element_count(shape, "shape")));
    for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5f * static_cast<float>(i);
    const std::string file = encode_npy(DType::f32, std::as_bytes(std::span(values)), shape);
    const TensorView array = parse_npy(bytes_of(file), "x");
    CHECK(array.dtype == DType::f32);
    CHECK(array.shape == shape);
    CHECK((array.bytes.data() - bytes_of(file).data()) % 64 == 0);
    CHECK(std::string(reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size()) == raw(values));
  }
}
