#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "core/json.h"
#include "core/suggest.h"
#include "passes/distill.h"
#include "passes/heal.h"
#include "passes/pass.h"
#include "passes/prune.h"
#include "passes/prune_structured.h"
#include "passes/quantize_gguf.h"
#include "passes/quantize_gptq.h"
#include "passes/quantize_learned.h"
#include "passes/quantize_rtn.h"
#include "passes/student.h"
#include "passes/transform_rotate.h"

namespace llmc {

SweepOptions PassContext::scan() const {
  SweepOptions options = sweep;
  if (options.persistence == Persistence::resumable) {
    options.state_directory += "-scan";
    return options;
  }
  options.state_directory.clear();
  std::error_code ignored;  // where nothing can be made nothing can be written either, and that is told
  std::filesystem::create_directories(options.spill_directory, ignored);
  return options;
}

std::span<const PassInfo> pass_list() {
  static constexpr std::array list = {
      PassInfo{"distill", "trains every float, until the model says what the original says, or the text; needs calibration text", make_distill},
      PassInfo{"heal", "trains scales, norms, biases and the weights that pruning left, until the model says what the original says; needs calibration text", make_heal},
      PassInfo{"prune.fisher", "sets the weights to zero without which the loss grows least, by its gradients; needs calibration text", make_prune_fisher},
      PassInfo{"prune.magnitude", "sets the smallest weights to zero", make_prune_magnitude},
      PassInfo{"prune.sparsegpt", "sets weights to zero where the others can make up for it, and lets them; needs calibration text", make_prune_sparsegpt},
      PassInfo{"prune.structured", "removes whole layers, heads and feed-forward channels, and lets the others make up for them; the model becomes a smaller dense one", make_prune_structured},
      PassInfo{"prune.wanda", "sets the weights to zero that are small and multiply small inputs; needs calibration text", make_prune_wanda},
      PassInfo{"quantize.awq", "rounds weights to nearest after rescaling channels by the size of their inputs; needs calibration text", make_quantize_awq},
      PassInfo{"quantize.gguf", "rounds weights to the block types of GGUF files, a mix of them as llama-quantize has it, by a search or with errors made up for; needs calibration text, or for the search an imatrix", make_quantize_gguf},
      PassInfo{"quantize.gptq", "rounds weights to a grid, each error made up for by the weights that come later; needs calibration text", make_quantize_gptq},
      PassInfo{"quantize.learned", "starts at gptq, then learns the rounding and the scales of each block by gradients; the best and the slowest", make_quantize_learned},
      PassInfo{"quantize.rtn", "rounds weights to the nearest value of a 2- to 8-bit grid", make_quantize_rtn},
      PassInfo{"student", "puts another model in the original's place: a checkpoint, or a config.json with random weights", make_student},
      PassInfo{"transform.rotate", "folds rotations into the weights that leave the function as it is", make_transform_rotate},
  };
  return list;
}

std::unique_ptr<Pass> make_pass(const nlohmann::json& step, const std::string& where) {
  FieldReader fields(step, where);
  const std::string name = fields.get_string("pass");
  std::vector<std::string> names;
  for (const PassInfo& info : pass_list()) {
    if (info.name == name) return info.make(step, where);
    names.push_back(info.name);
  }
  throw Error(ErrorKind::input, fmt::format("{}: pass \"{}\" is not known{}; `llmc list` names the passes", where, name, did_you_mean(name, names)));
}

}  // namespace llmc
