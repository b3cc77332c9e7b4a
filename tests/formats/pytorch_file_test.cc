#include "formats/pytorch_file.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "formats/pickle.h"
#include "formats/zip_archive.h"
#include "tests/catch.h"
#include "tests/formats/pytorch_bytes.h"
#include "tests/golden.h"

using namespace llmc;
using namespace llmc::test;
using Catch::Matchers::Contains;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

PytorchContent parse_bin(const std::string& file) { return parse_pytorch(bytes_of(file), "f.bin"); }

/// An archive of this pickle and one storage "0".
std::string make_bin(const std::string& pickle, const std::string& storage = std::string(16, 'x')) { return make_zip({{"f/data.pkl", pickle}, {"f/data/0", storage}}).whole(); }

/// One f32 tensor on that storage.
std::string make_tensor(int32_t offset, const std::vector<int32_t>& shape, const std::vector<int32_t>& strides, int32_t count = 4) { return make_bin(state_dict(tensor_op(storage_op("FloatStorage", "0", count), offset, shape, strides))); }

}  // namespace

TEST_CASE("every type and view that torch.save writes is read", "[pytorch]") {
  const MappedFile file(golden_root().parent_path() / "pytorch/views.bin"), expected_file(golden_root().parent_path() / "pytorch/views.safetensors");
  const PytorchContent content = parse_pytorch(file.bytes(), "views.bin");
  std::map<std::string, TensorView> expected;
  for (const NamedTensor& entry : parse_safetensors(expected_file.bytes(), "views.safetensors").tensors) expected[entry.name] = entry.tensor;
  CHECK(content.tensors.size() == expected.size());
  size_t mapped = 0;
  for (const auto& [name, tensor] : content.tensors) {
    INFO(name);
    REQUIRE(expected.contains(name));
    CHECK(tensor.dtype == expected[name].dtype);
    CHECK(tensor.shape == expected[name].shape);
    CHECK(std::ranges::equal(tensor.bytes, expected[name].bytes));
    mapped += !tensor.bytes.empty() && tensor.bytes.data() >= file.bytes().data() && tensor.bytes.data() < file.bytes().data() + file.bytes().size();
  }
  CHECK(content.copies.size() == 5);  // transposed, steps, inner, permuted, matrix_transposed
  CHECK(mapped + content.copies.size() + 1 == content.tensors.size());  // all others but the empty one lie in the file
}

TEST_CASE("views of a storage are checked against it", "[pytorch]") {
  CHECK(parse_bin(make_tensor(0, {4}, {1})).tensors[0].tensor.shape == Shape{4});
  CHECK(parse_bin(make_tensor(1, {1, 3}, {77, 1})).tensors[0].tensor.bytes.size() == 12);  // one row has no next one
  CHECK(parse_bin(make_tensor(3, {}, {})).tensors[0].tensor.bytes.size() == 4);
  CHECK(parse_bin(make_tensor(0, {2, 2}, {1, 2})).copies.size() == 1);
  const struct {
    std::string file;
    const char* message;
  } cases[] = {
      {make_tensor(0, {5}, {1}), "tensor t: shape [5], strides [1] and offset 0 reach element 4 of a storage of 4"},
      {make_tensor(4, {1}, {1}), "reach element 4"},
      {make_tensor(1, {2, 2}, {2, 1}), "reach element 4"},
      {make_tensor(-1, {1}, {1}), "lead nowhere"},
      {make_tensor(0, {2}, {-1}), "lead nowhere"},
      {make_tensor(0, {-2}, {1}), "not a possible size"},
      {make_tensor(0, {2147483647, 2147483647, 2147483647}, {1, 1, 1}), "not a possible size"},
      {make_tensor(0, {2147483647, 2147483647}, {0, 0}), "more than once"},
      {make_tensor(0, {2147483647, 2147483647}, {2147483647, 2147483647}), "of a storage of 4"},
      {make_tensor(0, {4, 2}, {1, 0}), "more than once"},
      {make_tensor(0, {3}, {0}), "shape [3] with strides [0] views elements of its storage more than once"},  // in a storage of more
      {make_tensor(0, {2, 2}, {1, 1}), "more than once"},
      {make_tensor(0, {2, 2}, {0, 1}), "more than once"},
      {make_tensor(0, {4}, {1}, 5), "expected 5 elements of F32, found 16 bytes"},
      {make_tensor(0, {3}, {1}, 3), "expected 3 elements of F32, found 16 bytes"},
      {make_tensor(0, {1}, {1}, -4), "expected -4 elements"},
      {make_bin(state_dict(tensor_op(storage_op("FloatStorage", "1", 4), 0, {4}, {1}))), "its storage f/data/1 is not in the archive"},
      {make_bin(state_dict(tensor_op(storage_op("FloatStorage", "../data.pkl", 4), 0, {4}, {1}))), "is not in the archive"},
      {make_bin(state_dict(tensor_op(storage_op("FloatStorage", "0", 4), 0, {4}, {1, 1}))), "a tensor of 1 dimensions has 2 strides"},
      {make_bin(state_dict(tensor_op(storage_op("FloatStorage", "0", 4), 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}))), "9 dimensions"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(parse_bin(c.file), Contains("f.bin") && Contains(c.message));
  }
}

TEST_CASE("copies of views cannot outgrow their file", "[pytorch]") {
  std::string entries;
  const std::string storage(1 << 16, 'x');
  for (int i = 0; i < 100; ++i) entries += text_op("t" + std::to_string(i)) + tensor_op(storage_op("FloatStorage", "0", 1 << 14), 0, {2, 1 << 13}, {1, 2});
  CHECK_THROWS_WITH(parse_bin(make_bin(proto2 + "}(" + entries + "u.", storage)), Contains("tensor t2: tensors that do not lie row by row would take more memory"));
}

TEST_CASE("a pickle that is more than tensors is refused by what it names", "[pytorch]") {
  const std::string good = tensor_op(storage_op("FloatStorage", "0", 4), 0, {4}, {1});
  CHECK(parse_bin(make_bin(state_dict(good))).tensors.size() == 1);
  CHECK(parse_bin(make_bin(proto2 + ordered_dict_op() + "(" + text_op("t") + good + "u" + "}" + text_op("_metadata") + ordered_dict_op() + "sb.")).tensors.size() == 1);
  const auto call = [](const char* module, const char* name, const char* argument) { return proto2 + global_op(module, name) + "(" + text_op(argument) + "tR."; };
  const std::string args = tuple_op({storage_op("FloatStorage", "0", 4)});
  const struct {
    std::string pickle;
    const char* message;
  } cases[] = {
      {call("os", "system", "touch /tmp/pwned"), "global os.system is refused"},
      {call("posix", "system", "true"), "global posix.system is refused"},
      {call("builtins", "eval", "1"), "global builtins.eval is refused"},
      {call("__builtin__", "exec", "1"), "global __builtin__.exec is refused"},
      {call("torch", "load", "x"), "global torch.load is refused"},
      {call("torch.storage", "_load_from_bytes", "x"), "global torch.storage._load_from_bytes is refused"},
      {call("torch", "\x1b[2Jx", "x"), "global torch.\\x1b[2Jx is refused"},
      {call("torch", "FloatStorage", "x"), "a call of torch.FloatStorage, which is no function"},
      {call("torch", "float32", "x"), "a call of torch.float32"},
      {call("collections", "OrderedDict", "x"), "OrderedDict with arguments"},
      {proto2 + text_op("f") + ")R.", "what is called: expected a global, found text"},
      {proto2 + global_op("collections", "OrderedDict") + text_op("x") + "R.", "arguments: expected a tuple, found text"},
      {proto2 + global_op("torch._utils", "_rebuild_tensor_v2") + args + "R.", "a tensor of 1 arguments; expected 6 or 7"},
      {proto2 + global_op("torch._utils", "_rebuild_parameter") + tuple_op({text_op("x"), "\x88", "N"}) + "R.", "a parameter: expected a tensor, found text"},
      {proto2 + "c" + std::string(5000, 'a'), "a global's name does not end"},
      {proto2 + "cos\n", "a global's name does not end"},
      {proto2 + "(ios\nsystem\n.", "opcode 0x69"},                                          // INST
      {proto2 + "\x93.", "opcode 0x93"},                                                    // STACK_GLOBAL
      {proto2 + "\x81.", "opcode 0x81"},                                                    // NEWOBJ
      {proto2 + "\x82\1.", "opcode 0x82"},                                                  // EXT1
      {proto2 + "P0\n.", "opcode 0x50"},                                                    // PERSID
      {proto2 + "2.", "opcode 0x32"},                                                       // DUP
      {proto2 + std::string("\x8b") + little<int32_t>(2147483647) + ".", "opcode 0x8b"},    // LONG4
      {proto2 + std::string("\x8d") + little<int64_t>(int64_t{1} << 60) + ".", "opcode 0x8d"},  // BINUNICODE8
      {proto2 + "X" + little<uint32_t>(4294967295u) + "abc", "truncated: text needs 4294967295 bytes"},
      {proto2 + std::string("\x8a\xff") + std::string(255, '\1') + ".", "an integer of 255 bytes"},
      {"\x80\x04}.", "protocol 4; expected 2"},
      {"}.", "does not begin as a pickle"},
      {"", "truncated: opcode needs 1 bytes at byte 0"},
      {proto2, "truncated: opcode"},
      {proto2 + "}", "truncated: opcode"},
      {proto2 + ".", "empty stack"},
      {proto2 + "}}.", "ends with 1 more values than one"},
      {proto2 + "}.}", "1 bytes follow its end"},
      {proto2 + "(.", "takes a mark for a value"},
      {proto2 + "t.", "a mark is missing"},
      {proto2 + "\x85.", "empty stack"},
      {proto2 + "}(u.}", "1 bytes follow"},
      {proto2 + "}(" + text_op("t") + "u.", "a key without a value"},
      {proto2 + "}" + text_op("a\xed\xb2\x80x") + good + "s.", "text that is not UTF-8 from its byte 1 on: a\\xed\\xb2\\x80x"},  // half of a surrogate pair
      {proto2 + "}" + text_op("\xc3") + good + "s.", "text that is not UTF-8 from its byte 0 on"},
      {proto2 + "}" + text_op("\xe2\x82\xac\xf4\x90\x80\x80") + good + "s.", "text that is not UTF-8 from its byte 3 on"},
      {proto2 + "}" + text_op(std::string(5000, 'n')) + int_op(5) + "s.", "(4800 bytes more)"},
      {proto2 + "N.", "the whole of a checkpoint: expected a dictionary, found None"},
      {state_dict(int_op(5)), "entry t: expected a tensor, found an integer"},
      {state_dict("}"), "entry t: expected a tensor, found a dictionary"},
      {proto2 + "}" + int_op(5) + good + "s.", "name of a tensor: expected text, found an integer"},
      {proto2 + "}" + text_op("t") + good + "s" + text_op("t") + good + "s.", "tensor t: appears twice"},
      {proto2 + "}h\5.", "memo 5 was never set"},
      {proto2 + "}j" + little<uint32_t>(4294967295u) + ".", "memo 4294967295 was never set"},
      {proto2 + "q\1}.", "empty stack"},
      {proto2 + "}q" + std::string(1, '\0') + "(" + text_op("t") + "h" + std::string(1, '\0') + "u.", "entry t: expected a tensor, found a dictionary"},  // holds itself
      {state_dict(tuple_op({text_op("file"), global_op("torch", "FloatStorage"), text_op("0"), text_op("cpu"), int_op(4)}) + "Q"), "a persistent id that is no storage"},
      {state_dict(text_op("0") + "Q"), "storage: expected a tuple, found text"},
      {state_dict(storage_op("float32", "0", 4)), "type of a storage: torch.float32"},
      {state_dict(storage_op("ComplexFloatStorage", "0", 4)), "global torch.ComplexFloatStorage is refused"},
      {proto2 + good + "}b.", "what gets attributes: expected a dictionary, found a tensor"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(parse_bin(make_bin(c.pickle)), Contains("f.bin") && Contains(c.message));
  }
  CHECK_THROWS_WITH(read_state_dict(bytes_of(std::string((8 << 20) + 1, '}')), "f"), Contains("over the limit"));
  std::string deep = proto2 + ")";  // tuples in tuples cost a value each, and nothing walks into them
  for (int i = 0; i < 1'000'000; ++i) deep += "\x85";
  CHECK_THROWS_WITH(read_state_dict(bytes_of(deep + "."), "f"), Contains("found a tuple"));
  const std::string whole = state_dict(good);
  for (size_t size = 0; size < whole.size(); ++size) CHECK_THROWS_AS(read_state_dict(bytes_of(whole).first(size), "f"), Error);
}

TEST_CASE("a ZIP archive is stored entries, each with bytes of its own", "[pytorch]") {
  const auto read = [](const std::string& file) { return parse_stored_zip(bytes_of(file), "f.zip"); };
  const ZipParts good = make_zip({{"a", "12"}, {"b", ""}, {"c", "345"}});
  CHECK(read(good.whole()).size() == 3);
  CHECK(std::to_integer<char>(read(good.whole()).at("c")[0]) == '3');
  CHECK(read(good.data + good.directory + good.end("a comment")).size() == 3);
  CHECK(read(ZipParts{}.whole()).empty());

  const auto end64 = [&](uint64_t entries, uint64_t size, uint64_t offset) { return "PK\6\6" + little<uint64_t>(44) + little<uint32_t>(0) + little<uint64_t>(0) + little(entries) + little(entries) + little(size) + little(offset); };
  const auto with64 = [&](const std::string& record, uint64_t at) { return good.data + good.directory + record + "PK\6\7" + little<uint32_t>(0) + little(at) + little<uint32_t>(1) + good.end(); };
  const uint64_t size = good.directory.size(), offset = good.data.size();
  CHECK(read(with64(end64(3, size, offset), offset + size)).size() == 3);

  ZipParts overlap = make_zip({{"a", "12345678"}, {"b", "1"}});
  overlap.directory.replace(overlap.directory.size() - 5, 4, little<uint32_t>(0));  // b's header is a's
  overlap.directory.back() = 'a';
  ZipParts far = make_zip({{"a", "12"}});
  far.directory.replace(far.directory.size() - 5, 4, little<uint32_t>(4000000000u));
  ZipParts long_entry = make_zip({{"a", "12"}});
  long_entry.directory.replace(20, 8, little<uint32_t>(900) + little<uint32_t>(900));
  ZipParts count = good;
  count.entries = 2;
  ZipParts more = good;
  more.entries = 4;
  const struct {
    std::string file;
    const char* message;
  } cases[] = {
      {"", "the record that ends it is missing"},
      {"PK\3\4", "the record that ends it is missing"},
      {good.whole().substr(0, good.whole().size() - 1), "the record that ends it is missing"},
      {good.whole() + "x", "the record that ends it is missing"},
      {"x" + good.whole(), "expected it to end at byte"},
      {good.data + "x" + good.directory + good.end(), "expected it to end at byte"},
      {make_zip({{"a", "12", 0, 8}}).whole(), "entry a: is compressed (method 8"},
      {make_zip({{.name = "a", .content = "12", .unpacked = 1u << 31}}).whole(), "entry a: is compressed (method 0, 2147483648 bytes from 2)"},
      {make_zip({{"a", "12", 1}}).whole(), "entry a: is encrypted"},
      {make_zip({{.name = "a", .content = "12", .local_name = "b"}}).whole(), "entry a: its local header says otherwise: b"},
      {make_zip({{"a", "12"}, {"a", "34"}}).whole(), "entry a: appears twice"},
      {overlap.whole(), "entry a: appears twice"},
      {far.whole(), "truncated: entry a needs 4000000000 bytes"},
      {long_entry.whole(), "truncated: entry a needs 900 bytes"},
      {count.whole(), "lists 2 entries, but 47 more bytes follow"},
      {more.whole(), "truncated: entry 4 of 4"},
      {with64(end64(3, size, offset), 0), "the ZIP64 end record is expected at byte"},
      {with64(end64(9, size, offset), offset + size), "the ZIP end records disagree on the number of entries: 3 and 9"},
      {with64(end64(3, size, offset + (uint64_t{1} << 40)), offset + size), "disagree on the place of the directory"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(read(c.file), Contains("f.zip") && Contains(c.message));
  }
  ZipParts inside = make_zip({{"a", make_zip({{"b", "1"}}).data}});  // one entry within another
  inside.directory += make_zip({{"b", "1"}}).directory;
  inside.directory.replace(inside.directory.size() - 5, 4, little<uint32_t>(31));
  inside.entries = 2;
  CHECK_THROWS_WITH(read(inside.whole()), Contains("entries a and b overlap"));
  for (size_t cut = 0; cut < good.whole().size(); ++cut) CHECK_THROWS_AS(read(good.whole().substr(0, cut)), Error);
}

TEST_CASE("an archive that is no state dict is refused", "[pytorch]") {
  CHECK_THROWS_WITH(parse_bin("\x80\x02\x8a\x0a"), Contains("a bare pickle, as PyTorch before 1.6 wrote"));
  CHECK_THROWS_WITH(parse_bin(make_zip({{"f/model.py", "x"}}).whole()), Contains("has no entry FOLDER/data.pkl"));
  CHECK_THROWS_WITH(parse_bin(make_zip({{"f/data.pkl", "x"}, {"g/data.pkl", "x"}}).whole()), Contains("expected one pickle"));
  CHECK_THROWS_WITH(parse_bin(make_zip({{"f/data.pkl", proto2 + "}."}, {"f/byteorder", "big"}}).whole()), Contains("byteorder: expected little, found big"));
  CHECK(parse_bin(make_zip({{"f/data.pkl", proto2 + "}."}}).whole()).tensors.empty());
}

TEST_CASE("random damage gives tensors or an error, and every byte of a tensor can be read", "[pytorch]") {
  const MappedFile file(golden_root().parent_path() / "pytorch/views.bin");
  const std::string whole(file.text());
  const size_t pickle = whole.find(proto2), directory = whole.find("PK\1\2");
  const auto at_random = [&](Random& random) {  // where structure is: local header and pickle, or directory and end
    return random.below(2) == 0 ? pickle - 64 + random.below(3200) : directory + random.below(whole.size() - directory);
  };
  Random random(5, "damage");
  size_t accepted = 0, sum = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string damaged = whole;
    for (uint64_t i = 0; i <= random.below(3); ++i) damaged[at_random(random)] = static_cast<char>(random.below(2) == 0 ? random.below(256) : static_cast<unsigned char>(whole[at_random(random)]));
    try {
      for (const NamedTensor& entry : parse_bin(damaged).tensors)
        for (std::byte value : entry.tensor.bytes) sum += std::to_integer<size_t>(value);
      ++accepted;
    } catch (const Error&) {
    }
  }
  CHECK(accepted > 100);  // what is damaged may be a checksum, a time or an attribute
  CHECK(accepted < 15'000);
  CHECK(sum > 0);
}
