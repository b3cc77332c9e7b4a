// Writes seeds for fuzz_weight_files: `make_weight_seeds DIRECTORY`, an index of two shards of each kind.
#include <fstream>

#include "core/mapped_file.h"
#include "formats/safetensors.h"
#include "tests/formats/pytorch_bytes.h"
#include "tests/fuzz/scratch.h"

using namespace llmc;

namespace {

void put_weights(const std::filesystem::path& seed, char kind, const std::string& index, const std::vector<std::string>& shards) {
  std::ofstream out(seed, std::ios::binary);
  out << kind << index;
  for (const std::string& shard : shards) out << fuzz::file_mark << shard;
}

std::string make_safetensors(const std::vector<TensorLayout>& layouts) {
  const auto path = fuzz::scratch() / "shard";
  std::filesystem::remove(path);
  SafetensorsWriter writer(path, layouts, {{"format", "pt"}});
  for (const TensorLayout& layout : layouts) writer.write(layout.name, std::vector<std::byte>(static_cast<size_t>(layout.bytes()), std::byte{0x11}));
  writer.close();
  return read_text_file(path);
}

/// One tensor t of four numbers, as they lie or transposed.
std::string make_pytorch(const std::string& name, const std::vector<int32_t>& strides) {
  const std::string tensor = test::tensor_op(test::storage_op("FloatStorage", "0", 4), 0, {2, 2}, strides);
  return test::make_zip({{"f/data.pkl", test::proto2 + "}(" + test::text_op(name) + tensor + "u."}, {"f/data/0", std::string(16, 'x')}}).whole();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path directory = argv[1];
  const std::string first = make_safetensors({{.name = "a", .dtype = DType::f32, .shape = {2, 3}}, {.name = "b", .dtype = DType::bf16, .shape = {4}}}), second = make_safetensors({{.name = "c", .dtype = DType::u8, .shape = {1, 5}}});
  put_weights(directory / "safetensors", 's', R"({"metadata": {"total_size": 37}, "weight_map": {"a": "1", "b": "1", "c": "2"}})", {first, second});
  put_weights(directory / "safetensors-elsewhere", 's', R"({"weight_map": {"a": "2", "b": "1", "c": "2", "d": "../1"}})", {first, second});
  put_weights(directory / "pytorch", 'p', R"({"weight_map": {"a": "1", "b": "2"}})", {make_pytorch("a", {2, 1}), make_pytorch("b", {1, 2})});
}
