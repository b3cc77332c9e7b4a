#include "core/dtype.h"

#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace llmc {
namespace {

constexpr std::array rows = {
    DTypeInfo{DType::f64, "F64", "float64", 8},         DTypeInfo{DType::f32, "F32", "float32", 4},
    DTypeInfo{DType::f16, "F16", "float16", 2},         DTypeInfo{DType::bf16, "BF16", "bfloat16", 2},
    DTypeInfo{DType::f8_e4m3, "F8_E4M3", "float8_e4m3fn", 1},
    DTypeInfo{DType::f8_e5m2, "F8_E5M2", "float8_e5m2", 1},
    DTypeInfo{DType::f8_e8m0, "F8_E8M0", "float8_e8m0fnu", 1},
    DTypeInfo{DType::i64, "I64", "int64", 8},           DTypeInfo{DType::i32, "I32", "int32", 4},
    DTypeInfo{DType::i16, "I16", "int16", 2},           DTypeInfo{DType::i8, "I8", "int8", 1},
    DTypeInfo{DType::u64, "U64", "uint64", 8},          DTypeInfo{DType::u32, "U32", "uint32", 4},
    DTypeInfo{DType::u16, "U16", "uint16", 2},          DTypeInfo{DType::u8, "U8", "uint8", 1},
    DTypeInfo{DType::boolean, "BOOL", "bool", 1},
};

}  // namespace

std::span<const DTypeInfo> dtype_list() { return rows; }

const DTypeInfo& get_info(DType dtype) {
  const DTypeInfo& info = rows[static_cast<size_t>(dtype)];
  assert(info.dtype == dtype);
  return info;
}

std::optional<DType> find_dtype(std::string_view safetensors_name) {
  for (const DTypeInfo& info : rows)
    if (info.name == safetensors_name) return info.dtype;
  return std::nullopt;
}

bool is_weight_float(DType dtype) { return dtype <= DType::f8_e5m2; }  // the first of the list

float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23;
  return std::bit_cast<float>(sign | wide | (mantissa << 13));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds past 65504
  if (magnitude < 0x38800000u) {                        // below the smallest normal, 2^-14
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;  // exact
    return sign | static_cast<uint16_t>(std::nearbyintf(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

float f8_e4m3_to_f32(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  const float magnitude = (bits & 0x7f) == 0x7f ? NAN : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f : std::ldexp(1 + static_cast<float>(mantissa) / 8, exponent - 7);
  return bits & 0x80 ? -magnitude : magnitude;
}

uint8_t f32_to_f8_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7f;   // NaN
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  if (magnitude < 0x3c800000u)                       // below the smallest normal, 2^-6
    return sign | static_cast<uint8_t>(std::nearbyintf(std::bit_cast<float>(magnitude) * 0x1p9f));
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded - 0x3c000000u) >> 20);
}

float f8_e8m0_to_f32(uint8_t bits) {
  if (bits == 255) return NAN;
  return std::bit_cast<float>(bits == 0 ? 0x00400000u : static_cast<uint32_t>(bits) << 23);  // 2^-127 is subnormal
}

uint8_t f32_to_f8_e8m0(float value) { return static_cast<uint8_t>(std::bit_cast<uint32_t>(value) >> 23 & 0xffu); }

namespace {

/// E5M2 is the upper half of an f16.
float f8_e5m2_to_f32(uint8_t bits) { return f16_to_f32(static_cast<uint16_t>(bits << 8)); }

/// Round to nearest even; overflow gives infinity.
uint8_t f32_to_f8_e5m2(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7f;   // NaN
  if (magnitude >= 0x47700000u) return sign | 0x7c;  // rounds past 57344
  if (magnitude < 0x38800000u)                       // below the smallest normal, 2^-14
    return sign | static_cast<uint8_t>(std::nearbyintf(std::bit_cast<float>(magnitude) * 0x1p16f));
  const uint32_t rounded = magnitude + 0xfffffu + ((magnitude >> 21) & 1u);
  return sign | static_cast<uint8_t>((rounded - 0x38000000u) >> 21);
}

/// Sixteen at a time in the compiler's vectors.
void widen_bf16(std::span<const std::byte> bytes, std::span<float> out) {
  using Halves = uint16_t __attribute__((vector_size(32)));
  using Words = uint32_t __attribute__((vector_size(64)));
  size_t i = 0;
  for (; i + 16 <= out.size(); i += 16) {
    Halves halves;
    std::memcpy(&halves, bytes.data() + 2 * i, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    std::memcpy(out.data() + i, &words, sizeof words);
  }
  for (; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = bf16_to_f32(bits);
  }
}

/// f32_to_bf16 of four at a time, as the upper halves of words. Larger vectors than every processor has would be taken apart to compare.
auto round_words(const float* values) {
  using Words = uint32_t __attribute__((vector_size(16)));
  using Integers = int32_t __attribute__((vector_size(16)));
  using Halves = uint16_t __attribute__((vector_size(16)));
  Words bits;
  std::memcpy(&bits, values, sizeof bits);
  const Words nan = reinterpret_cast<Words>(reinterpret_cast<Integers>(bits & 0x7fffffffu) > 0x7f800000);
  return reinterpret_cast<Halves>((nan & (bits | 0x400000u)) | (~nan & (bits + 0x7fffu + (bits >> 16 & 1u))));
}

void narrow_bf16(std::span<const float> values, std::span<std::byte> out) {
  size_t i = 0;
  if constexpr (std::endian::native == std::endian::little)
    for (; i + 8 <= values.size(); i += 8) {
      const auto halves = __builtin_shufflevector(round_words(values.data() + i), round_words(values.data() + i + 4), 1, 3, 5, 7, 9, 11, 13, 15);
      std::memcpy(out.data() + 2 * i, &halves, sizeof halves);
    }
  for (; i < values.size(); ++i) {
    const uint16_t bits = f32_to_bf16(values[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
}

}  // namespace

void decode_floats(DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
  assert(bytes.size() == out.size() * get_info(dtype).bytes);
  if (dtype == DType::f32) {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return;
  }
  if (dtype == DType::f64) {
    for (size_t i = 0; i < out.size(); ++i) {
      double value;
      std::memcpy(&value, bytes.data() + 8 * i, 8);
      out[i] = static_cast<float>(value);
    }
    return;
  }
  if (get_info(dtype).bytes == 1) {
    assert(dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2 || dtype == DType::f8_e8m0);
    const auto widen = dtype == DType::f8_e4m3 ? f8_e4m3_to_f32 : dtype == DType::f8_e5m2 ? f8_e5m2_to_f32 : f8_e8m0_to_f32;
    for (size_t i = 0; i < out.size(); ++i) out[i] = widen(static_cast<uint8_t>(bytes[i]));
    return;
  }
  assert(dtype == DType::f16 || dtype == DType::bf16);
  if (dtype == DType::bf16) return widen_bf16(bytes, out);
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;  // the file gives no alignment
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = f16_to_f32(bits);
  }
}

void encode_floats(DType dtype, std::span<const float> values, std::span<std::byte> out) {
  assert(out.size() == values.size() * get_info(dtype).bytes);
  if (dtype == DType::f32) {
    if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
    return;
  }
  if (dtype == DType::f64) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = values[i];
      std::memcpy(out.data() + 8 * i, &value, 8);
    }
    return;
  }
  if (get_info(dtype).bytes == 1) {
    assert(dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2 || dtype == DType::f8_e8m0);
    const auto narrow = dtype == DType::f8_e4m3 ? f32_to_f8_e4m3 : dtype == DType::f8_e5m2 ? f32_to_f8_e5m2 : f32_to_f8_e8m0;
    for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<std::byte>(narrow(values[i]));
    return;
  }
  assert(dtype == DType::f16 || dtype == DType::bf16);
  if (dtype == DType::bf16) return narrow_bf16(values, out);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = f32_to_f16(values[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
}

float round_to(DType dtype, float value) {
  switch (dtype) {
    case DType::f16: return f16_to_f32(f32_to_f16(value));
    case DType::bf16: return bf16_to_f32(f32_to_bf16(value));
    case DType::f8_e4m3: return f8_e4m3_to_f32(f32_to_f8_e4m3(value));
    case DType::f8_e5m2: return f8_e5m2_to_f32(f32_to_f8_e5m2(value));
    case DType::f8_e8m0: return f8_e8m0_to_f32(f32_to_f8_e8m0(value));
    default: assert(dtype == DType::f32 || dtype == DType::f64); return value;
  }
}

}  // namespace llmc
