// Writes seeds for the fuzzers: one small tensor in every codec of both containers. `make_codec_seeds CHECKPOINTS FILES` puts
// checkpoints as fuzz_checkpoint reads them into the first directory and packed safetensors files into the second.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/mapped_file.h"
#include "core/output.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/compressed_tensors_config.h"
#include "formats/codecs/packed_codecs.h"
#include "formats/packed_container.h"
#include "formats/weights_writer.h"
#include "passes/outliers.h"
#include "passes/rounding.h"
#include "tests/support.h"

using namespace llmc;
namespace fs = std::filesystem;

namespace {

constexpr const char* module = "model.layers.0.mlp.up_proj";
constexpr const char* name = "model.layers.0.mlp.up_proj.weight";
constexpr const char* schemes[] = {"W8A16", "W8A16-tensor-linear", "W4A16-g16", "W3A16-g16-linear", "W2A16-channel", "W8A8", "W8A8-static-linear", "W4A8-g16-linear-static", "FP8A16", "FP8_E5M2A16-g16", "MXFP8A16", "MXFP4A16", "NVFP4A16", "NF4-g16", "codebook5-g16", "codebook16"};

enum class Sparsity { none, half, two_of_four };

/// [6, 32] in bf16, with zeros and outliers as asked; not quantized without a scheme.
StoredTensor make_tensor(const char* scheme_name, Sparsity sparsity, double outlier_share) {
  Matrix values = test::random_matrix(6, 32, "seed");
  for (size_t i = 0; i < values.values().size(); ++i)
    if (sparsity == Sparsity::two_of_four ? i % 4 < 2 : sparsity == Sparsity::half && i * 7 % 5 < 3) values.values()[i] = 0;
  StoredTensor tensor = test::make_tensor(name, DType::bf16, values);
  tensor.pruned = sparsity != Sparsity::none;
  if (!scheme_name) return tensor;
  const Scheme scheme = parse_scheme(scheme_name);
  const DType scale_dtype = scale_dtype_for(scheme, tensor.dtype);
  Outliers outliers = take_outliers(values, outlier_share, DType::bf16);
  QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, scale_dtype, {.zero = ZeroLevel::kept}, name);
  matrix.outliers = std::move(outliers);
  tensor.form = std::move(matrix);
  if (scheme.input && scheme.input->range == InputRange::calibrated) set_input_grid(tensor, make_static_grid(*scheme.input, -1, 2, scale_dtype, name));
  return tensor;
}

class SeedWriter {
 public:
  SeedWriter(fs::path checkpoints, fs::path files) : checkpoints_(std::move(checkpoints)), files_(std::move(files)) {}

  /// The tensor in every codec that takes it.
  void add(const StoredTensor& tensor) {
    for (const Codec& codec : packed_codecs())
      if (codec.fits(tensor)) add_packed(tensor, codec);
    const Scheme* scheme = find_scheme(tensor);
    if (!scheme || !reason_against_compressed_tensors(tensor, ModuleKind::linear).empty()) return;
    const fs::path file = checkpoints_ / "weights";
    const StoredTensor* list[] = {&tensor};
    write_weights(file, Container::compressed_tensors, list, {}, std::nullopt, test::context());
    put_checkpoint(make_quantization_config({{module, ModuleKind::linear, *scheme}}, {"lm_head"}), file);
    fs::remove(file);
  }

 private:
  void add_packed(const StoredTensor& tensor, const Codec& codec) {
    const fs::path file = files_ / std::to_string(count_);
    std::vector<EncodedPart> parts = codec.encode(tensor);
    std::vector<TensorLayout> layouts;
    for (EncodedPart& part : parts) {
      part.layout.name = packed_part_name(tensor.name, codec, part.layout.name);
      layouts.push_back(part.layout);
    }
    SafetensorsWriter writer(file, layouts, make_packed_metadata({{&tensor, &codec}}));
    for (const EncodedPart& part : parts) writer.write(part.layout.name, part.bytes());
    writer.close();
    put_checkpoint(make_packed_quantization_config(), file);
  }

  void put_checkpoint(const nlohmann::json& quantization_config, const fs::path& weights) {
    const MappedFile content(weights);
    OutputFile seed(checkpoints_ / std::to_string(count_++));
    seed.write(nlohmann::json{{"dtype", "bfloat16"}, {"quantization_config", quantization_config}}.dump() + '\0');
    seed.write(content.bytes());
    seed.close();
  }

  fs::path checkpoints_, files_;
  int count_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  SeedWriter writer(argv[1], argv[2]);
  for (Sparsity sparsity : {Sparsity::none, Sparsity::half, Sparsity::two_of_four}) {
    writer.add(make_tensor(nullptr, sparsity, 0));
    for (const char* scheme : schemes) {
      writer.add(make_tensor(scheme, sparsity, 0));
      if (!parse_scheme(scheme).input) writer.add(make_tensor(scheme, sparsity, 0.05));
    }
  }
}
