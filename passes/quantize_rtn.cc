#include "passes/quantize_rtn.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "passes/rounding.h"
#include "passes/selection.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr const char* keep = "keep";

/// A scheme, or nothing for "keep".
using Choice = std::optional<Scheme>;

Choice parse_choice(const std::string& text) { return text == keep ? Choice() : Choice(parse_scheme(text)); }
std::string to_string(const Choice& choice) { return choice ? to_string(*choice) : keep; }

RangeRule parse_rule(const std::string& text, const std::string& where) {
  for (RangeRule rule : {RangeRule::minmax, RangeRule::percentile, RangeRule::mse, RangeRule::hqq})
    if (text == to_string(rule)) return rule;
  throw Error(ErrorKind::usage, fmt::format("{}: observer '{}' is not known; expected minmax, percentile, mse or hqq", where, text));
}

struct Override {
  Pattern pattern;
  Choice choice;
};

/// Bits per weight with scales and zero points.
double stored_bits(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols) {
  const double weights_per_scale = scheme.granularity == Granularity::group ? static_cast<double>(scheme.group_size) : scheme.granularity == Granularity::channel ? static_cast<double>(cols) : static_cast<double>(rows * cols);
  const double per_scale = 8.0 * static_cast<double>(get_info(scale_dtype).bytes) + (scheme.mapping == Mapping::linear ? scheme.bits : 0);
  return scheme.bits + per_scale / weights_per_scale;
}

class QuantizeRtn final : public Pass {
 public:
  QuantizeRtn(const json& step, const std::string& where) : selection_({}, {}) {
    FieldReader fields(step, where);
    fields.get_string("pass");
    scheme_ = parse_scheme(fields.get_string("scheme"));
    range_.rule = parse_rule(fields.find_string("observer").value_or("minmax"), where);
    const auto percentile = fields.find_number("percentile");
    if (percentile && range_.rule != RangeRule::percentile) throw Error(ErrorKind::usage, fmt::format("{}: percentile makes sense only with observer percentile", where));
    range_.percentile = percentile.value_or(range_.percentile);
    if (!(range_.percentile > 50 && range_.percentile <= 100)) throw Error(ErrorKind::usage, fmt::format("{}: percentile: expected more than 50 and at most 100, found {}", where, range_.percentile));
    selection_ = Selection(fields.find_strings("include"), fields.find_strings("exclude"));
    embedding_ = parse_choice(fields.find_string("token_embedding").value_or(keep));
    head_ = parse_choice(fields.find_string("output_head").value_or(keep));
    if (const json* list = fields.find("tensor_types")) {
      if (!list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"tensor_types\": expected a list", where));
      for (const json& item : *list) {
        FieldReader row(item, where + ".tensor_types");
        overrides_.push_back({Pattern(row.get_string("pattern")), parse_choice(row.get_string("scheme"))});
        row.finish();
      }
    }
    fields.finish();
  }

  json options() const override {
    json result = {{"pass", "quantize.rtn"}, {"scheme", to_string(scheme_)}, {"observer", to_string(range_.rule)}, {"token_embedding", to_string(embedding_)}, {"output_head", to_string(head_)}};
    if (range_.rule == RangeRule::percentile) result["percentile"] = range_.percentile;
    if (!selection_.include().empty()) result["include"] = selection_.include();
    if (!selection_.exclude().empty()) result["exclude"] = selection_.exclude();
    for (const Override& item : overrides_) result["tensor_types"].push_back({{"pattern", item.pattern.text()}, {"scheme", to_string(item.choice)}});
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    std::vector<Treatment> treatments;
    for (const auto& [placed, scheme] : resolve(model))
      treatments.push_back({placed, to_string(scheme), stored_bits(scheme, scale_dtype_for(scheme, placed->tensor->dtype), placed->tensor->rows(), placed->tensor->cols())});
    return treatments;
  }

  json run(Model& model, const RunContext& context) override {
    const auto planned = resolve(model);
    const auto count_quantized = [&] { return std::ranges::count_if(model.tensors(), [](const PlacedTensor& p) { return std::holds_alternative<QuantizedMatrix>(p.tensor->form); }); };
    const auto before = count_quantized();
    int64_t weights = 0;
    Stage stage(context, "quantize", static_cast<int64_t>(planned.size()));
    for (const auto& [placed, scheme] : planned) {
      StoredTensor& tensor = *placed->tensor;
      const Matrix values = read_matrix(tensor);
      tensor.form = round_to_nearest(values.view(), scheme, scale_dtype_for(scheme, tensor.dtype), range_, tensor.name);
      weights += tensor.count();
      stage.advance();
    }
    const auto quantized = count_quantized() - before;
    if (quantized != static_cast<int64_t>(planned.size())) throw Error(ErrorKind::bug, fmt::format("quantized {} tensors, expected {}", quantized, planned.size()));
    return {{"tensors", planned.size()}, {"weights", weights}};
  }

 private:
  using Plan = std::vector<std::pair<const PlacedTensor*, Scheme>>;

  /// Which tensor gets which scheme. Throws Error(usage) with every problem.
  Plan resolve(const Model& model) const {
    Problems problems;
    std::map<const PlacedTensor*, Choice> choices;
    for (const PlacedTensor* placed : selection_.select(model, problems)) choices[placed] = scheme_;
    for (const PlacedTensor& placed : model.tensors()) {
      if (placed.part != Part::weight) continue;
      if (placed.row->role == Role::token_embedding) choices[&placed] = embedding_;
      if (placed.row->role == Role::output_head) choices[&placed] = head_;
    }
    if (head_ && model.config().tied_head) problems.add("output_head: the head is tied to the embedding; give token_embedding a scheme instead");
    apply_overrides(model, choices, problems);

    Plan plan;
    for (const PlacedTensor& placed : model.tensors()) {  // in model order
      const auto choice = choices.find(&placed);
      if (choice == choices.end() || !choice->second) continue;
      plan.emplace_back(&placed, *choice->second);
    }
    for (const auto& [placed, scheme] : plan) {
      const StoredTensor& tensor = *placed->tensor;
      if (!std::holds_alternative<FloatData>(tensor.form)) problems.add(fmt::format("tensor {}: is already quantized", tensor.name));
      if (scheme.granularity == Granularity::group && tensor.cols() % scheme.group_size != 0)
        problems.add(fmt::format("tensor {}: rows of {} are not a multiple of the group size {}; choose --group-size {}, --granularity channel, or another scheme for this tensor with --tensor-type", tensor.name, tensor.cols(), scheme.group_size, suggest_group(plan, scheme.group_size)));
    }
    if (plan.empty() && problems.empty()) problems.add("nothing would be quantized");
    problems.throw_if_any(ErrorKind::usage, "quantize");
    return plan;
  }

  void apply_overrides(const Model& model, std::map<const PlacedTensor*, Choice>& choices, Problems& problems) const {
    std::vector<const PlacedTensor*> candidates;
    for (const PlacedTensor& placed : model.tensors())
      if (is_block_linear(placed) || choices.contains(&placed)) candidates.push_back(&placed);
    for (const Override& item : overrides_)
      if (std::ranges::none_of(candidates, [&](const PlacedTensor* p) { return item.pattern.matches(p->tensor->name); })) problems.add(describe_unmatched(item.pattern, candidates));
    for (const PlacedTensor* placed : candidates) {
      const auto match = std::ranges::find_if(overrides_, [&](const Override& item) { return item.pattern.matches(placed->tensor->name); });
      if (match != overrides_.end()) choices[placed] = match->choice;
    }
  }

  /// The largest group, no larger than the wished one, that divides the rows of all tensors that were to get it.
  static int64_t suggest_group(const Plan& plan, int64_t wished) {
    int64_t common = 0;
    for (const auto& [placed, scheme] : plan)
      if (scheme.granularity == Granularity::group && scheme.group_size == wished) common = std::gcd(common, placed->tensor->cols());
    int64_t group = std::min(common, wished);
    while (common % group != 0) --group;
    return group;
  }

  Scheme scheme_;
  RangeOptions range_;
  Selection selection_;
  Choice embedding_;
  Choice head_;
  std::vector<Override> overrides_;
};

}  // namespace

std::unique_ptr<Pass> make_quantize_rtn(const json& step, const std::string& where) { return std::make_unique<QuantizeRtn>(step, where); }

}  // namespace llmc
