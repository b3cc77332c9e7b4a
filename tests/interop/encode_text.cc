// Encodes and decodes texts, for tests that compare with other tokenizers.
//
//     llmc_encode_text FILE [SECONDS] < texts.jsonl     a tokenizer.json, a tokenizer.model, a vocab.json with merges.txt beside it, or a .gguf; each line a JSON string
//
// Prints {"ids": […], "text": "…"} for each: its ids without special tokens, and what they decode to; {"error": "…"} where that fails.
// Writes to the file SECONDS how long the encoding of all texts took.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "calib/tokenizer.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_files.h"

using namespace llmc;
using nlohmann::json;

namespace {

std::string read_json(const std::string& name) {
  if (name.ends_with(".gguf")) return find_gguf_tokenizer_file(open_gguf(name).metadata, "tokenizer.json").value_or("");
  if (name.ends_with(".model")) return SentencePieceModel::parse(read_text_file(name), name).make_tokenizer(std::nullopt, name).dump();
  if (name.ends_with("vocab.json")) {
    const std::filesystem::path folder = std::filesystem::path(name).parent_path();
    return make_byte_level_tokenizer(read_text_file(name), read_text_file(folder / "merges.txt"), json::object(), folder.string()).dump();
  }
  return read_text_file(name);
}

json encode(const Tokenizer& tokenizer, const std::string& text, std::chrono::duration<double>& spent) try {
  const auto begin = std::chrono::steady_clock::now();
  const auto ids = tokenizer.encode(text, SpecialTokens::omit);
  spent += std::chrono::steady_clock::now() - begin;
  return {{"ids", ids}, {"text", tokenizer.decode(ids)}};
} catch (const Error& error) {
  return {{"error", error.what()}};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 3) throw Error(ErrorKind::usage, "llmc_encode_text FILE [SECONDS] < texts.jsonl");
  const Tokenizer tokenizer = Tokenizer::parse(read_json(argv[1]), argv[1]);
  std::chrono::duration<double> spent{0};
  for (std::string line; std::getline(std::cin, line);) std::cout << encode(tokenizer, json::parse(line).get<std::string>(), spent).dump() << "\n";
  if (argc == 3) std::ofstream(argv[2]) << spent.count() << "\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
