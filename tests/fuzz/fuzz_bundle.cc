// Any manifest.json and any targets.safetensors of a distillation bundle teach, or give an llmc::Error. The input is both files.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "passes/distillation_bundle.h"
#include "passes/soft_targets.h"
#include "tests/fuzz/small_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  const auto files = fuzz::split_files({reinterpret_cast<const char*>(data), size});
  if (files.size() != 2) return 0;
  fuzz::write("manifest.json", files[0]);
  fuzz::write("targets.safetensors", files[1]);
  double temperature = 2;
  fuzz::expect_no_bug([&] {
    const BundleInfo info = read_bundle_info(fuzz::scratch());
    if (!(info.temperature > 0) || !std::isfinite(info.temperature)) std::abort();
    temperature = info.temperature;
  });
  fuzz::expect_no_bug([&] {
    KeptTargets targets(fuzz::scratch() / "targets.safetensors", fuzz::small_samples(), temperature);
    if (targets.vocabulary() > 4096) return;
    const Batch batch(fuzz::small_samples(), {1, 0});
    Matrix rows(batch.rows.rows, targets.vocabulary());
    targets.look_at(batch)(0, rows.view());
    for (const float value : rows.values())
      if (!(value <= 0)) std::abort();
  });
  return 0;
}
