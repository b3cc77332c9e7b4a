#include "passes/block_batch.h"

// Vectors of a size that is known only at run time cannot be members, and the search keeps some.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#define HWY_WANT_AVX3_DL  // sums products of 16-bit integers in one instruction
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/block_lanes.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "passes/block_lanes_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || HWY_ARCH_ARM_A64

namespace hn = hwy::HWY_NAMESPACE;

/// The operations of the search on vectors of up to sixteen floats.
struct Vectors {
  using D = hn::CappedTag<float, block_lanes>;
  using V = hn::Vec<D>;
  using M = hn::Mask<D>;
  static constexpr size_t lanes = hn::MaxLanes(D());

  /// Two 16-bit integers in each lane, or one of 32.
  using Pairs = hn::Vec<hn::Repartition<int16_t, D>>;
  using Integers = hn::Vec<hn::RebindToSigned<D>>;

  static HWY_INLINE V load(const float* from) { return hn::Load(D(), from); }
  static HWY_INLINE void store(V v, float* to) { hn::Store(v, D(), to); }
  /// Whole numbers from 0 to 255, plus whole_bias.
  static HWY_INLINE void store_codes(V biased, uint8_t* to) {
    const hn::RebindToUnsigned<D> d;
    hn::StoreU(hn::U8FromU32(hn::And(hn::BitCast(d, biased), hn::Set(d, 0xffu))), hn::Rebind<uint8_t, D>(), to);
  }
  static HWY_INLINE V set(float value) { return hn::Set(D(), value); }
  static HWY_INLINE V add(V a, V b) { return hn::Add(a, b); }
  static HWY_INLINE V sub(V a, V b) { return hn::Sub(a, b); }
  static HWY_INLINE V mul(V a, V b) { return hn::Mul(a, b); }
  static HWY_INLINE V div(V a, V b) { return hn::Div(a, b); }
  static HWY_INLINE V fma(V a, V b, V c) { return hn::MulAdd(a, b, c); }
  static HWY_INLINE V min(V a, V b) { return hn::Min(a, b); }
  static HWY_INLINE V max(V a, V b) { return hn::Max(a, b); }
  static HWY_INLINE V abs(V v) { return hn::Abs(v); }
  static HWY_INLINE V round(V v) { return hn::Round(v); }
  static HWY_INLINE M greater(V a, V b) { return hn::Gt(a, b); }
  static HWY_INLINE M equal(V a, V b) { return hn::Eq(a, b); }
  static HWY_INLINE M both(M a, M b) { return hn::And(a, b); }
  static HWY_INLINE M either(M a, M b) { return hn::Or(a, b); }
  static HWY_INLINE V select(M mask, V yes, V no) { return hn::IfThenElse(mask, yes, no); }
  static HWY_INLINE V to_f16(V v) { return hn::PromoteTo(D(), hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), v)); }
  /// The power of two at or below a normal number above 0.
  static HWY_INLINE V power_below(V v) { return hn::And(v, hn::BitCast(D(), hn::Set(hn::RebindToUnsigned<D>(), 0x7f800000u))); }

  static HWY_INLINE Pairs load_pairs(const int32_t* from) { return hn::BitCast(hn::Repartition<int16_t, D>(), hn::Load(hn::RebindToSigned<D>(), from)); }
  static HWY_INLINE void store_pairs(Pairs pairs, int32_t* to) { hn::Store(hn::BitCast(hn::RebindToSigned<D>(), pairs), hn::RebindToSigned<D>(), to); }
  /// Of numbers that 16 bits can hold, plus whole_bias: the low bits of each.
  static HWY_INLINE Pairs pairs_of_biased(V first, V second) {
    const hn::Repartition<int16_t, D> d;
    return hn::OddEven(hn::BitCast(d, hn::ShiftLeft<16>(hn::BitCast(hn::RebindToSigned<D>(), second))), hn::BitCast(d, first));
  }
  static HWY_INLINE Pairs pairs_of(V v) {
    const V biased = hn::Add(v, hn::Set(D(), whole_bias));
    return pairs_of_biased(biased, biased);
  }
  static HWY_INLINE Pairs min_pairs(Pairs a, Pairs b) { return hn::Min(a, b); }
  static HWY_INLINE Pairs max_pairs(Pairs a, Pairs b) { return hn::Max(a, b); }
  static HWY_INLINE Pairs mul_pairs(Pairs a, Pairs b) { return hn::MulFixedPoint15(a, b); }
  static HWY_INLINE Integers no_integers() { return hn::Zero(hn::RebindToSigned<D>()); }
  static HWY_INLINE Integers add_products(Pairs a, Pairs b, Integers sum) {
#if HWY_TARGET == HWY_AVX3_DL
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));  // this target has it, Highway does not use it
    return sum;
#elif HWY_ARCH_X86
    Integers none = no_integers();  // all sums go to the first there
    return hn::ReorderWidenMulAccumulate(hn::RebindToSigned<D>(), a, b, sum, none);
#else
    const hn::RebindToSigned<D> d;
    const auto upper = [](Integers v) { return hn::ShiftRight<16>(v); };
    const auto lower = [](Integers v) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
    const Integers x = hn::BitCast(d, a), y = hn::BitCast(d, b);
    return hn::Add(sum, hn::Add(hn::Mul(upper(x), upper(y)), hn::Mul(lower(x), lower(y))));
#endif
  }
  static HWY_INLINE V to_float(Integers v) { return hn::ConvertTo(D(), v); }
};

void search(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights) { search_lanes<Vectors>(type, batch, weights); }

#else

void search(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights) { search_batch_plain(type, batch, weights); }

#endif

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {
namespace {

HWY_EXPORT(search);

}  // namespace

void search_batch(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights) { HWY_DYNAMIC_DISPATCH(search)(type, batch, weights); }

}  // namespace llmc
#endif
