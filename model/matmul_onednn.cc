#ifdef LLMC_ONEDNN

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "core/random.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "model/onednn.h"

namespace llmc {
namespace {

using namespace onednn;

/// Runs a product on dense x and y, of as many rows as it was made for.
void run_product(const Product& product, const dnnl::memory& weight, const dnnl::memory& bias, const void* x, float* y) {
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, borrow(product.x, x)},
      {DNNL_ARG_WEIGHTS, weight},
      {DNNL_ARG_DST, borrow(product.y, y)},
      {DNNL_ARG_SCRATCHPAD, borrow(product.scratchpad, thread_scratch<std::byte>(product.scratchpad.get_size()).data())},
  };
  if (bias) arguments.emplace(DNNL_ARG_BIAS, bias);
  product.primitive.execute(cpu_stream(), arguments);
}

class OneDnnMatrix final : public PackedMatrix {
 public:
  /// With bf16 precision and f32 type the operands are rounded to bf16 and multiplied as f32.
  OneDnnMatrix(ConstMatrixView weight, std::span<const float> bias, Precision precision, Type type) : precision_(precision), type_(type), bias_form_(bias.empty() ? BiasForm::none : BiasForm::f32) {
    products_.push_back(make_product(tile_rows, weight));
    Matrix rounded;
    if (precision == Precision::bf16 && type == Type::f32) {
      rounded = Matrix(weight.rows, weight.cols);
      for (int64_t r = 0; r < weight.rows; ++r) round_to_bf16(weight.row_span(r), rounded.view().row_span(r));
      weight = rounded.view();
    }
    weight_ = dnnl::memory(products_[0].weight, cpu());
    dnnl::memory source = borrow({{weight.cols, weight.rows}, Type::f32, dnnl::memory::dims{1, weight.stride}}, weight.data);
    dnnl::reorder(source, weight_).execute(cpu_stream(), source, weight_);
    if (bias_form_ == BiasForm::f32) {
      bias_ = dnnl::memory(products_[0].bias, cpu());
      std::ranges::copy(bias, static_cast<float*>(bias_.get_data_handle()));
    }
    if (!products_[0].is_uniform()) return;
    for (const int64_t rows : {large_rows, part_rows}) {
      Product other = make_product(rows, weight);
      if (other.is_uniform() && other.weight == weight_.get_desc() && agrees(other)) products_.push_back(std::move(other));
    }
    std::ranges::sort(products_, std::greater(), rows_of);
  }

  int64_t most_rows() const override { return rows_of(products_.front()); }

  void apply(ConstMatrixView x, MatrixView y) const override {
    use_one_thread();
    for (int64_t first = 0; first < x.rows;) {
      const Product& product = choose(x.rows - first);
      const int64_t count = std::min(rows_of(product), x.rows - first);
      run(product, x.row_range(first, count), y.row_range(first, count));
      first += count;
    }
  }

 private:
  static constexpr int64_t part_rows = 16;
  static constexpr int64_t large_rows = 2 * tile_rows;  ///< with more, oneDNN sums in other pieces

  static int64_t rows_of(const Product& product) { return product.x.dims()[0]; }

  Product make_product(int64_t rows, ConstMatrixView weight) const { return Product(rows, weight.rows, weight.cols, bias_form_, {.x = type_, .weight = type_, .y = Type::f32}); }

  /// The largest that `rows` fill; a tile that they fill by more than half takes less time than parts.
  const Product& choose(int64_t rows) const {
    for (const Product& product : products_)
      if (rows_of(product) <= rows || (rows_of(product) == tile_rows && rows > tile_rows / 2)) return product;
    return products_.back();
  }

  /// Whether a product gives rows the same bits as that of a tile: measured once for a shape.
  bool agrees(const Product& other) const {
    static std::mutex mutex;
    static std::map<std::array<int64_t, 5>, bool> known;
    const Product& tile = products_[0];
    const int64_t in = tile.x.dims()[1], out = tile.y.dims()[1];
    const std::array key{rows_of(other), out, in, static_cast<int64_t>(type_), static_cast<int64_t>(bias_form_)};
    {
      const std::lock_guard lock(mutex);
      if (const auto found = known.find(key); found != known.end()) return found->second;
    }
    Matrix x(large_rows, in), y(large_rows, out), expected(large_rows, out);
    Random random(0, "rows that agree");
    for (float& value : x.values()) value = static_cast<float>(random.uniform() - 0.5);
    for (const auto& [product, result] : {std::pair(&tile, &expected), std::pair(&other, &y)})
      for (int64_t first = 0; first < large_rows; first += rows_of(*product)) run(*product, x.view().row_range(first, rows_of(*product)), result->view().row_range(first, rows_of(*product)));
    if (std::ranges::count(y.values(), 0.0f) > static_cast<int64_t>(y.values().size() / 2)) return false;  // such weights say nothing of others
    const bool same = std::memcmp(y.row(0), expected.row(0), y.values().size_bytes()) == 0;
    const std::lock_guard lock(mutex);
    return known.emplace(key, same).first->second;
  }

  /// Runs on as many rows as the product was made for; those beyond x are zero.
  void run(const Product& product, ConstMatrixView x, MatrixView y) const {
    const int64_t rows = rows_of(product);
    const bool writes_in_place = y.rows == rows && y.stride == y.cols;
    float* out = writes_in_place ? y.data : thread_scratch<float, 1>(static_cast<size_t>(rows * y.cols)).data();
    run_product(product, weight_, bias_, prepare(x, rows), out);
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
  BiasForm bias_form_;
  std::vector<Product> products_;  ///< of one tile, and of those other numbers of rows that give the same bits; the largest first
  dnnl::memory weight_;
  dnnl::memory bias_;
};

/// False where the processor has no bf16 instructions: oneDNN then refuses, or emulates them more slowly than f32.
bool has_bf16(int64_t out, int64_t in, BiasForm bias) {
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
  const bool is_bf16 = precision == Precision::bf16 && has_bf16(weight.rows, weight.cols, bias.empty() ? BiasForm::none : BiasForm::f32);
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
