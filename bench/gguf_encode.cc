// Speed of the search for GGUF blocks beside ggml's quantizer and beside copying the weights, type by type.
//
//     bench_gguf_encode PATH/libggml-base.so [ROWS]      (default: 256 rows of 4096 weights; the library is in llama-cpp-python's wheel)
//
// On one thread, in processor time, which a busy machine does not stretch much. Every round runs all three one after the other; figures
// are those of the best rounds: "copy" is the time of a copy of the f32 weights over ours, "ggml" its time over ours.
#include <dlfcn.h>

#include <cstring>
#include <limits>

#include "bench/timing.h"
#include "core/error.h"
#include "core/parallel.h"
#include "passes/block_search.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

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

void compare(const GgufTypeInfo& type, Quantize quantize, const Matrix& weights, std::span<const float> importance, int rounds) {
  std::vector<std::byte> bytes(static_cast<size_t>(gguf_bytes(type, weights.rows() * weights.cols())));
  std::vector<float> copied(weights.values().size());
  double ours = std::numeric_limits<double>::infinity(), copied_in = ours, ggml = ours;
  for (int round = -1; round < rounds; ++round) {  // round −1 warms up
    const double copy = seconds([&] { std::memcpy(copied.data(), weights.values().data(), copied.size() * sizeof(float)); });
    const double theirs = seconds([&] { quantize(static_cast<int>(type.id), weights.values().data(), bytes.data(), 0, weights.rows(), weights.cols(), importance.empty() ? nullptr : importance.data()); });
    const double time = seconds([&] { encode_gguf(type, weights.view(), importance, "bench", bytes); });
    if (round < 0) continue;
    ours = std::min(ours, time);
    copied_in = std::min(copied_in, copy);
    ggml = std::min(ggml, theirs);
  }
  fmt::print("{:8}{:10}  {:8.1f} million weights/s   copy {:6.3f}   ggml {:6.2f}\n", type.name, importance.empty() ? "" : "weighted", 1e-6 * static_cast<double>(copied.size()) / ours, copied_in / ours, ggml / ours);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) throw Error(ErrorKind::usage, "bench_gguf_encode PATH/libggml-base.so [ROWS]");
  const Quantize quantize = load_quantizer(argv[1]);
  const Matrix weights = random_matrix(argc > 2 ? std::stoll(argv[2]) : 256, 4096, "weights");
  std::vector<float> importance;
  Random random(3, "importance");
  for (int64_t c = 0; c < weights.cols(); ++c) importance.push_back(static_cast<float>(random.normal() * random.normal() + 2));
  for (float& value : importance) value = std::abs(value);
  with_threads(1, [&] {
    for (const GgufTypeInfo& type : gguf_type_list()) {
      if (type.dtype) continue;
      compare(type, quantize, weights, {}, 9);
      compare(type, quantize, weights, importance, 9);
    }
  });
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
