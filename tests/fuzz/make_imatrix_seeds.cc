// Writes a small importance matrix of each kind for fuzzing to start from: make_imatrix_seeds DIRECTORY
#include <filesystem>
#include <fstream>

#include "formats/imatrix.h"

int main(int, char** argv) {
  const std::filesystem::path directory = argv[1];
  std::filesystem::remove(directory / "new.gguf");
  llmc::Imatrix imatrix{.entries = {}, .datasets = {"text.txt"}, .chunk_count = 2, .chunk_size = 512};
  for (const char* name : {"blk.0.attn_q.weight", "output.weight"}) imatrix.entries[name] = {.sums = {1, 2, 0, 4}, .count = 1024};
  llmc::write_imatrix(directory / "new.gguf", imatrix);

  std::ofstream old(directory / "old.dat", std::ios::binary);
  const auto put = [&](int32_t number) { old.write(reinterpret_cast<const char*>(&number), sizeof number); };
  const auto put_text = [&](const std::string& text) { put(static_cast<int32_t>(text.size())), old << text; };
  put(static_cast<int32_t>(imatrix.entries.size()));
  for (const auto& [name, entry] : imatrix.entries) {
    put_text(name);
    put(2);
    put(static_cast<int32_t>(entry.sums.size()));
    old.write(reinterpret_cast<const char*>(entry.sums.data()), static_cast<std::streamsize>(entry.sums.size() * sizeof(float)));
  }
  put(2);
  put_text("text.txt");
}
