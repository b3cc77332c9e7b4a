// Owns the element types of tensors: one row per type, and exact conversion of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace llmc {

enum class DType : uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

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

/// True for the types that hold weights which llmc computes with: f32, f16, bf16.
bool is_weight_float(DType dtype);

float f16_to_f32(uint16_t bits);
float bf16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);   ///< round to nearest even; overflow gives infinity
uint16_t f32_to_bf16(float value);  ///< round to nearest even

/// Widens `out.size()` floats of a weight type. Exact.
void decode_floats(DType dtype, std::span<const std::byte> bytes, std::span<float> out);
/// Narrows to a weight type, rounding to nearest even.
void encode_floats(DType dtype, std::span<const float> values, std::span<std::byte> out);
/// The nearest value that `dtype` can hold, as f32.
float round_to(DType dtype, float value);

}  // namespace llmc
