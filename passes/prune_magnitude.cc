#include "passes/prune_magnitude.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "passes/magnitude.h"
#include "passes/selection.h"

namespace llmc {

using nlohmann::json;

namespace {

enum class Scope { tensor, row, global };
constexpr std::string_view scope_names[] = {"tensor", "row", "global"};

/// At most `kept` of every `block` neighbours stay.
struct NmPattern {
  int64_t kept = 0;
  int64_t block = 0;

  double sparsity() const { return 1 - static_cast<double>(kept) / static_cast<double>(block); }
  std::string text() const { return fmt::format("{}:{}", kept, block); }
};

std::optional<NmPattern> parse_pattern(const std::string& text, const std::string& where) {
  if (text == "unstructured") return std::nullopt;
  NmPattern pattern;
  const char* end = text.data() + text.size();
  const auto [middle, error] = std::from_chars(text.data(), end, pattern.kept);
  if (error == std::errc() && middle != end && *middle == ':') {
    const auto [last, second_error] = std::from_chars(middle + 1, end, pattern.block);
    if (second_error == std::errc() && last == end && pattern.kept >= 1 && pattern.kept < pattern.block && pattern.block <= 64) return pattern;
  }
  throw Error(ErrorKind::usage, fmt::format("{}: pattern '{}' is not understood; expected unstructured or N:M such as 2:4", where, text));
}

Scope parse_scope(const std::string& text, const std::string& where) {
  const auto found = std::ranges::find(scope_names, text);
  if (found == std::end(scope_names)) throw Error(ErrorKind::usage, fmt::format("{}: scope '{}' is not known; expected tensor, row or global", where, text));
  return static_cast<Scope>(found - scope_names);
}

class PruneMagnitude final : public Pass {
 public:
  PruneMagnitude(const json& step, const std::string& where) : selection_({}, {}) {
    FieldReader fields(step, where);
    fields.get_string("pass");
    pattern_ = parse_pattern(fields.find_string("pattern").value_or("unstructured"), where);
    const auto scope = fields.find_string("scope");
    if (scope && pattern_) throw Error(ErrorKind::usage, fmt::format("{}: scope makes no sense with pattern {}: the smallest of every {} neighbours go", where, pattern_->text(), pattern_->block));
    scope_ = parse_scope(scope.value_or("tensor"), where);
    const auto sparsity = fields.find_number("sparsity");
    if (!sparsity && !pattern_) throw Error(ErrorKind::usage, fmt::format("{}: sparsity is missing", where));
    sparsity_ = sparsity.value_or(pattern_ ? pattern_->sparsity() : 0);
    if (!(sparsity_ > 0 && sparsity_ < 1)) throw Error(ErrorKind::usage, fmt::format("{}: sparsity: expected more than 0 and less than 1, found {}", where, sparsity_));
    if (pattern_ && std::abs(sparsity_ - pattern_->sparsity()) > 1e-9) throw Error(ErrorKind::usage, fmt::format("{}: pattern {} means sparsity {}, found {}", where, pattern_->text(), pattern_->sparsity(), sparsity_));
    selection_ = Selection(fields.find_strings("include"), fields.find_strings("exclude"));
    fields.finish();
  }

  json options() const override {
    json result = {{"pass", "prune.magnitude"}, {"sparsity", sparsity_}, {"pattern", pattern_ ? pattern_->text() : "unstructured"}};
    if (!pattern_) result["scope"] = scope_names[static_cast<size_t>(scope_)];
    if (!selection_.include().empty()) result["include"] = selection_.include();
    if (!selection_.exclude().empty()) result["exclude"] = selection_.exclude();
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    std::vector<Treatment> treatments;
    const std::string description = pattern_ ? fmt::format("{} zeros in {}", pattern_->block - pattern_->kept, pattern_->block) : fmt::format("{:g} % zeros{}", 100 * sparsity_, scope_ == Scope::global ? " over all" : scope_ == Scope::row ? " per row" : "");
    for (const PlacedTensor* placed : select(model)) {
      const double value_bits = 8.0 * static_cast<double>(get_info(placed->tensor->dtype).bytes);
      treatments.push_back({placed, description, std::min(value_bits, 1 + (1 - sparsity_) * value_bits)});
    }
    return treatments;
  }

  json run(Model& model, const PassContext& context) override {
    const std::vector<const PlacedTensor*> chosen = select(model);
    int64_t weights = 0;
    for (const PlacedTensor* placed : chosen) weights += placed->tensor->count();
    std::optional<MagnitudeThreshold> threshold;
    if (!pattern_ && scope_ == Scope::global) threshold = find_threshold(chosen, weights, context.run);

    int64_t changed = 0, zeros = 0, expected = 0;
    Stage stage(context.run, "prune", static_cast<int64_t>(chosen.size()));
    for (const PlacedTensor* placed : chosen) {
      StoredTensor& tensor = *placed->tensor;
      Matrix values = read_matrix(tensor);
      changed += threshold ? threshold->zero(values.values()) : prune_matrix(values);
      zeros += std::ranges::count(values.values(), 0.0f);
      expected += expected_zeros(tensor);
      tensor.form = make_floats(tensor, values.view());
      tensor.pruned = true;
      stage.advance();
    }
    if (threshold) expected = zeros_of(weights);
    if (zeros < expected) throw Error(ErrorKind::bug, fmt::format("prune: {} zeros, expected {}", zeros, expected));
    if (changed == 0) throw Error(ErrorKind::input, fmt::format("prune: nothing to do: the weights already hold {} zeros of {}, {} were asked for", zeros, weights, expected));
    return {{"tensors", chosen.size()}, {"weights", weights}, {"sparsity_asked", sparsity_}, {"sparsity_reached", static_cast<double>(zeros) / static_cast<double>(weights)}};
  }

 private:
  std::vector<const PlacedTensor*> select(const Model& model) const {
    Problems problems;
    const std::vector<const PlacedTensor*> chosen = selection_.select(model, problems);
    for (const PlacedTensor* placed : chosen) {
      const StoredTensor& tensor = *placed->tensor;
      if (!std::holds_alternative<FloatData>(tensor.form)) problems.add(fmt::format("tensor {}: is already quantized; prune before quantizing", tensor.name));
      if (pattern_ && tensor.cols() % pattern_->block != 0) problems.add(fmt::format("tensor {}: rows of {} are not a multiple of {}; exclude the tensor or choose another pattern", tensor.name, tensor.cols(), pattern_->block));
    }
    problems.throw_if_any(ErrorKind::usage, "prune");
    return chosen;
  }

  int64_t zeros_of(int64_t count) const { return static_cast<int64_t>(std::llround(sparsity_ * static_cast<double>(count))); }

  int64_t expected_zeros(const StoredTensor& tensor) const {
    if (pattern_) return tensor.count() / pattern_->block * (pattern_->block - pattern_->kept);
    if (scope_ == Scope::row) return tensor.rows() * zeros_of(tensor.cols());
    return zeros_of(tensor.count());
  }

  int64_t prune_matrix(Matrix& values) const {
    if (!pattern_ && scope_ == Scope::tensor) return zero_smallest(values.values(), zeros_of(values.rows() * values.cols()));
    int64_t changed = 0;
    for (int64_t r = 0; r < values.rows(); ++r) {
      const std::span<float> row = values.view().row_span(r);
      changed += pattern_ ? zero_pattern(row, pattern_->kept, pattern_->block) : zero_smallest(row, zeros_of(values.cols()));
    }
    return changed;
  }

  MagnitudeThreshold find_threshold(const std::vector<const PlacedTensor*>& chosen, int64_t weights, const RunContext& context) const {
    MagnitudeThreshold threshold(zeros_of(weights));
    Stage stage(context, "rank weights", 2 * static_cast<int64_t>(chosen.size()));
    for (int pass = 0; pass < 2; ++pass) {
      for (const PlacedTensor* placed : chosen) {
        threshold.count(read_matrix(*placed->tensor).values());
        stage.advance();
      }
      threshold.refine();
    }
    return threshold;
  }

  double sparsity_ = 0;
  Scope scope_ = Scope::tensor;
  std::optional<NmPattern> pattern_;
  Selection selection_;
};

}  // namespace

std::unique_ptr<Pass> make_prune_magnitude(const json& step, const std::string& where) { return std::make_unique<PruneMagnitude>(step, where); }

}  // namespace llmc
