// Writes small valid GGUF files for fuzzing to start from: make_gguf_seeds DIRECTORY
#include <filesystem>

#include "formats/gguf_writer.h"

int main(int, char** argv) {
  using namespace llmc;
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
}
