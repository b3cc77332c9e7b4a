// Any state.json, block and activations of a sweep are taken up, with tensors that can be decoded, or give an llmc::Error. The input is
// these files: state.json, block-0.safetensors, changed-0.bin, plain-0.bin.
#include <cstddef>
#include <cstdint>

#include "calib/sweep_state.h"
#include "tests/fuzz/small_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  static Model model = fuzz::make_small_model(32);
  const auto files = fuzz::split_files({reinterpret_cast<const char*>(data), size});
  if (files.size() != 4) return 0;
  size_t number = 0;
  for (const char* name : {"state.json", "block-0.safetensors", "changed-0.bin", "plain-0.bin"}) fuzz::write(name, files[number++]);
  fuzz::expect_no_bug([] {
    SweepState state(fuzz::scratch(), Persistence::resumable, fuzz::small_signature());
    const std::vector<int64_t> lengths = {3, 2};
    ActivationStore changed(lengths, fuzz::small_width, DType::f32, std::nullopt), plain(lengths, fuzz::small_width, DType::bf16, std::nullopt);
    state.restore(model, changed, plain);
    for (const PlacedTensor& placed : model.tensors())
      if (placed.block == 0) read_matrix(*placed.tensor);
    for (int64_t i = 0; i < changed.sequences(); ++i) changed.read(i), plain.read(i);
  });
  model.checkpoint().scratch_files.clear();  // its tensors are replaced before they are read again
  return 0;
}
