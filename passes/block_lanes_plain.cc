#include <algorithm>
#include <bit>
#include <cmath>

#include <hwy/highway.h>

#include "core/dtype.h"
#include "passes/block_batch.h"
#include "passes/block_lanes_inl.h"

namespace llmc {
namespace {

/// The operations of the search on one float.
struct Floats {
  using V = float;
  using M = bool;
  static constexpr size_t lanes = 1;

  static V load(const float* from) { return *from; }
  static void store(V v, float* to) { *to = v; }
  static void store_codes(V biased, uint8_t* to) { *to = static_cast<uint8_t>(biased - whole_bias); }
  static V set(float value) { return value; }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V mul(V a, V b) { return a * b; }
  static V div(V a, V b) { return a / b; }
  static V fma(V a, V b, V c) { return std::fma(a, b, c); }
  static V min(V a, V b) { return std::min(a, b); }
  static V max(V a, V b) { return std::max(a, b); }
  static V abs(V v) { return std::abs(v); }
  static V round(V v) { return std::nearbyint(v); }
  static M greater(V a, V b) { return a > b; }
  static M equal(V a, V b) { return a == b; }
  static M both(M a, M b) { return a && b; }
  static M either(M a, M b) { return a || b; }
  static V select(M mask, V yes, V no) { return mask ? yes : no; }
  static V to_f16(V v) { return round_to(DType::f16, v); }
  static V power_below(V v) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v) & 0x7f800000u); }

  struct Pairs {
    int16_t first, second;
  };
  using Integers = int32_t;
  static Pairs load_pairs(const int32_t* from) { return std::bit_cast<Pairs>(*from); }
  static void store_pairs(Pairs pairs, int32_t* to) { *to = std::bit_cast<int32_t>(pairs); }
  static Pairs pairs_of_biased(V first, V second) { return {static_cast<int16_t>(first - whole_bias), static_cast<int16_t>(second - whole_bias)}; }
  static Pairs pairs_of(V v) { return pairs_of_biased(v + whole_bias, v + whole_bias); }
  static Pairs min_pairs(Pairs a, Pairs b) { return {std::min(a.first, b.first), std::min(a.second, b.second)}; }
  static Pairs max_pairs(Pairs a, Pairs b) { return {std::max(a.first, b.first), std::max(a.second, b.second)}; }
  static int16_t mul_fixed(int16_t a, int16_t b) { return static_cast<int16_t>((a * b + 0x4000) >> 15); }
  static Pairs mul_pairs(Pairs a, Pairs b) { return {mul_fixed(a.first, b.first), mul_fixed(a.second, b.second)}; }
  static Integers no_integers() { return 0; }
  static Integers add_products(Pairs a, Pairs b, Integers sum) { return sum + a.first * b.first + a.second * b.second; }
  static V to_float(Integers v) { return static_cast<float>(v); }
};

}  // namespace

void search_batch_plain(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights) { HWY_NAMESPACE::search_lanes<Floats>(type, batch, weights); }

}  // namespace llmc
