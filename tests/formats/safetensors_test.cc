#include "formats/safetensors.h"

#include <cstring>

#include "core/error.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

/// A file with this header text and `data_bytes` bytes of data.
std::string make_file(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(data_bytes, 'x');
}

SafetensorsContent parse(const std::string& file) { return parse_safetensors(std::as_bytes(std::span(file)), "f.safetensors"); }

}  // namespace

TEST_CASE("a well-formed file is read", "[safetensors]") {
  const std::string file = make_file(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0],"data_offsets":[12,12]}}  )", 12);
  const SafetensorsContent content = parse(file);
  REQUIRE(content.tensors.size() == 3);
  CHECK(content.tensors[0].name == "a");
  CHECK(content.tensors[1].name == "b");
  CHECK(content.tensors[1].tensor.shape == Shape{2});
  CHECK(content.tensors[1].tensor.bytes.size() == 8);
  CHECK(content.metadata.at("format") == "pt");
}

TEST_CASE("every type of the format is read, of its own size", "[safetensors]") {
  const std::pair<const char*, size_t> types[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U64", 8}, {"U32", 4}, {"U16", 2}, {"U8", 1}, {"BOOL", 1}};
  CHECK(std::size(types) == dtype_list().size());
  for (const auto& [name, size] : types) {
    INFO(name);
    const std::string header = std::string(R"({"t":{"dtype":")") + name + R"(","shape":[2,3],"data_offsets":[0,)" + std::to_string(6 * size) + "]}}";
    const std::string file = make_file(header, 6 * size);
    const SafetensorsContent content = parse(file);
    REQUIRE(content.tensors.size() == 1);
    CHECK(get_info(content.tensors[0].tensor.dtype).name == name);
    CHECK(content.tensors[0].tensor.count() == 6);
    CHECK_THROWS_WITH(parse(make_file(header, 6 * size - 1)), Contains("tensor t"));
  }
}

TEST_CASE("everything a header can lie about is refused by name", "[safetensors]") {
  const auto entry = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  const struct {
    std::string file;
    const char* message;
  } cases[] = {
      {"short", "truncated: a safetensors file has at least 8 bytes, found 5"},
      {make_file("{}", 0).substr(0, 9), "truncated: the header needs 2 bytes, found 1"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "over the limit"},
      {make_file("[]", 0), "not a JSON object: expected its first byte to be {, found 0x5b"},
      {make_file("", 0), "expected its first byte to be {, found none"},
      {make_file(" {}", 0), "found 0x20"},
      {make_file("\xef\xbb\xbf{}", 0), "found 0xef"},
      {make_file(std::string("{}\0{", 4), 0), "a zero byte at 3 of 4"},
      {make_file(entry(R"("dtype":"I8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), 1), "a list of more than 16 numbers at byte 59"},
      {make_file("{\"t\":[" + std::string(4'000'000, '{'), 0), "more than 4000000 values"},
      {make_file(entry("\"dtype\":\"I8\",\"shape\":[\"" + std::string(100'000, 'x') + R"("],"data_offsets":[0,1])"), 1), "xx … (99804 bytes more) … xx"},
      {make_file("{\"t\":1}", 0), "expected an object"},
      {make_file(entry(R"("dtype":"F99","shape":[1],"data_offsets":[0,4])"), 4), "dtype F99 is not known"},
      {make_file(entry(R"("dtype":"F32","shape":[1])"), 4), "data_offsets"},
      {make_file(entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4), "non-negative"},
      {make_file(entry(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), 4), "non-negative"},
      {make_file(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,4])"), 4), "F32 [3] needs 12 bytes, found 4"},
      {make_file(entry(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4])"), 4), "not a possible size"},
      {make_file(entry(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4])"), 4), "needs"},
      {make_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4), "bytes 4 to 0"},
      {make_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 3), "the file holds 3 bytes"},
      {make_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5), "the tensors end at byte 4 of the data, but the file holds 5"},
      {make_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8), "a hole before it: starts at byte 4, expected 0"},
      {make_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1)"), 4), "unknown field \"extra\""},
      {make_file(R"({"t":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"u":{"dtype":"I8","shape":[4],"data_offsets":[2,6]}})", 6), "tensor u: overlaps the tensor before it: starts at byte 2, expected 4"},
      {make_file(R"({"t":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1), "\"t\" appears twice"},
      {make_file(R"({"__metadata__":{"a":1}})", 0), "\"a\" is not a string"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(parse(c.file), Contains("f.safetensors") && Contains(c.message));
  }
}

TEST_CASE("brackets and commas in the texts of a header count for nothing", "[safetensors]") {
  CHECK(parse(make_file(R"({"__metadata__":{"a":"[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,\"{,\\"},"t":{"dtype":"I8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}  )", 1)).tensors[0].tensor.shape.size() == 16);
}

TEST_CASE("several problems of a header come together", "[safetensors]") {
  const std::string file = make_file(R"({"t":{"dtype":"F99","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4);
  CHECK_THROWS_WITH(parse(file), Contains("2 problems") && Contains("tensor t") && Contains("tensor u"));
}

TEST_CASE("what is written is read back, aligned by element size", "[safetensors]") {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "w.safetensors";
  const std::vector<std::byte> one(3, std::byte{1}), two(6, std::byte{2}), eight(16, std::byte{8});
  {
    SafetensorsWriter writer(path, {{"odd", DType::u8, {3}}, {"half", DType::f16, {3}}, {"wide", DType::i64, {2}}}, {{"k", "v"}});
    writer.write("half", two);
    writer.write("odd", one);
    CHECK_THROWS_AS(writer.write("odd", one), Error);
    CHECK_THROWS_AS(writer.write("wide", one), Error);
    CHECK_THROWS_WITH(writer.close(), Contains("wide was never written"));
    writer.write("wide", eight);
    writer.close();
  }
  const MappedFile file(path);
  const SafetensorsContent content = parse_safetensors(file.bytes(), "w");
  CHECK(content.metadata.at("k") == "v");
  REQUIRE(content.tensors.size() == 3);
  CHECK(content.tensors[0].name == "wide");
  CHECK(content.tensors[1].name == "half");
  CHECK(content.tensors[2].name == "odd");
  for (const NamedTensor& entry : content.tensors) {
    const auto address = static_cast<size_t>(entry.tensor.bytes.data() - file.bytes().data());
    CHECK(address % get_info(entry.tensor.dtype).bytes == 0);
    CHECK(static_cast<size_t>(entry.tensor.bytes[0]) == get_info(entry.tensor.dtype).bytes);
  }
}
