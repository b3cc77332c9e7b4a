// Speed of the evaluator beside its floor: the matrix products of the same pass alone, each a whole window in one call of oneDNN.
//
//     bench_evaluate_speed [MODEL [THREADS [WINDOWS [ROUNDS]]]]      (default: bench/llama_250m.json, 2 threads, 16 windows, 5 rounds; 0 rounds: loading only)
//
// MODEL is a directory, or a config.json whose model gets random weights. Of a directory it prints first how long it takes until the logits of eight
// tokens are there, and the most memory until then: the files are opened and checked, and each block read and packed. The evaluator is what `llmc evaluate` runs over windows of 512 tokens, block by
// block: it reads and packs the weights, and scores every token. The floor has its weights packed and its inputs in the products' type before the
// clock starts; every thread has windows of its own, and goes through the blocks' linear layers and the head. The two take turns in rounds; figures
// are medians over the rounds, "of the floor" is the floor's time over the evaluator's in the same round: by the processor time of all threads,
// which a busy machine does not stretch much, and in brackets by the clock. Where oneDNN has no bf16 products on the processor, the floor is its f32 ones.
// "of the peak" is what the operations of f32's linear layers alone would take at the speed of fused multiply-adds in registers, over the evaluator's time.
#include <sys/resource.h>

#include <optional>

#include "bench/peak.h"
#include "bench/timing.h"
#include "core/parallel.h"
#include "model/matmul.h"
#include "model/onednn.h"
#include "model/random_model.h"
#include "verify/quality.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

constexpr int64_t seqlen = 512;

/// Every linear layer of a model, of which layers of the same shape share one weight.
class Floor {
 public:
  Floor(const Model& model, onednn::Type type, int64_t windows) : type_(type), windows_(windows) {
    onednn::use_one_thread();
    for (const PlacedTensor& placed : model.tensors())
      if (is_block_linear(placed)) add(placed.tensor->rows(), placed.tensor->cols());
    const StoredTensor& head = model.get(Role::output_head);
    add(head.rows(), head.cols());
  }

  /// Multiplications and additions of one token.
  double operations() const {
    double sum = 0;
    for (const size_t layer : order_) sum += 2.0 * static_cast<double>(layers_[layer].product.weight.dims()[0] * layers_[layer].product.weight.dims()[1]);
    return sum;
  }

  void run() const {
    for (const size_t layer : order_)
      parallel_for(windows_, [&](int64_t) {
        onednn::use_one_thread();
        const auto& [product, weight, x] = layers_[layer];
        const std::span<float> y = thread_scratch<float>(static_cast<size_t>(product.y.get_size() / sizeof(float)));
        const std::span<std::byte> scratch = thread_scratch<std::byte>(product.scratchpad.get_size());
        product.primitive.execute(onednn::cpu_stream(), {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weight}, {DNNL_ARG_DST, onednn::borrow(product.y, y.data())}, {DNNL_ARG_SCRATCHPAD, onednn::borrow(product.scratchpad, scratch.data())}});
      });
  }

 private:
  struct Layer {
    onednn::Product product;
    dnnl::memory weight, x;
  };

  dnnl::memory make(const dnnl::memory::desc& wanted, int64_t rows, int64_t cols, onednn::Tag order, const std::string& name) const {
    const Matrix values = random_matrix(rows, cols, name);
    dnnl::memory source = onednn::borrow({wanted.dims(), onednn::Type::f32, order}, values.values().data()), made(wanted, onednn::cpu());
    dnnl::reorder(source, made).execute(onednn::cpu_stream(), source, made);
    return made;
  }

  void add(int64_t out, int64_t in) {
    const auto found = std::ranges::find_if(layers_, [&](const Layer& layer) { return layer.product.weight.dims() == dnnl::memory::dims{in, out}; });
    order_.push_back(static_cast<size_t>(found - layers_.begin()));
    if (found != layers_.end()) return;
    onednn::Product product(seqlen, out, in, onednn::BiasForm::none, {.x = type_, .weight = type_, .y = onednn::Type::f32});
    dnnl::memory weight = make(product.weight, out, in, onednn::Tag::ba, "weight"), x = make(product.x, seqlen, in, onednn::Tag::ab, "x");
    layers_.push_back({std::move(product), std::move(weight), std::move(x)});
  }

  onednn::Type type_;
  int64_t windows_;
  std::vector<Layer> layers_;
  std::vector<size_t> order_;
};

/// Of the precision, or of f32 where oneDNN has none on this processor.
Floor make_floor(const Model& model, Precision precision, int64_t windows) {
  if (precision == Precision::bf16) try {
      return {model, onednn::Type::bf16, windows};
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
      fmt::print("bf16: oneDNN has no such products on this processor; the floor is its f32 ones\n");
    }
  return {model, onednn::Type::f32, windows};
}

void measure_evaluator(const Model& model, Precision precision, const Windows& windows, int rounds, int threads) {
  const auto count = static_cast<int64_t>(windows.list.size());
  const Floor floor = make_floor(model, precision, count);
  SilentSink sink;
  std::vector<double> speeds, ratios, clock_speeds, clock_ratios;
  for (int round = -1; round < rounds; ++round) {  // round -1 warms up
    const Times products = time([&] { floor.run(); });
    const Times ours = time([&] { evaluate(model, nullptr, windows, "random tokens", {.precision = precision}, {.sink = sink, .stop = {}}); });
    if (round < 0) continue;
    const auto tokens = static_cast<double>(count * seqlen);
    speeds.push_back(tokens / ours.processor), clock_speeds.push_back(tokens / ours.clock);
    ratios.push_back(products.processor / ours.processor), clock_ratios.push_back(products.clock / ours.clock);
  }
  const auto peak = precision == Precision::f32 ? measure_peak(threads) : std::nullopt;
  fmt::print("{:4}  {:7.0f} tokens per second of processor time ({:.0f} by the clock)   {:.3f} of the floor ({:.3f}){}\n", to_string(precision), median(speeds), median(clock_speeds), median(ratios), median(clock_ratios), peak ? fmt::format("   {:.2f} of the peak", floor.operations() * median(speeds) / *peak) : "");
  std::fflush(stdout);
}

Model load(const std::filesystem::path& directory) {
  SilentSink sink;
  std::optional<Model> model;
  const Times times = time([&] {
    model.emplace(load_model(directory, {}, {.sink = sink, .stop = {}}));
    compute_logits(*model, random_tokens(8, model->config().vocabulary), {});
  });
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print("first logits after {:.2f} s of processor time ({:.2f} by the clock), {} MB at most\n", times.processor, times.clock, usage.ru_maxrss / 1024);
  std::fflush(stdout);
  return std::move(*model);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::filesystem::path path = argc > 1 ? argv[1] : LLMC_SOURCE_DIR "/bench/llama_250m.json";
  const auto number = [&](int at, int otherwise) { return argc > at ? std::stoi(argv[at]) : otherwise; };
  const int threads = number(2, 2), rounds = number(4, 5);
  with_threads(threads, [&] {
    const Model model = std::filesystem::is_directory(path) ? load(path) : make_random_model(path, 1, {});
    if (rounds == 0) return;
    const auto tokens = random_tokens(number(3, 16) * seqlen, model.config().vocabulary);
    Windows windows{.list = {}, .length = seqlen, .tokens = static_cast<int64_t>(tokens.size())};
    for (size_t at = 0; at < tokens.size(); at += seqlen) windows.list.push_back({std::span(tokens).subspan(at, seqlen), {}});
    for (const Precision precision : {Precision::f32, Precision::bf16}) measure_evaluator(model, precision, windows, rounds, threads);
  });
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
