// Speed of the search for GGUF blocks beside ggml's quantizer and beside copying the f32 weights, type by type, on as many threads.
//
//     bench_gguf_encode PATH/libggml-base.so [THREADS [ROWS [GGML_ROWS [TYPE …]]]]      (default: 2 threads, 8192 and 512 rows of 8192 weights, all types)
//
// The library is in llama-cpp-python's wheel. ROWS are what is copied and encoded: by default 256 MB, a large matrix of a model (of 512 MB libc
// copies each thread's half past the caches, which is faster). ggml, which takes a minute for that, and the encoder again get GGML_ROWS of
// them. Each thread has rows of its own. The variants take turns in rounds; a figure is the median over the rounds of the ratio within one:
// "copy" is the time of the copy over ours, "ggml" its time over ours. Processor time of all threads, which a busy machine does not stretch
// much, and in brackets time on the clock.
#include <dlfcn.h>

#include <cstring>
#include <vector>

#include "bench/timing.h"
#include "core/error.h"
#include "core/parallel.h"
#include "passes/block_search.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

constexpr int64_t columns = 8192;

/// ggml.h: ggml_quantize_chunk
using Quantize = size_t (*)(int type, const float* source, void* target, int64_t start, int64_t rows, int64_t columns, const float* importance);

Quantize load_quantizer(const char* path) {
  void* library = ::dlopen(path, RTLD_NOW);
  void* symbol = library ? ::dlsym(library, "ggml_quantize_chunk") : nullptr;
  if (!symbol) throw Error(ErrorKind::input, fmt::format("{}: {}", path, ::dlerror()));
  Quantize quantize = nullptr;
  std::memcpy(&quantize, &symbol, sizeof quantize);
  return quantize;
}

class Comparison {
 public:
  Comparison(Quantize quantize, int threads, int64_t rows, int64_t ggml_rows)
      : quantize_(quantize), threads_(threads), ggml_rows_(std::min(rows, ggml_rows)), weights_(random_matrix(rows, columns, "weights")), copied_(weights_.values().size()), bytes_(2 * copied_.size()) {
    Random random(3, "importance");
    for (int64_t c = 0; c < columns; ++c) importance_.push_back(static_cast<float>(std::abs(random.normal() * random.normal() + 2)));
  }

  void run(const GgufTypeInfo& type, bool weighted, int rounds) {
    const std::span<const float> importance = weighted ? std::span<const float>(importance_) : std::span<const float>();
    const auto encode = [&](int64_t rows) { encode_gguf(type, weights_.view().row_range(0, rows), importance, "bench", std::span(bytes_).first(static_cast<size_t>(gguf_bytes(type, rows * columns)))); };
    std::vector<double> speeds, copies, copies_by_clock, ggml, ggml_by_clock;
    for (int round = -1; round < rounds; ++round) {  // round −1 warms up
      const Times copy = time([&] { in_threads(weights_.rows(), [&](int64_t first, int64_t last) { std::memcpy(copied_.data() + first * columns, weights_.row(first), static_cast<size_t>((last - first) * columns) * sizeof(float)); }); });
      const Times ours = time([&] { encode(weights_.rows()); });
      const Times theirs = time([&] { in_threads(ggml_rows_, [&](int64_t first, int64_t last) { quantize_(static_cast<int>(type.id), weights_.values().data(), bytes_.data(), first * columns, last - first, columns, weighted ? importance_.data() : nullptr); }); });
      const Times ours_again = time([&] { encode(ggml_rows_); });
      if (round < 0) continue;
      speeds.push_back(1e-6 * static_cast<double>(copied_.size()) / ours.processor * threads_);
      copies.push_back(copy.processor / ours.processor);
      copies_by_clock.push_back(copy.clock / ours.clock);
      ggml.push_back(theirs.processor / ours_again.processor);
      ggml_by_clock.push_back(theirs.clock / ours_again.clock);
    }
    fmt::print("{:8}{:10}{:8.0f} million weights/s   copy {:6.3f} ({:5.3f})   ggml {:6.2f} ({:5.2f})\n", type.name, weighted ? "weighted" : "", median(speeds), median(copies), median(copies_by_clock), median(ggml), median(ggml_by_clock));
    std::fflush(stdout);
  }

 private:
  /// body(first, last) for a share of the rows on each thread.
  void in_threads(int64_t rows, const std::function<void(int64_t, int64_t)>& body) const { parallel_pieces(rows, (rows + threads_ - 1) / threads_, body); }

  Quantize quantize_;
  int threads_;
  int64_t ggml_rows_;
  Matrix weights_;
  std::vector<float> copied_, importance_;
  std::vector<std::byte> bytes_;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) throw Error(ErrorKind::usage, "bench_gguf_encode PATH/libggml-base.so [THREADS [ROWS [GGML_ROWS [TYPE …]]]]");
  const auto number = [&](int at, int64_t otherwise) { return argc > at ? std::stoll(argv[at]) : otherwise; };
  const auto threads = static_cast<int>(number(2, 2));
  Comparison comparison(load_quantizer(argv[1]), threads, number(3, 8192), number(4, 512));
  std::vector<const GgufTypeInfo*> types;
  for (int i = 5; i < argc; ++i) types.push_back(&get_gguf_type(std::string(argv[i]), "TYPE"));
  if (types.empty())
    for (const GgufTypeInfo& type : gguf_type_list())
      if (!type.dtype) types.push_back(&type);
  with_threads(threads, [&] {
    for (const GgufTypeInfo* type : types)
      for (const bool weighted : {false, true}) comparison.run(*type, weighted, 7);
  });
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
