#include "formats/gguf.h"

#include <cstring>
#include <fstream>
#include <functional>
#include <limits>

#include "core/error.h"
#include "formats/gguf_writer.h"
#include "tests/catch.h"
#include "tests/formats/gguf_bytes.h"
#include "tests/support.h"

using namespace llmc;
using namespace llmc::test;
using Catch::Matchers::Contains;

namespace {

GgufContent parse_gguf_text(const std::string& file) { return parse_gguf(std::as_bytes(std::span(file)), "f.gguf"); }

void write_text(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

constexpr uint32_t type_f32 = 0, q4_0 = 2;

/// Two tensors of 2×3 and of 32 values, with a key of each kind.
GgufBytes small_file() {
  return {.entries = {entry("general.architecture", value_string, text("llama")), entry("n", value_u32, u32(7)), entry("list", value_array, u32(value_array) + u64(2) + u32(value_u8) + u64(2) + "\1\2" + u32(value_string) + u64(1) + text("ab"))},
          .tensors = {tensor("a.weight", {3, 2}, type_f32, 0), tensor("b.weight", {32}, q4_0, 32)},
          .data = std::string(32, 'a') + std::string(18, 'b')};
}

/// One key, or one tensor with data, that a case lies about.
std::string with_entry(const std::string& bytes) { return GgufBytes{.entries = {bytes}}.bytes(); }
std::string with_tensor(const std::string& bytes, size_t data = 64) { return GgufBytes{.tensors = {bytes}, .data = std::string(data, 'x')}.bytes(); }

}  // namespace

TEST_CASE("a well-formed GGUF file is read", "[gguf]") {
  const std::string file = small_file().bytes();
  const GgufContent content = parse_gguf_text(file);
  CHECK(content.version == 3);
  CHECK(content.metadata.get_string("general.architecture") == "llama");
  CHECK(content.metadata.find_int("n") == 7);
  CHECK(!content.metadata.find("absent"));
  const auto& list = std::get<GgufArray>(content.metadata.find("list")->value);
  REQUIRE(list.size() == 2);
  const auto& inner = std::get<std::vector<GgufArray>>(list.items);
  CHECK(inner[0].size() == 2);
  CHECK(std::get<std::vector<std::string>>(inner[1].items) == std::vector<std::string>{"ab"});
  REQUIRE(content.tensors.size() == 2);
  CHECK(content.tensors[0].shape == Shape{2, 3});
  CHECK(content.tensors[0].bytes.size() == 24);
  CHECK(content.tensors[1].type->name == "Q4_0");
  CHECK(content.tensors[1].bytes.size() == 18);
  CHECK(content.tensors[1].bytes[0] == std::byte{'b'});
}

TEST_CASE("a GGUF file of version 2, of another alignment, or without tensors is read", "[gguf]") {
  GgufBytes file = small_file();
  file.version = 2;
  CHECK(parse_gguf_text(file.bytes()).version == 2);
  file.entries.push_back(entry("general.alignment", value_u32, u32(8)));
  file.tensors[1] = tensor("b.weight", {32}, q4_0, 24);
  file.data = std::string(24 + 18, 'x');
  file.alignment = 8;
  CHECK(parse_gguf_text(file.bytes()).tensors.size() == 2);
  CHECK(parse_gguf_text(GgufBytes{.entries = {entry("k", value_u32, u32(1))}}.bytes()).tensors.empty());
  CHECK(parse_gguf_text(GgufBytes{}.bytes()).metadata.entries().empty());
}

TEST_CASE("a key of the wrong kind is refused where it is asked for", "[gguf]") {
  const GgufContent content = parse_gguf_text(small_file().bytes());
  CHECK_THROWS_WITH(content.metadata.find_string("n"), Contains("f.gguf: key n: expected a string, found u32"));
  CHECK_THROWS_WITH(content.metadata.find_int("list"), Contains("f.gguf: key list: expected an integer below 2^63, found array"));
  CHECK_THROWS_WITH(content.metadata.find_ints("list"), Contains("key list: expected an array of integers"));
  CHECK_THROWS_WITH(content.metadata.find_strings("n"), Contains("key n: expected an array of strings"));
  CHECK_THROWS_WITH(content.metadata.find_bool("n"), Contains("key n: expected a boolean"));
  CHECK_THROWS_WITH(content.metadata.find_number("list"), Contains("key list: expected a number"));
  CHECK_THROWS_WITH(content.metadata.get_string("absent"), Contains("f.gguf: key absent is missing"));
}

TEST_CASE("everything a GGUF file can lie about is refused by name", "[gguf]") {
  const auto changed = [](auto change) {
    GgufBytes file = small_file();
    change(file);
    return file.bytes();
  };
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  const std::string deep = [] {
    std::string bytes;
    for (int i = 0; i < 9; ++i) bytes += u32(value_array) + u64(1);
    return bytes + u32(value_u8) + u64(1) + "x";
  }();
  const struct {
    std::string file;
    const char* message;
  } cases[] = {
      {"", "truncated: the magic number needs 4 bytes at byte 0, found 0"},
      {"GG", "truncated: the magic number"},
      {"GGML" + small_file().bytes().substr(4), "expected it to start with GGUF, found 47 47 4d 4c"},
      {"GGUF", "truncated: the version needs 4 bytes"},
      {changed([](GgufBytes& f) { f.version = 1; }), "version 1 is not supported; expected 2 or 3"},
      {changed([](GgufBytes& f) { f.version = 4; }), "version 4 is not supported"},
      {changed([](GgufBytes& f) { f.version = 0; }), "version 0 is not supported"},
      {changed([](GgufBytes& f) { f.version = 3u << 24; }), "is big-endian"},
      {std::string("GGUF") + u32(3), "truncated: the number of tensors"},
      {changed([&](GgufBytes& f) { f.more_tensors = static_cast<int64_t>(huge / 2); }), "tensors do not fit into a file of"},
      {changed([&](GgufBytes& f) { f.more_entries = static_cast<int64_t>(huge / 2); }), "keys do not fit into a file of"},
      {GgufBytes{.more_entries = 1}.bytes() + std::string(13, '\0'), "key 1 of 1: expected a name of 1 to 65535 bytes, found 0"},
      {with_entry(text(std::string(65536, 'k')) + u32(value_u8) + "x"), "expected a name of 1 to 65535 bytes, found 65536"},
      {with_entry(u64(huge) + "some more bytes"), "truncated: key 1 of 1 needs 18446744073709551615 bytes"},
      {with_entry(entry("k", 13, "abcd")), "key k: value type 13 is not known; expected 0 to 12"},
      {with_entry(entry("k", value_u64, u32(1))), "truncated: key k needs 8 bytes"},
      {with_entry(entry("k", value_bool, "\2")), "key k: a boolean is 2; expected 0 or 1"},
      {with_entry(entry("k", value_string, u64(huge) + "abcd")), "truncated: key k needs 18446744073709551615 bytes"},
      {with_entry(entry("k", value_array, u32(77) + u64(1) + "a")), "key k: element: value type 77 is not known"},
      {with_entry(entry("k", value_array, u32(value_u32) + u64(huge) + "abcd")), "18446744073709551615 elements of type u32 need at least 4 bytes each, found 4 bytes in all"},
      {with_entry(entry("k", value_array, u32(value_string) + u64(2) + text("abcdefgh"))), "truncated: key k: element 1: length needs 8 bytes"},
      {with_entry(entry("k", value_array, u32(value_array) + u64(2) + u32(value_u8) + u64(0) + "abcdefghijkl")), "key k: element 1: element: value type"},
      {with_entry(entry("k", value_array, u32(value_bool) + u64(2) + "\1\3")), "key k: a boolean is 3"},
      {with_entry(entry("k", value_array, deep)), "arrays are nested more than 8 deep"},
      {changed([](GgufBytes& f) { f.entries.push_back(f.entries[1]); }), "key n: appears twice"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u32, u32(24))); }), "key general.alignment: expected a power of two up to 1073741824, found 24"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u32, u32(0))); }), "found 0"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_string, text("32"))); }), "key general.alignment: expected an integer"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_i32, u32(static_cast<uint32_t>(-32)))); }), "key general.alignment: expected a power of two up to 1073741824, found -32"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u64, u64(uint64_t{1} << 62))); }), "found 4611686018427387904"},
      {changed([&](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u64, u64(huge))); }), "key general.alignment: expected an integer below 2^63"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u32, u32(64))); }), "tensor a.weight: truncated"},
      {changed([](GgufBytes& f) { f.entries.push_back(entry("general.alignment", value_u32, u32(1u << 30))); }), "truncated: the data start at byte 1073741824"},
      {changed([](GgufBytes& f) { f.more_tensors = 1; f.data.clear(); }), "truncated: tensor 3 of 3: name: length needs 8 bytes"},
      {with_tensor(tensor("", {1}, type_f32, 0)), "tensor 1 of 1: expected a name of 1 to 63 bytes, found 0"},
      {with_tensor(tensor(std::string(64, 't'), {1}, type_f32, 0)), "expected a name of 1 to 63 bytes, found 64"},
      {with_tensor(tensor("t", {}, type_f32, 0)), "tensor t: expected 1 to 4 dimensions, found 0"},
      {with_tensor(tensor("t", {1, 1, 1, 1, 1}, type_f32, 0)), "tensor t: expected 1 to 4 dimensions, found 5"},
      {with_tensor(tensor("t", {4, 0}, type_f32, 0)), "tensor t: dimension 1 is 0"},
      {with_tensor(tensor("t", {huge}, type_f32, 0)), "tensor t: dimension 0 is 18446744073709551615"},
      {with_tensor(tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, type_f32, 0)), "tensor t: shape [4294967296, 4294967296] is not a possible size"},
      {with_tensor(tensor("t", {uint64_t{1} << 62}, type_f32, 0)), "tensor t: shape [4611686018427387904] is not a possible size"},
      {with_tensor(tensor("t", {uint64_t{1} << 31, uint64_t{1} << 31, 2, 1}, type_f32, 0)), "is not a possible size"},
      {with_tensor(tensor("t", {uint64_t{1} << 16, uint64_t{1} << 16, uint64_t{1} << 16, uint64_t{1} << 16}, q4_0, 0)), "is not a possible size"},
      {with_tensor(tensor("t", {1}, 4, 0)), "tensor t: tensor type 4 is not one of ggml's"},
      {with_tensor(tensor("t", {1}, 9999, 0)), "tensor t: tensor type 9999 is not one of ggml's"},
      {with_tensor(tensor("t", {33}, q4_0, 0)), "tensor t: rows of 33 are not a multiple of 32, the block of Q4_0"},
      {with_tensor(tensor("t", {16}, type_f32, 4)), "tensor t: is not aligned: starts at byte 4 of the data, expected 0"},
      {with_tensor(tensor("t", {8}, type_f32, 32)), "tensor t: a hole before it: starts at byte 32 of the data, expected 0"},
      {with_tensor(tensor("t", {8}, type_f32, huge - 31)), "starts at byte 18446744073709551584 of the data, expected 0"},
      {with_tensor(tensor("t", {16}, type_f32, 0), 63), "tensor t: truncated: F32 [16] needs 64 bytes at byte 0 of the data, which has 63"},
      {with_tensor(tensor("t", {16}, type_f32, 0), 65), "the tensors end at byte 64 of the data, but the file holds 65"},
      {with_tensor(tensor("t", {uint64_t{1} << 40}, type_f32, 0)), "tensor t: truncated: F32 [1099511627776] needs 4398046511104 bytes"},
      {GgufBytes{.tensors = {tensor("t", {1}, type_f32, 0)}}.bytes(), "truncated: the data start at byte"},
      {changed([](GgufBytes& f) { f.tensors[1] = tensor("a.weight", {32}, q4_0, 32); }), "tensor a.weight: appears twice"},
      {changed([](GgufBytes& f) { f.tensors[1] = tensor("b.weight", {32}, q4_0, 0); }), "tensor b.weight: overlaps the tensor before it: starts at byte 0 of the data, expected 32"},
      {changed([](GgufBytes& f) { std::swap(f.tensors[0], f.tensors[1]); }), "tensor b.weight: a hole before it: starts at byte 32 of the data, expected 0"},
      {changed([](GgufBytes& f) { f.data.resize(49); }), "tensor b.weight: truncated: Q4_0 [32] needs 18 bytes at byte 32 of the data, which has 49"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(parse_gguf_text(c.file), Contains("f.gguf") && Contains(c.message));
  }
}

TEST_CASE("a GGUF file that is cut anywhere is refused", "[gguf]") {
  const std::string file = small_file().bytes();
  for (size_t size = 0; size < file.size(); ++size) {
    INFO(size);
    CHECK_THROWS_AS(parse_gguf_text(file.substr(0, size)), Error);
  }
}

TEST_CASE("what is written as GGUF is read back, keys of every kind and tensors alike", "[gguf]") {
  const TemporaryDirectory temporary;
  const auto path = temporary.path() / "w.gguf";
  GgufMetadata metadata;
  metadata.set("general.architecture", gguf_string("llama"));
  metadata.set("u8", {GgufValueType::u8, uint64_t{255}});
  metadata.set("i8", {GgufValueType::i8, int64_t{-128}});
  metadata.set("u16", {GgufValueType::u16, uint64_t{65535}});
  metadata.set("i16", {GgufValueType::i16, int64_t{-32768}});
  metadata.set("u32", gguf_u32(UINT32_MAX));
  metadata.set("i32", {GgufValueType::i32, int64_t{INT32_MIN}});
  metadata.set("u64", {GgufValueType::u64, std::numeric_limits<uint64_t>::max()});
  metadata.set("i64", {GgufValueType::i64, std::numeric_limits<int64_t>::min()});
  metadata.set("f32", gguf_f32(1e-5f));
  metadata.set("f64", {GgufValueType::f64, 1e-300});
  metadata.set("yes", gguf_bool(true));
  metadata.set("no", gguf_bool(false));
  metadata.set("texts", gguf_strings({"", "a", std::string("zero\0byte", 9)}));
  metadata.set("numbers", gguf_i32s({-1, 0, 7}));
  metadata.set("none", gguf_i32s({}));
  metadata.set("nested", {GgufValueType::array, GgufArray{GgufValueType::array, std::vector<GgufArray>{GgufArray{GgufValueType::string, std::vector<std::string>{"x"}}, GgufArray{GgufValueType::i32, std::vector<std::byte>(8)}}}});
  const std::vector<GgufLayout> layouts = {{"odd", &get_info(GgufType::f16), {3}}, {"wide", &get_info(GgufType::f32), {2, 5}}, {"blocks", &get_info(GgufType::q8_0), {2, 64}}};
  {
    GgufWriter writer(path, metadata, layouts);
    writer.write("wide", std::vector<std::byte>(40, std::byte{2}));
    writer.write("blocks", std::vector<std::byte>(136, std::byte{3}));
    CHECK_THROWS_WITH(writer.close(), Contains("odd was never written"));
    CHECK_THROWS_AS(writer.write("odd", std::vector<std::byte>(7)), Error);
    writer.write("odd", std::vector<std::byte>(6, std::byte{1}));
    CHECK_THROWS_AS(writer.write("odd", std::vector<std::byte>(6)), Error);
    writer.close();
  }
  CHECK(std::filesystem::file_size(path) == gguf_file_bytes(metadata, layouts));
  const GgufFiles files = open_gguf(path);
  CHECK(files.metadata.entries() == metadata.entries());
  CHECK(files.metadata.find_ints("numbers") == std::vector<int64_t>{-1, 0, 7});
  REQUIRE(files.tensors.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(files.tensors[i].name == layouts[i].name);
    CHECK(files.tensors[i].type == layouts[i].type);
    CHECK(files.tensors[i].shape == layouts[i].shape);
    CHECK(files.tensors[i].bytes.size() == layouts[i].bytes());
    for (std::byte value : files.tensors[i].bytes) REQUIRE(value == static_cast<std::byte>(i + 1));
  }
}

namespace {

/// The shards of a split file, each with a tensor.
std::vector<GgufBytes> make_shards(int count) {
  std::vector<GgufBytes> shards;
  for (int i = 0; i < count; ++i) {
    GgufBytes shard{.tensors = {tensor("t" + std::to_string(i), {8}, type_f32, 0)}, .data = std::string(32, 'x')};
    if (i == 0) shard.entries.push_back(entry("general.architecture", value_string, text("llama")));
    shard.entries.push_back(entry("split.no", value_u32, u32(static_cast<uint32_t>(i))));
    shard.entries.push_back(entry("split.count", value_u32, u32(static_cast<uint32_t>(count))));
    shard.entries.push_back(entry("split.tensors.count", value_i32, u32(static_cast<uint32_t>(count))));
    shards.push_back(std::move(shard));
  }
  return shards;
}

void write_shards(const std::filesystem::path& directory, const std::vector<GgufBytes>& shards) {
  for (size_t i = 0; i < shards.size(); ++i) write_text(directory / ("m-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(shards.size()) + ".gguf"), shards[i].bytes());
}

}  // namespace

TEST_CASE("a split GGUF file is joined", "[gguf]") {
  const TemporaryDirectory temporary;
  write_shards(temporary.path(), make_shards(3));
  const GgufFiles files = open_gguf(temporary.path() / "m-00001-of-00003.gguf");
  CHECK(files.files.size() == 3);
  REQUIRE(files.tensors.size() == 3);
  CHECK(files.tensors[2].name == "t2");
  REQUIRE(files.metadata.entries().size() == 1);
  CHECK(files.metadata.get_string("general.architecture") == "llama");
}

TEST_CASE("shards that are missing or disagree are refused by name", "[gguf]") {
  const auto key = [](const char* name, uint32_t value) { return entry(name, value_u32, u32(value)); };
  const struct {
    std::function<void(std::vector<GgufBytes>&)> change;
    const char* message;
    const char* opened = "m-00001-of-00003.gguf";
  } cases[] = {
      {[](auto& shards) { shards[1].entries[0] = entry("split.no", value_u32, u32(2)); }, "m-00002-of-00003.gguf: key split.no: expected 1, found 2"},
      {[](auto& shards) { shards[2].entries[1] = entry("split.count", value_u32, u32(4)); }, "m-00003-of-00003.gguf: key split.count: expected 3, found 4"},
      {[](auto& shards) { shards[2].entries[2] = entry("split.tensors.count", value_u32, u32(9)); }, "m-00003-of-00003.gguf: key split.tensors.count: expected 3, found 9"},
      {[](auto& shards) { for (auto& shard : shards) shard.entries.back() = entry("split.tensors.count", value_u32, u32(4)); }, "key split.tensors.count: expected 3, the number of tensors in 3 files, found 4"},
      {[](auto& shards) { shards[1].tensors[0] = tensor("t0", {8}, type_f32, 0); }, "m-00002-of-00003.gguf: tensor t0: is in an earlier shard too"},
      {[](auto& shards) { shards[1].entries.push_back(entry("general.architecture", value_string, text("gpt2"))); }, "m-00002-of-00003.gguf: key general.architecture: differs"},
      {[&](auto& shards) { shards[1].entries.push_back(key("other", 1)); }, "m-00002-of-00003.gguf: key other: differs from the first shard's, or is missing there"},
      {[](auto&) {}, "is shard 2 of 3; name the first, *-00001-of-00003.gguf", "m-00002-of-00003.gguf"},
      {[&](auto& shards) { shards[0].entries[1] = key("split.no", 3); }, "key split.no: expected 0 to 2, found 3"},
      {[&](auto& shards) { shards[0].entries[2] = key("split.count", 70000); }, "key split.count: expected 0 to 65535, found 70000"},
      {[](auto& shards) { shards[0].entries[2] = entry("split.count", value_i32, u32(static_cast<uint32_t>(-1))); }, "key split.count: expected 0 to 65535, found -1"},
      {[](auto& shards) { shards[0].entries[2] = entry("split.count", value_string, text("3")); }, "key split.count: expected an integer"},
      {[](auto& shards) { shards[0].entries[1] = entry("split.no", value_string, text("0")); }, "key split.no: expected an integer"},
      {[](auto& shards) { shards[1].entries[0] = entry("split.no", value_i32, u32(static_cast<uint32_t>(-1))); }, "m-00002-of-00003.gguf: key split.no: expected 0 to 2, found -1"},
      {[](auto& shards) { for (auto& shard : shards) shard.entries.back() = entry("split.tensors.count", value_i32, u32(static_cast<uint32_t>(-1))); }, "key split.tensors.count: expected a count, found -1"},
      {[](auto& shards) { shards[1].magic = "GGML"; }, "m-00002-of-00003.gguf: not a GGUF file"},
      {[](auto& shards) { shards[2].more_tensors = 1; }, "m-00003-of-00003.gguf: "},
      {[&](auto& shards) { shards[0].entries[2] = key("split.count", 2); shards[0].entries[3] = key("split.tensors.count", 2); }, "expected a name that ends in -00001-of-00002.gguf"},
      {[](auto& shards) { shards[1].data.resize(31); }, "m-00002-of-00003.gguf: tensor t1: truncated"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    const TemporaryDirectory temporary;
    auto shards = make_shards(3);
    c.change(shards);
    write_shards(temporary.path(), shards);
    CHECK_THROWS_WITH(open_gguf(temporary.path() / c.opened), Contains(c.message));
  }
  const TemporaryDirectory temporary;
  write_shards(temporary.path(), make_shards(3));
  std::filesystem::remove(temporary.path() / "m-00002-of-00003.gguf");
  CHECK_THROWS_WITH(open_gguf(temporary.path() / "m-00001-of-00003.gguf"), Contains("m-00002-of-00003.gguf: not found; the file is split into 3 shards"));
}
