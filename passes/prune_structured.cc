#include "passes/prune_structured.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "passes/block_influence.h"
#include "passes/hidden_choice.h"
#include "passes/structure_pruner.h"
#include "passes/structure_targets.h"
#include "passes/structures.h"

namespace llmc {

using nlohmann::json;

namespace {

class PruneStructured final : public Pass {
 public:
  PruneStructured(FieldReader fields, const std::string& where) : targets_(fields, where) { fields.finish(); }

  json options() const override {
    json result = targets_.options();
    result["pass"] = "prune.structured";
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }
  std::optional<Model> outline(const Model& model) const override { return outline_model(model, targets_.resolve(model)); }
  bool needs_calibration() const override { return sweeps() || scans(); }

  json run(Model& model, const PassContext& context) override {
    const Sizes before = sizes_of(model.config()), sizes = targets_.resolve(model);
    const int64_t parameters = model.parameters();
    json details;
    std::vector<double> influences;
    if (scans()) influences = measure_block_influence(model, context);
    const std::vector<int64_t> blocks = keep_blocks(model.config().layers, influences);
    HiddenChoice hidden;
    if (targets_.hidden()) hidden = targets_.importance() == Importance::magnitude ? choose_hidden_by_magnitude(model, sizes.hidden) : choose_hidden_by_activation(model, sizes.hidden, context);
    StructureChoice choice = sweeps() ? choose_in_sweep(model, targets_, sizes, blocks, hidden, context) : choose_by_magnitude(model, sizes, blocks, hidden);
    model = cut_model(std::move(model), choice.kept);
    if (targets_.hidden()) rescale_norms(model, hidden, before.hidden);
    if (sizes_of(model.config()) != sizes) throw Error(ErrorKind::bug, "prune.structured: the model has other sizes than planned");

    details = std::move(choice.details);
    details["parameters"] = {{"before", parameters}, {"after", model.parameters()}};
    const auto tell = [&](const char* kind, int64_t from, int64_t to) {
      if (from != to) details["removed"][kind] = {{"before", from}, {"after", to}};
    };
    const int64_t shared = model.config().heads / model.config().kv_heads;
    tell("ffn", before.ffn, sizes.ffn);
    tell("heads", before.kv_groups * shared, sizes.kv_groups * shared);
    tell("hidden", before.hidden, sizes.hidden);
    tell("layers", before.blocks, sizes.blocks);
    if (sizes.blocks != before.blocks) details["removed"]["layers"]["kept"] = model.origin().blocks;
    if (!influences.empty()) details["block_influence"] = influences;
    return details;
  }

 private:
  /// Whether layers are ranked by what they do to calibration text.
  bool scans() const { return targets_.layers() && targets_.layers()->list.empty(); }
  bool sweeps() const { return targets_.compensates() || (targets_.ranks_channels() && targets_.importance() != Importance::magnitude); }

  std::vector<int64_t> keep_blocks(int64_t layers, const std::vector<double>& influences) const {
    if (!influences.empty()) return keep_highest(influences, layers - targets_.layers()->of(layers));
    std::vector<int64_t> blocks(static_cast<size_t>(layers));
    std::iota(blocks.begin(), blocks.end(), 0);
    if (targets_.layers()) std::erase_if(blocks, [&](int64_t block) { return std::ranges::binary_search(targets_.layers()->list, block); });
    return blocks;
  }

  StructureTargets targets_;
};

}  // namespace

std::unique_ptr<Pass> make_prune_structured(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<PruneStructured>(std::move(fields), where);
}

}  // namespace llmc
