#include "model/arch/list.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/shown.h"
#include "core/suggest.h"

namespace llmc {

std::span<const Architecture> architecture_list() {
  static const std::vector<Architecture> list = {make_llama(), make_gpt2(), make_qwen2(), make_mistral(), make_qwen3(), make_phi3(), make_stablelm(), make_olmo2(), make_gemma(), make_gemma2(), make_gemma3(), make_gpt_neox(), make_opt(), make_bloom(), make_falcon(), make_mixtral(), make_qwen2_moe(), make_qwen3_moe()};
  return list;
}

const Architecture& get_architecture(const std::string& model_type, const std::string& where) {
  std::vector<std::string> names;
  for (const Architecture& architecture : architecture_list()) {
    if (architecture.model_type == model_type) return architecture;
    names.push_back(architecture.model_type);
  }
  throw Error(ErrorKind::input, fmt::format("{}: model_type \"{}\" is not supported{}; `llmc list` names the architectures", where, shown(model_type), did_you_mean(model_type, names)));
}

}  // namespace llmc
