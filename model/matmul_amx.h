// Owns the use of AMX, the matrix unit of newer x86 processors: weights packed for it, and whether this processor has it.
#pragma once

#ifdef __x86_64__

#include <memory>
#include <span>

#include "formats/stored_tensor.h"
#include "model/matmul.h"

namespace llmc {

/// Whether the processor has AMX for bf16 and the operating system lets this process use it.
bool has_amx();

// In f32 every operand is cut into at most three bf16 numbers whose sum it is, each the nearest to what the ones before it leave.
// Of their nine products, which are exact, the six largest are added; the others are below 2⁻²⁴ of the whole. This is as good
// as f32 products, but that what is below 2⁻¹²⁶ counts as zero, and that infinity, or what rounds to it in bf16, gives NaN. A
// weight that fits in bf16 is one such number: then the products are three.
std::unique_ptr<PackedMatrix> pack_amx(ConstMatrixView weight, std::span<const float> bias, Precision precision);
std::unique_ptr<PackedMatrix> pack_amx_rows(std::span<const WeightRows> weights, Precision precision);
std::unique_ptr<PackedMatrix> pack_amx_gated(const GatedRows& of, Precision precision);
std::unique_ptr<PackedFactor> pack_amx_factor(ConstMatrixView b, Transpose transpose, Precision precision);

}  // namespace llmc

#endif
