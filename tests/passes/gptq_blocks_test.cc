#include "passes/gptq_blocks.h"

#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "passes/block_refinement.h"
#include "passes/block_search.h"
#include "passes/level_steps.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using test::random_matrix;

namespace {

/// Second moment of inputs whose channels differ in size and go together in part.
Matrix correlated_moment(int64_t in) {
  Matrix mix = random_matrix(in, in, "mix", 1.5 / std::sqrt(static_cast<double>(in)));
  Random random(7, "sizes");
  for (int64_t i = 0; i < in; ++i) {
    mix.row(i)[i] += 1;
    const auto size = static_cast<float>(std::exp(0.7 * random.normal()));
    for (int64_t j = 0; j < in; ++j) mix.row(i)[j] *= size;
  }
  Matrix moment(in, in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += double{mix.row(i)[k]} * mix.row(j)[k];
      moment.row(i)[j] = static_cast<float>(sum);
    }
  return moment;
}

Matrix diagonal_moment(int64_t in) {
  Matrix moment(in, in);
  for (int64_t i = 0; i < in; ++i) moment.row(i)[i] = static_cast<float>(1 + i % 5);
  return moment;
}

std::vector<float> diagonal(const Matrix& moment) {
  std::vector<float> values;
  for (int64_t i = 0; i < moment.rows(); ++i) values.push_back(moment.row(i)[i]);
  return values;
}

std::vector<const GgufTypeInfo*> block_types() {
  std::vector<const GgufTypeInfo*> types;
  for (const GgufTypeInfo& type : gguf_type_list())
    if (!type.dtype) types.push_back(&type);
  return types;
}

/// GPTQ as Frantar 2022 has it, one row in f64, on the scales that are there already.
Matrix plain_gptq(const BlockMatrix& scales, const Matrix& weights, const HessianFactor& factor) {
  const LevelSteps levels(scales.type->grid);
  Matrix result(weights.rows(), weights.cols());
  for (int64_t r = 0; r < weights.rows(); ++r) {
    std::vector<double> row(weights.row(r), weights.row(r) + weights.cols());
    for (size_t i = 0; i < row.size(); ++i) {
      const int64_t channel = factor.order[i];
      const double s = scales.scale(r, channel), m = scales.min(r, channel);
      const double value = s * levels.level(levels.code(s == 0 ? 0.0f : static_cast<float>((row[static_cast<size_t>(channel)] + m) / s))) - m;
      const double error = (row[static_cast<size_t>(channel)] - value) / factor.upper.row(static_cast<int64_t>(i))[i];
      for (size_t k = i; k < row.size(); ++k) row[static_cast<size_t>(factor.order[k])] -= error * factor.upper.row(static_cast<int64_t>(i))[k];
      result.row(r)[channel] = static_cast<float>(value);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("Compensated rounding to blocks is GPTQ on the scales of the search", "[gguf]") {
  const Matrix moment = correlated_moment(512), weights = random_matrix(5, 512, "w", 0.02);
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::activation, "t");
  for (const GgufTypeInfo* type : block_types()) {
    INFO(type->name);
    const BlockMatrix rounded = quantize_gptq_blocks(*type, weights.view(), factor, diagonal(moment), "t");
    const BlockMatrix searched = search_matrix(*type, weights.view(), diagonal(moment), "t");
    CHECK(rounded.d == searched.d);
    CHECK(rounded.scales == searched.scales);
    const double plain = output_error(weights.view(), plain_gptq(searched, weights, factor).view(), moment.view());
    const double found = output_error(weights.view(), evaluate(rounded).view(), moment.view());
    // f32 sums tip a weight that lies between two levels now and then, and what follows it then differs.
    CHECK(found == Approx(plain).epsilon(0.05));
    CHECK(found < 0.75 * output_error(weights.view(), evaluate(searched).view(), moment.view()));
  }
}

TEST_CASE("Without correlations there is nothing to make up for", "[gguf]") {
  const Matrix moment = diagonal_moment(512), weights = random_matrix(67, 512, "w", 0.02);
  for (const RoundingOrder order : {RoundingOrder::natural, RoundingOrder::activation}) {
    const HessianFactor factor = factor_hessian(moment.view(), 0, order, "t");
    for (const GgufTypeInfo* type : block_types()) {
      INFO(type->name);
      const BlockMatrix rounded = quantize_gptq_blocks(*type, weights.view(), factor, diagonal(moment), "t"), searched = search_matrix(*type, weights.view(), diagonal(moment), "t");
      CHECK(pack(rounded) == pack(searched));
      CHECK(pack(searched) == encode_gguf(*type, weights.view(), diagonal(moment), "t"));
      CHECK(pack(search_matrix(*type, weights.view(), {}, "t")) == encode_gguf(*type, weights.view(), {}, "t"));
    }
  }
}

TEST_CASE("Blocks that are chosen when reached fit the weights as they have become", "[gguf]") {
  const Matrix moment = correlated_moment(512), weights = random_matrix(70, 512, "w", 0.02);
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t");
  for (const GgufTypeInfo* type : block_types()) {
    INFO(type->name);
    const BlockMatrix rounded = quantize_gptq_blocks(*type, weights.view(), factor, diagonal(moment), "t"), searched = search_matrix(*type, weights.view(), diagonal(moment), "t");
    CHECK(rounded.scales.size() == searched.scales.size());
    CHECK(output_error(weights.view(), evaluate(rounded).view(), moment.view()) < 0.8 * output_error(weights.view(), evaluate(searched).view(), moment.view()));
    Matrix alone(1, 512);
    std::copy_n(weights.row(66), 512, alone.row(0));
    const Matrix values = evaluate(rounded);
    CHECK(test::same_bits(evaluate(quantize_gptq_blocks(*type, alone.view(), factor, diagonal(moment), "t")).view(), values.view().row_range(66, 1)));
  }
}

TEST_CASE("Refinement of blocks lowers the output error and never raises it", "[gguf]") {
  const Matrix moment = correlated_moment(512), weights = random_matrix(67, 512, "w", 0.02);
  const auto error = [&](const BlockMatrix& matrix) { return output_error(weights.view(), evaluate(matrix).view(), moment.view()); };
  for (const GgufTypeInfo* type : block_types()) {
    INFO(type->name);
    const BlockMatrix searched = search_matrix(*type, weights.view(), diagonal(moment), "t");
    BlockMatrix refined = searched;
    refine_blocks(refined, weights.view(), moment.view(), 0);
    CHECK(pack(refined) == pack(searched));
    double before = error(searched);
    for (int round = 0; round < 3; ++round) {
      refine_blocks(refined, weights.view(), moment.view(), 1);
      CHECK(error(refined) <= before * (1 + 1e-5));  // f32 products
      before = error(refined);
    }
    CHECK(before < 0.6 * error(searched));
    // What was moved can be stored.
    Matrix decoded(weights.rows(), weights.cols());
    decode_gguf(*type, pack(refined), decoded.values());
    CHECK(test::same_bits(decoded, evaluate(refined)));
  }
}

TEST_CASE("Refinement finds its way back to scales that were moved", "[gguf]") {
  const Matrix moment = correlated_moment(256);
  for (const GgufType name : {GgufType::q4_0, GgufType::q4_1, GgufType::iq4_nl, GgufType::tq2_0}) {
    const GgufTypeInfo& type = get_info(name);
    INFO(type.name);
    const BlockMatrix searched = search_matrix(type, random_matrix(9, 256, "w", 0.02).view(), {}, "t");
    const Matrix weights = evaluate(searched);
    BlockMatrix moved = searched;
    for (float& d : moved.d) d = round_to(DType::f16, 1.02f * d);
    const double before = output_error(weights.view(), evaluate(moved).view(), moment.view());
    refine_blocks(moved, weights.view(), moment.view(), 3);
    CHECK(output_error(weights.view(), evaluate(moved).view(), moment.view()) < 0.05 * before);
  }
}

TEST_CASE("Rounding to blocks is the same for any number of threads", "[gguf]") {
  const Matrix moment = correlated_moment(256), weights = random_matrix(200, 256, "w", 0.02);
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::activation, "t");
  const auto round = [&](int threads) {
    std::vector<std::byte> bytes;
    with_threads(threads, [&] {
      BlockMatrix rounded = quantize_gptq_blocks(get_info(GgufType::q4_k), weights.view(), factor, diagonal(moment), "t");
      refine_blocks(rounded, weights.view(), moment.view(), 2);
      bytes = pack(rounded);
    });
    return bytes;
  };
  CHECK(round(1) == round(3));
}
