// Writes small valid GGUF files for fuzzing to start from: `make_gguf_seeds FILES SHARDS`, whole ones into the first directory and a
// split one, as fuzz_gguf_shards reads it, into the second.
#include <filesystem>
#include <fstream>

#include "core/mapped_file.h"
#include "formats/gguf_writer.h"
#include "tests/fuzz/scratch.h"

namespace {

using namespace llmc;

/// A tensor in each shard; the keys of the first are those of the file.
void put_shards(const std::filesystem::path& seed, const GgufMetadata& first) {
  std::ofstream out(seed, std::ios::binary);
  for (const uint64_t number : {0, 1}) {
    GgufMetadata metadata = number == 0 ? first : GgufMetadata();
    metadata.set("split.no", {GgufValueType::u16, number});
    metadata.set("split.count", {GgufValueType::u16, uint64_t{2}});
    metadata.set("split.tensors.count", {GgufValueType::i32, int64_t{2}});
    const std::vector<GgufLayout> layouts = {{number == 0 ? "a" : "b", &get_info(GgufType::f32), {2, 32}}};
    const auto path = fuzz::scratch() / std::to_string(number);
    GgufWriter writer(path, metadata, layouts);
    writer.write(layouts[0].name, std::vector<std::byte>(layouts[0].bytes(), std::byte{0x11}));
    writer.close();
    out << (number == 0 ? "" : fuzz::file_mark) << read_text_file(path);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::filesystem::path directory = argv[1];
  GgufMetadata metadata;
  metadata.set("general.architecture", gguf_string("llama"));
  for (const auto& [key, value] : {std::pair("context_length", 64u), std::pair("embedding_length", 32u), std::pair("block_count", 1u), std::pair("feed_forward_length", 32u), std::pair("attention.head_count", 2u), std::pair("attention.head_count_kv", 1u), std::pair("rope.dimension_count", 16u)}) metadata.set(std::string("llama.") + key, gguf_u32(value));
  metadata.set("llama.attention.layer_norm_rms_epsilon", gguf_f32(1e-5f));
  metadata.set("llama.rope.freq_base", gguf_f32(10000.f));
  metadata.set("tokenizer.ggml.model", gguf_string("gpt2"));
  metadata.set("tokenizer.ggml.pre", gguf_string("gpt-2"));
  metadata.set("tokenizer.ggml.tokens", gguf_strings({"<s>", "a", "b", "ab"}));
  metadata.set("tokenizer.ggml.token_type", gguf_i32s({3, 1, 1, 1}));
  metadata.set("tokenizer.ggml.merges", gguf_strings({"a b"}));
  metadata.set("tokenizer.ggml.bos_token_id", gguf_u32(0));
  metadata.set("tokenizer.ggml.add_bos_token", gguf_bool(true));
  for (const GgufTypeInfo& type : gguf_type_list()) {
    const int64_t row = std::max<int64_t>(type.block, 32);
    const std::vector<GgufLayout> layouts = {{"token_embd.weight", &type, {4, row}}, {"blk.0.attn_q.weight", &type, {32, row}}, {"blk.0.attn_q.bias", &get_info(GgufType::f32), {32}}, {"output_norm.weight", &get_info(GgufType::f32), {row}}};
    const auto path = directory / (std::string(type.name) + ".gguf");
    std::filesystem::remove(path);
    GgufWriter writer(path, metadata, layouts);
    for (const GgufLayout& layout : layouts) writer.write(layout.name, std::vector<std::byte>(layout.bytes(), std::byte{0x11}));
    writer.close();
  }
  put_shards(std::filesystem::path(argv[2]) / "two", metadata);
}
