#include "passes/block_search.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using test::random_matrix;

namespace {

Matrix decode(const GgufTypeInfo& type, std::span<const std::byte> bytes, int64_t rows, int64_t cols) {
  Matrix values(rows, cols);
  decode_gguf(type, bytes, values.values());
  return values;
}

double squared_error(const Matrix& a, const Matrix& b, std::span<const float> importance) {
  double sum = 0;
  for (int64_t r = 0; r < a.rows(); ++r)
    for (int64_t c = 0; c < a.cols(); ++c) sum += (importance.empty() ? 1.0 : double{importance[static_cast<size_t>(c)]}) * std::pow(double{a.row(r)[c]} - b.row(r)[c], 2);
  return sum;
}

/// Weights of every kind: normal, with outliers, a row of zeros, tiny, all of one sign, one value only.
Matrix mixed_rows(int64_t rows, int64_t cols) {
  Matrix matrix = random_matrix(rows, cols, "rows", 0.05);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      float& x = matrix.row(r)[c];
      switch (r % 7) {
        case 1: x *= c % 37 == 5 ? 20.0f : 1.0f; break;
        case 2: x = 0; break;
        case 3: x *= 1e-6f; break;
        case 4: x = std::abs(x); break;
        case 5: x = -0.25f; break;
        case 6: x = c % 64 < 32 ? 0 : 1000 * x; break;
        default: break;
      }
    }
  return matrix;
}

std::vector<float> some_importance(int64_t cols) {
  std::vector<float> importance(static_cast<size_t>(cols));
  Random random(7, "importance");
  for (size_t c = 0; c < importance.size(); ++c) importance[c] = c % 11 == 3 ? 0.0f : static_cast<float>(std::exp(3 * random.normal()));
  return importance;
}

}  // namespace

TEST_CASE("The vector search gives the bytes of the plain one, for any number of threads", "[gguf]") {
  for (const GgufTypeInfo& type : gguf_type_list())
    for (const auto& [rows, blocks] : {std::pair<int64_t, int64_t>{1, 1}, {7, 3}, {33, 1}, {8, 17}}) {
      const int64_t cols = blocks * type.block;
      INFO(type.name << " [" << rows << ", " << cols << "]");
      const Matrix matrix = mixed_rows(rows, cols);
      for (const auto& importance : {std::vector<float>(), some_importance(cols)}) {
        const auto plain = encode_gguf(type, matrix.view(), importance, "t", search_batch_plain);
        CHECK(static_cast<int64_t>(plain.size()) == rows * gguf_bytes(type, cols));
        for (int threads : {1, 3}) with_threads(threads, [&] { CHECK(encode_gguf(type, matrix.view(), importance, "t") == plain); });
      }
    }
}

TEST_CASE("The search is at least as good as llama.cpp's", "[gguf]") {
  const auto folder = std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/gguf";
  const auto rows = read_golden<float>(folder / "search.rows.npy", DType::f32);
  const auto importance = read_golden<float>(folder / "search.importance.npy", DType::f32);
  Matrix matrix(rows.shape[0], rows.shape[1]);
  std::ranges::copy(rows.values, matrix.values().begin());
  const MappedFile file(folder / "search.errors.json");
  const auto errors = nlohmann::json::parse(reinterpret_cast<const char*>(file.bytes().data()), reinterpret_cast<const char*>(file.bytes().data()) + file.bytes().size());
  for (const GgufTypeInfo& type : gguf_type_list()) {
    if (type.dtype) continue;
    for (size_t weighted : {0u, 1u}) {
      INFO(type.name << (weighted ? " with importance" : ""));
      const std::span<const float> weights = weighted ? std::span<const float>(importance.values) : std::span<const float>();
      const Matrix back = decode(type, encode_gguf(type, matrix.view(), weights, "t"), matrix.rows(), matrix.cols());
      CHECK(squared_error(matrix, back, weights) < errors.at(std::string(type.name)).at(weighted).get<double>());
    }
  }
}

TEST_CASE("What is on the grid already stays about where it is", "[gguf]") {
  for (const GgufTypeInfo& type : gguf_type_list()) {
    INFO(type.name);
    const Matrix matrix = random_matrix(16, 4 * type.block, "rows", 0.05);
    const Matrix once = decode(type, encode_gguf(type, matrix.view(), {}, "t"), 16, 4 * type.block);
    const Matrix twice = decode(type, encode_gguf(type, once.view(), {}, "t"), 16, 4 * type.block);
    // Integers of two levels need not be found again exactly; the search finds them to a fraction of the error made before.
    CHECK(squared_error(once, twice, {}) <= 0.02 * squared_error(matrix, once, {}));
  }
}

TEST_CASE("Zeros are encoded as zeros", "[gguf]") {
  for (const GgufTypeInfo& type : gguf_type_list()) {
    INFO(type.name);
    const Matrix zeros(2, 3 * type.block);
    CHECK(decode(type, encode_gguf(type, zeros.view(), {}, "t"), 2, 3 * type.block).values().size() == static_cast<size_t>(6 * type.block));
    CHECK(squared_error(decode(type, encode_gguf(type, zeros.view(), {}, "t"), 2, 3 * type.block), zeros, {}) == 0);
  }
}

TEST_CASE("The largest values that a type takes come back finite", "[gguf]") {
  for (const GgufTypeInfo& type : gguf_type_list()) {
    INFO(type.name);
    Matrix matrix(1, type.block);
    for (int64_t i = 0; i < type.block; ++i) matrix.row(0)[i] = i % 3 == 0 ? 30000.0f : i % 3 == 1 ? -30000.0f : 1.0f;
    if (type.grid.scale == BlockScale::e4m3) continue;  // up to 2688
    const Matrix back = decode(type, encode_gguf(type, matrix.view(), {}, "t"), 1, type.block);
    for (float value : back.values()) REQUIRE(std::isfinite(value));
    CHECK(squared_error(matrix, back, {}) < 0.2 * squared_error(matrix, Matrix(1, type.block), {}));
  }
}

TEST_CASE("What cannot be encoded is refused by name", "[gguf]") {
  const GgufTypeInfo& q4_k = get_info(GgufType::q4_k);
  Matrix matrix(3, 512);
  CHECK_THROWS_WITH(encode_gguf(q4_k, Matrix(1, 576).view(), {}, "blk.0.ffn_up.weight"), "blk.0.ffn_up.weight: rows of 576 weights; Q4_K stores blocks of 256");
  CHECK_THROWS_WITH(encode_gguf(q4_k, matrix.view(), std::vector<float>(256), "a"), "a: importance of 256 columns; expected 512");
  CHECK_THROWS_WITH(encode_gguf(q4_k, matrix.view(), std::vector<float>(512, -1.0f), "a"), "a: importance of column 0 is -1; expected 0 or more");
  for (const GgufTypeInfo& type : gguf_type_list()) {
    matrix.row(1)[300] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH(encode_gguf(type, matrix.view(), {}, "a"), "a: row 1, column 300: nan is not finite");
    matrix.row(1)[300] = -std::numeric_limits<float>::infinity();
    CHECK_THROWS_WITH(encode_gguf(type, matrix.view(), {}, "a"), "a: row 1, column 300: -inf is not finite");
  }
  matrix.row(1)[300] = 1e6f;
  CHECK_THROWS_WITH(encode_gguf(get_info(GgufType::f16), matrix.view(), {}, "a"), "a: row 1, column 300: 1000000 is beyond 65504, the largest value for F16");
}
