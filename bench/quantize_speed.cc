// Speed of quantization without calibration beside a copy of the same bytes in memory, scheme by scheme.
//
//     bench_quantize_speed [MODEL [THREADS [ROUNDS [SCHEME]]]]      (default: bench/llama_250m.json, 2 threads, 7 rounds, six schemes)
//
// MODEL is a directory, or a config.json whose model gets random weights, which lie in memory as bf16. Quantization is the pass quantize.rtn over the model's
// linear layers (reading the floats, choosing grids, rounding) and the codec that `llmc quantize` would store them with (compressed-tensors), up to
// the bytes of the file. MB are those of the source's floats. The copy is memcpy, each thread's share of a tensor into memory that was there before.
// The two take turns in rounds; figures are medians, "of a copy" is the copy's time over ours in the same round: by the processor time of all
// threads, which a busy machine does not stretch much, and in brackets by the clock.
#include <cstring>
#include <nlohmann/json.hpp>

#include "bench/timing.h"
#include "core/page_memory.h"
#include "core/parallel.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "model/random_model.h"
#include "passes/quantize_rtn.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

class Source {
 public:
  explicit Source(Model model) : model_(std::move(model)) {
    for (const PlacedTensor& placed : model_.tensors()) {
      if (!is_block_linear(placed)) continue;
      const auto bytes = std::get<FloatData>(placed.tensor->form).bytes();
      floats_.emplace_back(bytes.begin(), bytes.end());
      tensors_.push_back(placed.tensor);
      bytes_ += bytes.size();
    }
    copied_.resize(bytes_);
    // Memory that a virtual machine has not used yet costs a fault of its host's, too: what the rounds will write is used once before.
    std::memset(PageMemory(4 * bytes_).bytes().data(), 1, 4 * bytes_);
  }

  void copy(int threads) {
    size_t at = 0;
    for (const auto& from : floats_) {
      const auto size = static_cast<int64_t>(from.size());
      parallel_pieces(size, (size + threads - 1) / threads, [&](int64_t first, int64_t last) { std::memcpy(copied_.data() + at + first, from.data() + first, static_cast<size_t>(last - first)); });
      at += from.size();
    }
  }

  void quantize(const std::string& scheme) {
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i]->form = FloatData(std::span<const std::byte>(floats_[i]));
    SilentSink sink;
    const RunContext run{.sink = sink, .stop = {}};
    make_quantize_rtn({{"pass", "quantize.rtn"}, {"scheme", scheme}}, "bench")->run(model_, {.run = run});
    parallel_for(static_cast<int64_t>(tensors_.size()), [&](int64_t i) {
      const StoredTensor& tensor = *tensors_[static_cast<size_t>(i)];
      find_compressed_tensors_codec(std::get<QuantizedMatrix>(tensor.form).scheme)->encode(tensor);
    });
  }

  double megabytes() const { return 1e-6 * static_cast<double>(bytes_); }

 private:
  Model model_;
  std::vector<StoredTensor*> tensors_;
  std::vector<std::vector<std::byte>> floats_;  ///< of each tensor
  std::vector<std::byte> copied_;
  size_t bytes_ = 0;
};

void measure_scheme(Source& source, const std::string& scheme, int threads, int rounds) {
  std::vector<double> speeds, ratios, clock_speeds, clock_ratios;
  for (int round = -1; round < rounds; ++round) {  // round -1 warms up
    const Times copy = time([&] { source.copy(threads); }), ours = time([&] { source.quantize(scheme); });
    if (round < 0) continue;
    speeds.push_back(source.megabytes() / ours.processor * threads), clock_speeds.push_back(source.megabytes() / ours.clock);
    ratios.push_back(copy.processor / ours.processor), clock_ratios.push_back(copy.clock / ours.clock);
  }
  fmt::print("{:16}{:6.0f} MB/s ({:.0f})   {:.3f} of a copy ({:.3f})\n", scheme, median(speeds), median(clock_speeds), median(ratios), median(clock_ratios));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::filesystem::path path = argc > 1 ? argv[1] : LLMC_SOURCE_DIR "/bench/llama_250m.json";
  const auto number = [&](int at, int otherwise) { return argc > at ? std::stoi(argv[at]) : otherwise; };
  const int threads = number(2, 2), rounds = number(3, 7);
  with_threads(threads, [&] {
    SilentSink sink;
    Source source(std::filesystem::is_directory(path) ? load_model(path, {}, {.sink = sink, .stop = {}}) : make_random_model(path, 1, {}));
    if (argc > 4) return measure_scheme(source, argv[4], threads, rounds);
    for (const char* scheme : {"W8A16-channel", "W8A16-g128", "W4A16-channel", "W4A16-g128", "W4A16-g32", "W4A16-g128-linear"}) measure_scheme(source, scheme, threads, rounds);
  });
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
