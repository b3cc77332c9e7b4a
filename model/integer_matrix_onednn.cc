#ifdef LLMC_ONEDNN

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "model/integer_matrix.h"
#include "model/matmul.h"
#include "model/onednn.h"

namespace llmc {
namespace {

using namespace onednn;

constexpr ProductTypes integer_types = {.x = Type::u8, .weight = Type::s8, .y = Type::s32};

class OneDnnIntegerMatrix final : public IntegerMatrix {
 public:
  explicit OneDnnIntegerMatrix(const CodesView& codes) : tile_(PackedMatrix::tile_rows, codes.out, codes.in, BiasForm::none, integer_types), weight_(tile_.weight, cpu()) {
    // A few rows need not pay for a whole tile. Sums are exact, so any kernel gives the same.
    Product part(part_rows, codes.out, codes.in, BiasForm::none, integer_types);
    if (part.weight == tile_.weight) part_ = std::move(part);
    dnnl::memory source = borrow({{codes.in, codes.out}, Type::s8, dnnl::memory::dims{1, codes.stride}}, codes.data);
    dnnl::reorder(source, weight_).execute(cpu_stream(), source, weight_);
  }

  void multiply(const uint8_t* codes, int64_t rows, int32_t* sums) const override {
    use_one_thread();
    const Product& product = part_ && rows <= PackedMatrix::tile_rows - part_rows ? *part_ : tile_;
    const int64_t step = product.x.dims()[0], in = product.x.dims()[1], out = product.y.dims()[1];
    for (int64_t first = 0; first < rows; first += step) {
      const std::unordered_map<int, dnnl::memory> arguments{
          {DNNL_ARG_SRC, borrow(product.x, codes + first * in)},
          {DNNL_ARG_WEIGHTS, weight_},
          {DNNL_ARG_DST, borrow(product.y, sums + first * out)},
          {DNNL_ARG_SCRATCHPAD, borrow(product.scratchpad, thread_scratch<std::byte>(product.scratchpad.get_size()).data())},
      };
      product.primitive.execute(cpu_stream(), arguments);
    }
  }

 private:
  static constexpr int64_t part_rows = 16;

  Product tile_;
  std::optional<Product> part_;
  dnnl::memory weight_;
};

/// Whether the extreme codes give their exact sums: instructions before VNNI add pairs of products in 16 bits and clip.
bool is_exact() {
  constexpr int64_t size = 64;
  const std::vector<int8_t> weights(size * size, -128);
  const std::vector<uint8_t> codes(PackedMatrix::tile_rows * size, 255);
  std::vector<int32_t> sums(PackedMatrix::tile_rows * size);
  OneDnnIntegerMatrix({.data = weights.data(), .out = size, .in = size, .stride = size}).multiply(codes.data(), PackedMatrix::tile_rows, sums.data());
  return std::ranges::all_of(sums, [](int32_t sum) { return sum == -128 * 255 * size; });
}

}  // namespace

std::unique_ptr<IntegerMatrix> pack_codes_onednn(const CodesView& codes) {
  use_one_thread();
  static const bool is_usable = is_exact();
  return is_usable ? std::make_unique<OneDnnIntegerMatrix>(codes) : nullptr;
}

}  // namespace llmc

#endif
