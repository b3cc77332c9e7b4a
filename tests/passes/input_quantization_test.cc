// Static and dynamic input schemes through both containers: written, re-opened, and refused when something is off.
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/output.h"
#include "model/forward.h"
#include "passes/artifact.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

Model load(const std::filesystem::path& directory) { return load_model(directory, {}, test::context()); }

/// A tiny model whose block weights have the scheme; static inputs get different grids.
Model quantized_model(const std::string& name, const Scheme& scheme) {
  Model model = load(std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tiny" / name);
  float reach = 1;
  for (const PlacedTensor& placed : model.tensors()) {
    if (!is_block_linear(placed)) continue;
    StoredTensor& tensor = *placed.tensor;
    const DType dtype = scale_dtype_for(scheme, tensor.dtype);
    tensor.form = round_to_nearest(read_matrix(tensor).view(), scheme, dtype, {}, tensor.name);
    if (scheme.input && scheme.input->range == InputRange::calibrated) set_input_grid(tensor, make_static_grid(*scheme.input, -reach, 1.5f * reach, dtype, tensor.name));
    reach *= 1.01f;
  }
  return model;
}

void write(const std::filesystem::path& directory, Container container, const Model& model) { write_artifact(directory, container, model, {.command = "test", .source_hashes = {}}, std::nullopt, test::context()); }

void edit_json(const std::filesystem::path& file, auto edit) {
  nlohmann::json object = parse_json(read_text_file(file), file.string());
  edit(object);
  std::ofstream(file) << object.dump();
}

nlohmann::json& first_input(nlohmann::json& config) { return config["quantization_config"]["config_groups"]["group_0"]["input_activations"]; }

}  // namespace

TEST_CASE("input schemes come back from both containers and run the same", "[input_quantization]") {
  const std::vector<int32_t> tokens = {1, 5, 9, 2, 7, 3};
  for (const char* name : {"llama-gqa-tied", "llama-bf16"})
    for (const char* text : {"W8A8", "W8A8-dynamic-linear", "W8A8-static", "W8A8-linear-static-linear", "W4A8-channel", "W4A4-channel-static", "W3A8-channel-linear-dynamic-linear"})
      for (Container container : {Container::compressed_tensors, Container::llmc_packed}) {
        INFO(name << " " << text << " " << to_string(container));
        const Model model = quantized_model(name, parse_scheme(text));
        test::TemporaryDirectory directory;
        write(directory.path(), container, model);
        const Model reopened = load(directory.path());
        check_reopened(model, reopened, container);
        for (const PlacedTensor& placed : reopened.tensors())
          if (is_block_linear(placed)) CHECK(find_input_quantization(*placed.tensor)->scheme == *parse_scheme(text).input);
        const Matrix before = compute_logits(model, tokens, {}), after = compute_logits(reopened, tokens, {});
        CHECK(std::ranges::equal(before.values(), after.values()));
      }
}

TEST_CASE("a static grid that differs after re-opening is noticed", "[input_quantization]") {
  Model model = quantized_model("llama-gqa-tied", parse_scheme("W8A8-static"));
  test::TemporaryDirectory directory;
  write(directory.path(), Container::compressed_tensors, model);
  const Model reopened = load(directory.path());
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed)) placed.tensor->input_grid->scale *= 2;
  CHECK_THROWS_WITH(check_reopened(model, reopened, Container::compressed_tensors), Contains("differs from what was written"));
}

TEST_CASE("a static input without a grid is not written, and a dynamic one takes none", "[input_quantization]") {
  Model model = quantized_model("llama-gqa-tied", parse_scheme("W8A8-static"));
  for (const PlacedTensor& placed : model.tensors()) placed.tensor->input_grid.reset();
  test::TemporaryDirectory directory;
  for (Container container : {Container::compressed_tensors, Container::llmc_packed}) CHECK_THROWS_WITH(write(directory.path(), container, model), Contains("no scale of the input is there"));
  Model dynamic = quantized_model("llama-gqa-tied", parse_scheme("W8A8"));
  CHECK_THROWS_WITH(set_input_grid(*dynamic.tensors()[3].tensor, {}), Contains("has no static input"));
}

TEST_CASE("configs that contradict the file's input parts are refused", "[input_quantization]") {
  test::TemporaryDirectory directory;
  const auto config = directory.path() / "config.json";
  SECTION("scales without a static scheme") {
    write(directory.path(), Container::compressed_tensors, quantized_model("llama-gqa-tied", parse_scheme("W8A8-static")));
    edit_json(config, [](auto& object) { first_input(object) = nullptr; });
    CHECK_THROWS_WITH(load(directory.path()), Contains("part input_scale is there, but its scheme has no static input"));
  }
  SECTION("a static scheme without scales") {
    write(directory.path(), Container::compressed_tensors, quantized_model("llama-gqa-tied", parse_scheme("W8A8")));
    edit_json(config, [](auto& object) { first_input(object)["dynamic"] = false, first_input(object)["strategy"] = "tensor"; });
    CHECK_THROWS_WITH(load(directory.path()), Contains("part input_scale is missing"));
  }
  SECTION("what is not understood") {
    write(directory.path(), Container::compressed_tensors, quantized_model("llama-gqa-tied", parse_scheme("W8A8")));
    const auto message = [&](const char* key, const nlohmann::json& value) -> std::string {
      edit_json(config, [&](auto& object) { first_input(object)[key] = value; });
      try {
        load(directory.path());
      } catch (const Error& error) {
        return error.what();
      }
      return "";
    };
    CHECK_THAT(message("type", "complex"), Contains("input_activations: type 'complex' is not supported"));
    CHECK_THAT(message("type", "float") + message("num_bits", 4), Contains("input_activations: type 'float': expected num_bits 8 and symmetric, found 4 and symmetric"));
    CHECK_THAT(message("num_bits", 8) + message("symmetric", false), Contains("found 8 and linear"));
    message("symmetric", true);
    CHECK_THAT(message("type", "int") + message("strategy", "group"), Contains("dynamic strategy 'group' is not supported"));
    CHECK_THAT(message("strategy", "token") + message("dynamic", "local"), Contains("dynamic '\"local\"' is not supported"));
    CHECK_THAT(message("dynamic", true) + message("num_bits", 6), Contains("num_bits: expected 4 or 8, found 6"));
  }
}
