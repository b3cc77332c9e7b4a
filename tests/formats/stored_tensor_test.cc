#include "formats/stored_tensor.h"

#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("rows of a tensor are those of its matrix, whatever its form") {
  const Matrix values = test::random_matrix(7, 32, "rows");
  std::vector<StoredTensor> tensors;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    tensors.push_back(test::make_tensor("stored", dtype, values));
    tensors.push_back(test::make_tensor("transposed", dtype, values, true));
  }
  tensors.push_back(test::make_tensor("unrounded", DType::bf16, values));
  tensors.back().form = FloatData(Matrix(values));
  tensors.push_back(test::make_tensor("codes", DType::bf16, values));
  tensors.back().form = round_to_nearest(values.view(), parse_scheme("W4A16-g16"), DType::bf16, {}, "t");
  for (const StoredTensor& tensor : tensors) {
    INFO(tensor.name << " " << get_info(tensor.dtype).name);
    const Matrix whole = read_matrix(tensor);
    const TensorRows rows(tensor);
    REQUIRE(rows.rows() == 7);
    REQUIRE(rows.cols() == 32);
    for (const int64_t r : {6, 0, 3}) {
      std::vector<float> row(32);
      rows.read(r, row);
      CHECK(std::ranges::equal(row, whole.view().row_span(r)));
    }
  }
  CHECK(TensorRows().rows() == 0);
}
