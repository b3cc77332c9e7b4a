// Owns the element types of tensors: one row per type, and exact conversion of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace llmc {

enum class DType : uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

struct DTypeInfo {
  DType dtype;
  std::string_view name;        ///< as safetensors spells it
  std::string_view torch_name;  ///< as config.json spells it
  size_t bytes;                 ///< per element
};

/// All types, in the order of the enum.
std::span<const DTypeInfo> dtype_list();
const DTypeInfo& get_info(DType dtype);
std::optional<DType> find_dtype(std::string_view safetensors_name);

/// True for the types that hold weights which llmc computes with in f32: f64, f32, f16, bf16, f8_e4m3, f8_e5m2.
bool is_weight_float(DType dtype);

float f16_to_f32(uint16_t bits);
float bf16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);   ///< round to nearest even; overflow gives infinity
uint16_t f32_to_bf16(float value);  ///< round to nearest even

/// E4M3 has no infinity: the largest value is 448. E8M0 holds the powers of two from 2^-127 to 2^127 and no sign.
float f8_e4m3_to_f32(uint8_t bits);
float f8_e8m0_to_f32(uint8_t bits);
uint8_t f32_to_f8_e4m3(float value);  ///< round to nearest even; beyond ±448 gives ±448
uint8_t f32_to_f8_e8m0(float value);  ///< the power of two at or below a positive value, at least 2^-127

/// `out.size()` floats of a weight type or E8M0 as f32. Exact, but for F64, which is rounded to nearest.
void decode_floats(DType dtype, std::span<const std::byte> bytes, std::span<float> out);
/// Narrows to such a type: to nearest even, to E8M0 as f32_to_f8_e8m0 does.
void encode_floats(DType dtype, std::span<const float> values, std::span<std::byte> out);
/// The nearest value that `dtype` can hold, as f32.
float round_to(DType dtype, float value);

}  // namespace llmc
