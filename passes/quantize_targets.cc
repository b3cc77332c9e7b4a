#include "passes/quantize_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "passes/outliers.h"
#include "passes/rounding.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr const char* keep_action = "keep";

RangeRule parse_rule(const std::string& text, const std::string& where) {
  for (RangeRule rule : {RangeRule::minmax, RangeRule::percentile, RangeRule::mse, RangeRule::hqq})
    if (text == to_string(rule)) return rule;
  throw Error(ErrorKind::usage, fmt::format("{}: observer '{}' is not known; expected minmax, percentile, mse or hqq", where, text));
}

/// The largest group, no larger than the wished one, that divides the rows of all tensors that were to get it.
int64_t suggest_group(const std::vector<QuantizeTarget>& targets, int64_t wished) {
  int64_t common = 0;
  for (const QuantizeTarget& target : targets)
    if (target.scheme.granularity == Granularity::group && target.scheme.group_size == wished) common = std::gcd(common, target.placed->tensor->cols());
  int64_t group = std::min(common, wished);
  while (common % group != 0) --group;
  return group;
}

void check_targets(const std::vector<QuantizeTarget>& targets, Problems& problems) {
  for (const auto& [placed, scheme] : targets) {
    const StoredTensor& tensor = *placed->tensor;
    if (find_scheme(tensor)) problems.add(fmt::format("tensor {}: is already quantized", tensor.name));
    if (scheme.input && scheme.input->range == InputRange::calibrated && !find_tap(placed->row->role)) problems.add(fmt::format("tensor {}: no calibrated range for its input: only layers inside blocks have one; choose a dynamic scheme or keep it", tensor.name));
    if (scheme.input && scheme.input->range == InputRange::calibrated && (placed->row->role == Role::expert_down || placed->row->role == Role::shared_down)) problems.add(fmt::format("tensor {}: no calibrated range for its input: calibration sees it times what the expert counts for; choose a dynamic scheme or keep it", tensor.name));
    if (scheme.granularity == Granularity::group && tensor.cols() % scheme.group_size != 0)
      problems.add(fmt::format("tensor {}: rows of {} are not a multiple of the group size {}; choose --group-size {}, --granularity channel, or another scheme for this tensor with --tensor-type", tensor.name, tensor.cols(), scheme.group_size, suggest_group(targets, scheme.group_size)));
  }
  if (targets.empty() && problems.empty()) problems.add("nothing would be quantized");
}

}  // namespace

QuantizeTargets::Choice QuantizeTargets::parse_choice(const std::string& text) { return text == keep_action ? Choice() : Choice(parse_scheme(text)); }
std::string QuantizeTargets::to_text(const Choice& choice) { return choice ? to_string(*choice) : keep_action; }

QuantizeTargets::QuantizeTargets(FieldReader& fields, RangeRule default_rule, const std::string& where, ScalingRule default_scaling) : scaling_(fields, default_scaling, where), selection_({}, {}) {
  scheme_ = parse_scheme(fields.get_string("scheme"));
  range_.rule = parse_rule(fields.find_string("observer").value_or(std::string(to_string(default_rule))), where);
  const auto percentile = fields.find_number("percentile");
  if (percentile && range_.rule != RangeRule::percentile) throw Error(ErrorKind::usage, fmt::format("{}: percentile makes sense only with observer percentile", where));
  range_.percentile = percentile.value_or(range_.percentile);
  if (!(range_.percentile > 50 && range_.percentile <= 100)) throw Error(ErrorKind::usage, fmt::format("{}: percentile: expected more than 50 and at most 100, found {}", where, range_.percentile));
  selection_ = Selection(fields.find_strings("include"), fields.find_strings("exclude"));
  for (const auto& [name, count] : {std::pair("keep_first", &keep_first_), std::pair("keep_last", &keep_last_)}) {
    *count = fields.find_int(name).value_or(0);
    if (*count < 0) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected a number of blocks from 0, found {}", where, name, *count));
  }
  keep_outliers_ = fields.find_number("keep_outliers").value_or(0);
  if (!(keep_outliers_ >= 0 && keep_outliers_ <= 0.5)) throw Error(ErrorKind::usage, fmt::format("{}: keep_outliers: expected a share from 0 to 0.5, found {}", where, keep_outliers_));
  if (keep_outliers_ > 0) range_.zero = ZeroLevel::kept;
  embedding_ = parse_choice(fields.find_string("token_embedding").value_or(keep_action));
  head_ = parse_choice(fields.find_string("output_head").value_or(keep_action));
  if (const json* list = fields.find("tensor_types")) {
    if (!list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"tensor_types\": expected a list", where));
    for (const json& item : *list) {
      FieldReader row(item, where + ".tensor_types");
      overrides_.push_back({Pattern(row.get_string("pattern")), parse_choice(row.get_string("scheme"))});
      row.finish();
    }
  }
  const auto input_observer = fields.find_string("input_observer");
  input_observer_ = input_observer.value_or(input_observer_);
  input_percentile_ = fields.find_number("input_percentile");
  if ((input_observer || input_percentile_) && !has_static_inputs()) throw Error(ErrorKind::usage, fmt::format("{}: input_observer and input_percentile make sense only with a scheme whose inputs are static, such as W8A8-static", where));
  if (input_percentile_ && input_observer_ != "percentile") throw Error(ErrorKind::usage, fmt::format("{}: input_percentile makes sense only with input_observer percentile", where));
  make_input_observer(where);  // throws for an unknown name or percentile
}

bool QuantizeTargets::has_static_inputs() const {
  const auto is_static = [](const Choice& choice) { return choice && choice->input && choice->input->range == InputRange::calibrated; };
  return is_static(scheme_) || std::ranges::any_of(overrides_, [&](const Override& item) { return is_static(item.choice); });
}

std::unique_ptr<Observer> QuantizeTargets::make_input_observer(const std::string& where) const {
  ObserverOptions options{.where = where};
  options.percentile = input_percentile_.value_or(options.percentile);
  return make_observer(input_observer_, options);
}

json QuantizeTargets::options() const {
  json result = {{"scheme", to_string(scheme_)}, {"observer", to_string(range_.rule)}, {"token_embedding", to_text(embedding_)}, {"output_head", to_text(head_)}};
  if (range_.rule == RangeRule::percentile) result["percentile"] = range_.percentile;
  if (has_static_inputs()) result["input_observer"] = input_observer_;
  if (input_percentile_) result["input_percentile"] = *input_percentile_;
  if (!selection_.include().empty()) result["include"] = selection_.include();
  if (!selection_.exclude().empty()) result["exclude"] = selection_.exclude();
  if (keep_outliers_ > 0) result["keep_outliers"] = keep_outliers_;
  if (keep_first_ > 0) result["keep_first"] = keep_first_;
  if (keep_last_ > 0) result["keep_last"] = keep_last_;
  for (const Override& item : overrides_) result["tensor_types"].push_back({{"pattern", item.pattern.text()}, {"scheme", to_text(item.choice)}});
  result.update(scaling_.options());
  return result;
}

std::vector<QuantizeTarget> QuantizeTargets::resolve(const Model& model) const {
  Problems problems;
  const int64_t layers = model.config().layers;
  if (keep_first_ + keep_last_ > layers) problems.add(fmt::format("keep_first {} and keep_last {}: the model has {} blocks", keep_first_, keep_last_, layers));
  const Choices choices = choose(model, problems);
  std::vector<QuantizeTarget> targets;
  for (const auto& [placed, choice] : choices) {
    const bool is_kept = placed->block >= 0 && (placed->block < keep_first_ || placed->block >= layers - keep_last_);
    if (choice && !is_kept) targets.push_back({placed, *choice});
  }
  check_targets(targets, problems);
  if (keep_outliers_ > 0)
    for (const QuantizeTarget& target : targets)
      if (target.scheme.input) problems.add(fmt::format("tensor {}: keep_outliers makes sense only with inputs in 16 bits, found {}", target.placed->tensor->name, to_string(target.scheme)));
  problems.throw_if_any(ErrorKind::usage, "quantize");
  return targets;
}

QuantizeTargets::Choices QuantizeTargets::choose(const Model& model, Problems& problems) const {
  const auto selected = selection_.select(model, problems);
  std::vector<const PlacedTensor*> candidates;  // what an override may name
  Choices choices;
  for (const PlacedTensor& placed : model.tensors()) {
    const bool is_selected = std::ranges::find(selected, &placed) != selected.end();
    const bool is_embedding = placed.part == Part::weight && placed.row->role == Role::token_embedding;
    const bool is_head = placed.part == Part::weight && placed.row->role == Role::output_head;
    if (!is_block_linear(placed) && !is_embedding && !is_head) continue;
    candidates.push_back(&placed);
    choices.emplace_back(&placed, is_selected ? Choice(scheme_) : is_embedding ? embedding_ : is_head ? head_ : Choice());
  }
  if (head_ && model.config().tied_head) problems.add("output_head: the head is tied to the embedding; give token_embedding a scheme instead");
  for (const Override& item : overrides_)
    if (std::ranges::none_of(candidates, [&](const PlacedTensor* p) { return item.pattern.matches(p->tensor->name); })) problems.add(describe_unmatched(item.pattern, candidates));
  for (auto& [placed, choice] : choices) {
    const std::string& name = placed->tensor->name;
    const auto match = std::ranges::find_if(overrides_, [&](const Override& item) { return item.pattern.matches(name); });
    if (match != overrides_.end()) choice = match->choice;
  }
  return choices;
}

std::vector<Treatment> QuantizeTargets::plan(const Model& model) const {
  std::vector<Treatment> treatments;
  for (const QuantizeTarget& target : resolve(model)) {
    const std::string outliers = keep_outliers_ > 0 ? fmt::format(", {:g} % outliers", 100 * keep_outliers_) : "";
    const double bits = stored_bits(target.scheme, target.scale_dtype(), target.placed->tensor->rows(), target.placed->tensor->cols());
    treatments.push_back({target.placed, to_string(target.scheme) + outliers, bits + outlier_bits(keep_outliers_)});
  }
  return treatments;
}

QuantizedMatrix round_target(const QuantizeTarget& target, const QuantizeTargets& targets) {
  const StoredTensor& tensor = *target.placed->tensor;
  if (targets.keep_outliers() == 0) return round_to_nearest(tensor, target.scheme, target.scale_dtype(), target.range(targets.range()));
  Matrix rest = read_matrix(tensor);
  Outliers outliers = take_outliers(rest, targets.keep_outliers(), outlier_dtype_for(tensor.dtype));
  QuantizedMatrix rounded = round_to_nearest(rest.view(), target.scheme, target.scale_dtype(), target.range(targets.range()), tensor.name);
  rounded.outliers = std::move(outliers);
  return rounded;
}

int64_t count_quantized(const Model& model) {
  return std::ranges::count_if(model.tensors(), [](const PlacedTensor& p) { return find_scheme(*p.tensor) != nullptr; });
}

}  // namespace llmc
