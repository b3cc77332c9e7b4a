#ifdef LLMC_ONEDNN

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "model/onednn.h"

namespace llmc {
namespace {

using namespace onednn;

class OneDnnMatrix final : public PackedMatrix {
 public:
  /// With bf16 precision and f32 type the operands are rounded to bf16 and multiplied as f32.
  OneDnnMatrix(ConstMatrixView weight, std::span<const float> bias, Precision precision, Type type)
      : precision_(precision), type_(type), tile_(make_product(tile_rows, weight, bias, type)), part_(tile_) {
    if (tile_.is_uniform()) {
      Product part = make_product(part_rows, weight, bias, type);
      if (part.is_uniform() && part.weight == tile_.weight) part_ = std::move(part);
    }
    Matrix rounded;
    if (precision == Precision::bf16 && type == Type::f32) {
      rounded = Matrix(weight.rows, weight.cols);
      for (int64_t r = 0; r < weight.rows; ++r) round_to_bf16(weight.row_span(r), rounded.view().row_span(r));
      weight = rounded.view();
    }
    weight_ = dnnl::memory(tile_.weight, cpu());
    dnnl::memory source = borrow({{weight.cols, weight.rows}, Type::f32, dnnl::memory::dims{1, weight.stride}}, weight.data);
    dnnl::reorder(source, weight_).execute(cpu_stream(), source, weight_);
    if (bias.empty()) return;
    bias_ = dnnl::memory(tile_.bias, cpu());
    std::ranges::copy(bias, static_cast<float*>(bias_.get_data_handle()));
  }

  void apply(ConstMatrixView x, MatrixView y) const override {
    use_one_thread();
    if (x.rows == tile_rows) return run(tile_, x, y);
    const int64_t step = part_.x.dims()[0];
    for (int64_t first = 0; first < x.rows; first += step) {
      const int64_t count = std::min(step, x.rows - first);
      run(part_, x.row_range(first, count), y.row_range(first, count));
    }
  }

 private:
  static constexpr int64_t part_rows = 16;

  static Product make_product(int64_t rows, ConstMatrixView weight, std::span<const float> bias, Type type) {
    return Product(rows, weight.rows, weight.cols, bias.empty() ? Bias::none : Bias::f32, {.x = type, .weight = type, .y = Type::f32});
  }

  /// Runs on as many rows as the product was made for; those beyond x are zero.
  void run(const Product& product, ConstMatrixView x, MatrixView y) const {
    const int64_t rows = product.x.dims()[0];
    const bool writes_in_place = y.rows == rows && y.stride == y.cols;
    float* out = writes_in_place ? y.data : thread_scratch<float, 1>(static_cast<size_t>(rows * y.cols)).data();
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_SRC, borrow(product.x, prepare(x, rows))},
        {DNNL_ARG_WEIGHTS, weight_},
        {DNNL_ARG_DST, borrow(product.y, out)},
        {DNNL_ARG_SCRATCHPAD, borrow(product.scratchpad, thread_scratch<std::byte>(product.scratchpad.get_size()).data())},
    };
    if (bias_) arguments.emplace(DNNL_ARG_BIAS, bias_);
    product.primitive.execute(cpu_stream(), arguments);
    if (writes_in_place) return;
    for (int64_t r = 0; r < y.rows; ++r) std::copy_n(out + r * y.cols, y.cols, y.row(r));
  }

  /// x in the product's type, dense, padded with rows of zeros: x itself, or this thread's scratch.
  const void* prepare(ConstMatrixView x, int64_t rows) const {
    const size_t cols = static_cast<size_t>(x.cols);
    if (type_ == Type::bf16) return copy(x, thread_scratch<uint16_t>(static_cast<size_t>(rows) * cols), narrow_to_bf16);
    if (precision_ == Precision::f32 && x.rows == rows && x.stride == x.cols) return x.data;
    const auto plain = [](std::span<const float> from, std::span<float> to) { std::ranges::copy(from, to.begin()); };
    const std::span<float> scratch = thread_scratch<float, 0>(static_cast<size_t>(rows) * cols);
    return precision_ == Precision::bf16 ? copy(x, scratch, round_to_bf16) : copy(x, scratch, plain);
  }

  template <typename T, typename Function>
  static const T* copy(ConstMatrixView x, std::span<T> scratch, Function function) {
    const size_t cols = static_cast<size_t>(x.cols);
    for (int64_t r = 0; r < x.rows; ++r) function(x.row_span(r), scratch.subspan(static_cast<size_t>(r) * cols, cols));
    std::ranges::fill(scratch.subspan(static_cast<size_t>(x.rows) * cols), T{});
    return scratch.data();
  }

  Precision precision_;
  Type type_;
  Product tile_;  ///< tile_rows rows
  Product part_;  ///< part_rows rows, or tile_rows where results depend on the number of rows
  dnnl::memory weight_;
  dnnl::memory bias_;
};

/// False where the processor has no bf16 instructions: oneDNN then refuses, or emulates them more slowly than f32.
bool has_bf16(int64_t out, int64_t in, Bias bias) {
  try {
    return Product(PackedMatrix::tile_rows, out, in, bias, {.x = Type::bf16, .weight = Type::bf16, .y = Type::f32}).is_uniform();
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
    return false;
  }
}

/// C [rows, cols] += Aᵀ · B of dense bf16 operands [depth, rows] and [depth, cols]. No primitive where the processor has
/// no bf16 instructions.
struct TransposedProduct {
  TransposedProduct(int64_t rows, int64_t cols, int64_t depth, int64_t stride) {
    a = {{rows, depth}, Type::bf16, Tag::ba};
    b = {{depth, cols}, Type::bf16, Tag::ab};
    c = {{rows, cols}, Type::f32, dnnl::memory::dims{stride, 1}};
    dnnl::post_ops add;
    add.append_sum(1.0f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(add);
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    try {
      const dnnl::matmul::primitive_desc description({a, b, c}, attributes, cpu());
      if (!std::string(description.impl_info_str()).starts_with("brg")) return;
      scratchpad = description.scratchpad_desc();
      primitive = dnnl::matmul(description);
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
    }
  }

  dnnl::memory::desc a, b, c, scratchpad;
  std::optional<dnnl::matmul> primitive;
};

}  // namespace

std::unique_ptr<PackedMatrix> pack_onednn(ConstMatrixView weight, std::span<const float> bias, Precision precision) {
  use_one_thread();
  const bool is_bf16 = precision == Precision::bf16 && has_bf16(weight.rows, weight.cols, bias.empty() ? Bias::none : Bias::f32);
  return std::make_unique<OneDnnMatrix>(weight, bias, precision, is_bf16 ? Type::bf16 : Type::f32);
}

void multiply_onednn(float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c) {
  use_one_thread();
  const char transpose = transpose_b == Transpose::yes ? 'T' : 'N';
  const dnnl_status_t status = dnnl_sgemm('N', transpose, c.rows, c.cols, a.cols, alpha, a.data, a.stride, b.data, b.stride, 0.0f, c.data, c.stride);
  if (status != dnnl_success) throw Error(ErrorKind::bug, "oneDNN could not multiply two matrices");
}

void add_transposed_onednn(float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c) {
  use_one_thread();
  const dnnl_status_t status = dnnl_sgemm('T', 'N', c.rows, c.cols, a.rows, alpha, a.data, a.stride, b.data, b.stride, 1.0f, c.data, c.stride);
  if (status != dnnl_success) throw Error(ErrorKind::bug, "oneDNN could not multiply two matrices");
}

bool add_transposed_bf16_onednn(std::span<const uint16_t> a, std::span<const uint16_t> b, int64_t depth, MatrixView c) {
  use_one_thread();
  thread_local std::map<std::array<int64_t, 4>, TransposedProduct> products;  // making one costs as much as running it
  const std::array shape{c.rows, c.cols, depth, c.stride};
  auto found = products.find(shape);
  if (found == products.end()) found = products.emplace(shape, TransposedProduct(c.rows, c.cols, depth, c.stride)).first;
  const TransposedProduct& product = found->second;
  if (!product.primitive) return false;
  product.primitive->execute(cpu_stream(), {{DNNL_ARG_SRC, borrow(product.a, a.data())},
                                            {DNNL_ARG_WEIGHTS, borrow(product.b, b.data())},
                                            {DNNL_ARG_DST, borrow(product.c, c.data)},
                                            {DNNL_ARG_SCRATCHPAD, borrow(product.scratchpad, thread_scratch<std::byte>(product.scratchpad.get_size()).data())}});
  return true;
}

}  // namespace llmc

#endif
