// Encodes and decodes texts, for tests that compare with other tokenizers.
//
//     llmc_encode_text FILE [SECONDS THREADS] < texts.jsonl     a tokenizer.json, a tokenizer.model, a vocab.json with merges.txt beside it, or a .gguf; each line a JSON string
//
// Prints {"ids": […], "text": "…"} for each: its ids without special tokens, and what they decode to; {"error": "…"} where that fails.
// With SECONDS all texts are encoded together, on THREADS threads, three times; how long the fastest took goes to that file.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "calib/tokenizer.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
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

json answer(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) { return {{"ids", ids}, {"text", tokenizer.decode(ids)}}; }

json encode(const Tokenizer& tokenizer, const std::string& text) try {
  return answer(tokenizer, tokenizer.encode(text, SpecialTokens::omit));
} catch (const Error& error) {
  return {{"error", error.what()}};
}

/// Prints the answers, and returns the seconds of the fastest of three.
double encode_together(const Tokenizer& tokenizer, const std::vector<std::string>& texts, int threads) {
  double least = INFINITY;
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<std::vector<int32_t>> ids;
    const auto begin = std::chrono::steady_clock::now();
    with_threads(threads, [&] { ids = tokenizer.encode_all(texts, SpecialTokens::omit); });
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    for (size_t i = 0; repeat == 0 && i < ids.size(); ++i) std::cout << answer(tokenizer, ids[i]).dump() << "\n";
  }
  return least;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 4) throw Error(ErrorKind::usage, "llmc_encode_text FILE [SECONDS THREADS] < texts.jsonl");
  const Tokenizer tokenizer = Tokenizer::parse(read_json(argv[1]), argv[1]);
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);) texts.push_back(json::parse(line).get<std::string>());
  if (argc == 4) std::ofstream(argv[2]) << encode_together(tokenizer, texts, std::stoi(argv[3])) << "\n";
  else for (const std::string& text : texts) std::cout << encode(tokenizer, text).dump() << "\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
