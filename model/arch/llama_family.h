// Owns what Llama and the architectures made after it share: rows that their own files add to or change.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "model/architecture.h"

namespace llmc {

/// RMSNorm, rotary positions, grouped-query attention, gated feed-forward, in Llama's names and without biases.
Architecture make_llama_family(const char* model_type, const char* causal_class, int64_t default_context);
/// The row of a key that is there.
ConfigRow& get_config_row(Architecture& architecture, std::string_view key);
/// The row of a role that is there.
TensorRow& get_tensor_row(Architecture& architecture, Role role);
void insert_after(Architecture& architecture, Role role, const std::vector<TensorRow>& rows);
/// What makes a feed-forward of several experts, by their names.
std::vector<TensorRow> expert_rows(const char* router, const char* gate, const char* up, const char* down);
void erase_rows(Architecture& architecture, std::initializer_list<Role> roles);
/// Gives the layers or norms of these roles a bias.
void set_bias(Architecture& architecture, std::initializer_list<Role> roles, Bias bias);

}  // namespace llmc
