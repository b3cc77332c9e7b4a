// Writes seeds for the fuzzers of kept states: `make_state_seeds SWEEPS TRAININGS BUNDLES`, a directory for each.
#include <fstream>

#include "calib/sweep_state.h"
#include "core/mapped_file.h"
#include "passes/rounding.h"
#include "passes/soft_targets.h"
#include "passes/weight_learner.h"
#include "tests/fuzz/small_model.h"
#include "tests/support.h"

using namespace llmc;
namespace fs = std::filesystem;

namespace {

void put_seed(const fs::path& seed, const std::vector<std::string>& names) {
  std::ofstream out(seed, std::ios::binary);
  for (size_t i = 0; i < names.size(); ++i) out << (i ? fuzz::file_mark : "") << read_text_file(fuzz::scratch() / names[i]);
}

/// Of floats, or of what a scheme makes of the matrices.
void put_sweep(const fs::path& seed, const char* scheme_name) {
  fuzz::clear();
  Model model = fuzz::make_small_model(32);
  fuzz::clear();
  for (const PlacedTensor& placed : model.tensors()) {
    if (!scheme_name || !is_block_linear(placed)) continue;
    const Scheme scheme = parse_scheme(scheme_name);
    placed.tensor->form = round_to_nearest(read_matrix(*placed.tensor).view(), scheme, scale_dtype_for(scheme, placed.tensor->dtype), {.zero = ZeroLevel::kept}, placed.tensor->name);
  }
  SweepState state(fuzz::scratch(), Persistence::resumable, fuzz::small_signature());
  const std::vector<int64_t> lengths = {3, 2};
  const ActivationStore changed(lengths, fuzz::small_width, DType::f32, std::nullopt), plain(lengths, fuzz::small_width, DType::bf16, std::nullopt);
  state.save(model, 0, changed, plain, {{"blocks", {0.5}}}, test::context());
  put_seed(seed, {"state.json", "block-0.safetensors", "changed-0.bin", "plain-0.bin"});
}

void put_training(const fs::path& seed) {
  Model model = fuzz::make_small_model(32);
  TrainableModel trainable(model.config(), Precision::f32, default_backend());
  WeightLearner learner(model, trainable, {});
  learner.set_signature(fuzz::small_signature().dump());
  learner.set_schedule(1, 4);
  for (int64_t step = 0; step < 2; ++step) learner.end_step(step, {});
  learner.save(fuzz::scratch() / "training.safetensors");
  put_seed(seed, {"training.safetensors"});
}

void put_bundle(const fs::path& seed) {
  const RunContext context = test::context();
  const PassContext pass{.run = context, .seed = 1, .calibration = &fuzz::small_samples(), .sweep = {}, .state_directory = {}, .load_original = {}};
  TeacherModel teacher(fuzz::make_small_model(32), TeacherRuns::with_each_batch, fuzz::small_samples(), pass);
  fuzz::clear();
  write_soft_targets(fuzz::scratch() / "targets.safetensors", teacher, fuzz::small_samples(), {.top = 4, .temperature = 2}, context);
  fuzz::write("manifest.json", R"({"format": "llmc-distillation-bundle", "version": 1, "samples": 2, "seqlen": 3, "temperature": 2.0, "top": 4})");
  put_seed(seed, {"manifest.json", "targets.safetensors"});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  put_sweep(fs::path(argv[1]) / "floats", nullptr);
  for (const char* scheme : {"W4A16-channel", "W8A16-tensor-linear", "W2A16-channel"}) put_sweep(fs::path(argv[1]) / scheme, scheme);
  put_training(fs::path(argv[2]) / "adamw");
  put_bundle(fs::path(argv[3]) / "bundle");
}
