// Any bytes as the state of a training are taken up, or give an llmc::Error.
#include <cstddef>
#include <cstdint>

#include "passes/weight_learner.h"
#include "tests/fuzz/small_model.h"

namespace {

using namespace llmc;

struct Training {
  Training() { learner.set_signature(fuzz::small_signature().dump()); }

  Model model = fuzz::make_small_model(32);
  TrainableModel trainable{model.config(), Precision::f32, default_backend()};
  WeightLearner learner{model, trainable, {}};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Training& training = *new Training;  // at exit the memory that threads pool goes before objects do
  fuzz::write("training.safetensors", {reinterpret_cast<const char*>(data), size});
  fuzz::expect_no_bug([] {
    const int64_t done = training.learner.restore(fuzz::scratch() / "training.safetensors");
    if (done != std::ssize(training.learner.losses()) || training.learner.steps() < done) std::abort();
  });
  return 0;
}
