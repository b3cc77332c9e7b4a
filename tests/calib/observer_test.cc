// Tests observers: each against a plain computation over the raw values, and all for independence of order and cut.
#include "calib/observer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/value_histogram.h"
#include "core/random.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;

namespace {

using Values = std::vector<float>;
constexpr RangeTarget symmetric{.mapping = Mapping::symmetric, .bits = 8};
constexpr RangeTarget linear{.mapping = Mapping::linear, .bits = 8};

struct Stream {
  std::string name;
  Values values;
};

Values normals(size_t size, double middle = 0, double deviation = 1) {
  Random random(5, "normals");
  Values values(size);
  for (float& x : values) x = static_cast<float>(middle + deviation * random.normal());
  return values;
}
Values with(Values values, const Values& more) {
  values.insert(values.end(), more.begin(), more.end());
  return values;
}
Values map(Values values, float (*change)(float)) {
  std::ranges::transform(values, values.begin(), change);
  return values;
}

std::vector<Stream> streams() {
  return {{"normal", normals(5001)},
          {"shifted", normals(255, 3)},
          {"all positive", map(normals(1033), [](float x) { return std::abs(x) + 0.5f; })},
          {"ReLU", map(normals(999), [](float x) { return std::max(x, 0.0f); })},
          {"negative", map(normals(33), [](float x) { return -std::abs(x); })},
          {"outliers", with(normals(4000), {1000, -37})},
          {"heavy tail", map(normals(3001), [](float x) { return x * x * x; })},
          {"tiny", normals(301, 0, 1e-12)},
          {"huge", normals(301, 0, 1e36)},
          {"below a normal float", with(Values(20), {1e-42f, -1e-44f})},
          {"constant", Values(31, 0.7f)},
          {"negative constant", Values(31, -2)},
          {"two values", {1, -1, 1, 1, -1, 1}},
          {"powers of two", {0.25f, 0.5f, 1, 2, 4, -4, -8}},
          {"one value", {-3.5f}},
          {"zeros", Values(257)},
          {"zeros and one", with(Values(300), {5})}};
}

/// All values by one observer; value i belongs to sequence i / 40.
Range observe(const std::string& name, const Values& values, const RangeTarget& target, const ObserverOptions& options = {}) {
  const auto observer = make_observer(name, options);
  for (size_t i = 0; i < values.size(); i += 40) observer->add(static_cast<int64_t>(i / 40), std::span(values).subspan(i, std::min<size_t>(40, values.size() - i)));
  return observer->range(target);
}

double largest(const Values& values) {
  double result = 0;
  for (float x : values) result = std::max(result, std::abs(static_cast<double>(x)));
  return result;
}
double bin_width(const Values& values) {
  ValueHistogram histogram;
  histogram.add(values, largest(values));
  return histogram.width();
}

/// Σ(x − grid(x))² over the values themselves.
double error_of(const Values& values, const Range& range, const RangeTarget& target) {
  const double lowest = -(1 << (target.bits - 1)), highest = (1 << (target.bits - 1)) - 1;
  const double scale = target.mapping == Mapping::symmetric ? range.high / highest : (range.high - range.low) / (highest - lowest);
  const double zero = target.mapping == Mapping::symmetric ? 0 : std::round(lowest - range.low / scale);
  double sum = 0;
  for (double x : values) {
    const double decoded = (std::clamp(std::round(x / scale) + zero, lowest, highest) - zero) * scale;
    sum += (x - decoded) * (x - decoded);
  }
  return sum;
}

/// Migacz 2017, as its pseudo-code goes, over |x| in bins of `width`: the number of bins to keep.
size_t entropy_reference(const Values& values, double width, size_t levels) {
  std::vector<double> bins(2048);
  for (double x : values) bins[static_cast<size_t>(std::abs(x) / width)] += 1;
  while (bins.back() == 0) bins.pop_back();
  size_t best = bins.size();
  double least = INFINITY;
  for (size_t size = levels; size <= bins.size(); ++size) {
    std::vector<double> p(bins.begin(), bins.begin() + static_cast<std::ptrdiff_t>(size)), q(size);
    for (size_t i = size; i < bins.size(); ++i) p.back() += bins[i];
    for (size_t level = 0; level < levels; ++level) {
      std::vector<size_t> members;
      double sum = 0;
      for (size_t i = 0; i < size; ++i)
        if (i * levels / size == level) {
          sum += bins[i];
          if (bins[i] > 0) members.push_back(i);
        }
      for (size_t i : members) q[i] = sum / static_cast<double>(members.size());
    }
    const double p_sum = std::accumulate(p.begin(), p.end(), 0.0), q_sum = std::accumulate(q.begin(), q.end(), 0.0);
    if (q_sum == 0) continue;
    double divergence = 0;
    for (size_t i = 0; i < size; ++i)
      if (p[i] > 0) divergence += p[i] / p_sum * std::log(p[i] / p_sum / (std::max(q[i], 1e-4) / q_sum));
    if (divergence < least - 1e-12) best = size, least = divergence;  // sums in another order: equal ones differ by rounding
  }
  return best;
}

}  // namespace

TEST_CASE("observers: the same bits for any order and cut") {
  Random random(9, "cuts");
  for (const ObserverInfo& info : observer_list()) {
    for (const Stream& stream : streams()) {
      for (const RangeTarget& target : {symmetric, linear, RangeTarget{Mapping::linear, 4}}) {
        INFO(info.name << ", " << stream.name);
        const Range whole = observe(info.name, stream.values, target);
        std::vector<size_t> order(stream.values.size());
        std::iota(order.begin(), order.end(), size_t{0});
        for (size_t i = 1; i < order.size(); ++i) std::swap(order[i], order[random.below(i + 1)]);
        std::vector<std::unique_ptr<Observer>> parts;
        for (int i = 0; i < 4; ++i) parts.push_back(make_observer(info.name, {}));
        for (size_t i : order) parts[random.below(3)]->add(static_cast<int64_t>(i / 40), std::span(stream.values).subspan(i, 1));  // the fourth sees nothing
        for (size_t into : {1, 3, 0}) parts[2]->merge(*parts[into]);
        const Range merged = parts[2]->range(target);
        CHECK(merged.low == whole.low);
        CHECK(merged.high == whole.high);
      }
    }
  }
}

TEST_CASE("observers: a range is inside the extremes and fits its grid") {
  for (const ObserverInfo& info : observer_list()) {
    for (const Stream& stream : streams()) {
      INFO(info.name << ", " << stream.name);
      const auto [low, high] = std::ranges::minmax(stream.values);
      const Range wide = observe(info.name, stream.values, linear), even = observe(info.name, stream.values, symmetric);
      CHECK(wide.low <= 0);
      CHECK(wide.high >= 0);
      CHECK(wide.low >= std::min(low, 0.0f));
      CHECK(wide.high <= std::max(high, 0.0f));
      CHECK(even.low == -even.high);
      CHECK(even.high <= largest(stream.values));
      const bool is_zero = low == 0 && high == 0;
      CHECK((even.high > 0) == !is_zero);
      CHECK((wide.high > wide.low) == !is_zero);
    }
  }
}

TEST_CASE("observers: min-max") {
  CHECK(observe("minmax", {1, -3, 2}, linear).low == -3);
  CHECK(observe("minmax", {1, -3, 2}, linear).high == 2);
  CHECK(observe("minmax", {1, -3, 2}, symmetric).high == 3);
  CHECK(observe("minmax", {1, 2}, linear).low == 0);
}

TEST_CASE("observers: moving average, in the order of the sequences") {
  const Values values = normals(4 * 40 + 7);
  double low = 0, high = 0;
  for (size_t sequence = 0; sequence < 5; ++sequence) {
    const auto part = std::span(values).subspan(sequence * 40, sequence == 4 ? 7 : 40);
    const auto [least, most] = std::ranges::minmax(part);
    low = sequence == 0 ? least : 0.75 * low + 0.25 * least;
    high = sequence == 0 ? most : 0.75 * high + 0.25 * most;
  }
  const Range range = observe("moving-average", values, linear, {.averaging = 0.25});
  CHECK(range.low == Approx(low).epsilon(1e-14));  // a + c(b − a) for (1 − c)a + cb: some rounding of f64
  CHECK(range.high == Approx(high).epsilon(1e-14));
}

TEST_CASE("observers: percentile, to one bin") {
  for (const Stream& stream : streams()) {
    for (double percentile : {100.0, 99.9, 95.0, 60.0}) {
      INFO(stream.name << ", " << percentile << " %");
      const double width = bin_width(stream.values), share = percentile / 100;
      Values sorted = stream.values, magnitudes = map(stream.values, [](float x) { return std::abs(x); });
      std::ranges::sort(sorted);
      std::ranges::sort(magnitudes);
      const auto needed = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));  // so many values are inside
      const double high = std::max(sorted[needed - 1], 0.0f), low = std::min(sorted[sorted.size() - needed], 0.0f), both = magnitudes[needed - 1];
      const Range even = observe("percentile", stream.values, symmetric, {.percentile = percentile});
      CHECK(even.high >= both);
      CHECK(even.high <= both + width);
      const Range wide = observe("percentile", stream.values, linear, {.percentile = percentile});
      CHECK(wide.high >= high);
      CHECK(wide.high <= high + width);
      CHECK(wide.low <= low);
      CHECK(wide.low >= low - width);
      if (percentile == 100) CHECK(even.high == largest(stream.values));
    }
  }
}

TEST_CASE("observers: MSE is as good as searching the values themselves") {
  for (const Stream& stream : streams()) {
    if (largest(stream.values) == 0) continue;
    for (int bits : {8, 4}) {
      for (Mapping mapping : {Mapping::symmetric, Mapping::linear}) {
        INFO(stream.name << ", " << bits << " bits, " << to_string(mapping));
        const RangeTarget target{mapping, bits};
        const Range full = observe("minmax", stream.values, target), chosen = observe("mse", stream.values, target);
        double least = error_of(stream.values, full, target);
        for (int step = 1; step <= 128; ++step) {
          const double share = std::exp2(-step / 16.0);
          least = std::min(least, error_of(stream.values, {full.low * share, full.high * share}, target));
        }
        // The observer takes a value for the middle of its bin: off by half a bin at most, each.
        const double off = 0.5 * bin_width(stream.values), count = static_cast<double>(stream.values.size());
        const double tolerance = std::sqrt(least * count) * 4 * off + 4 * count * off * off;  // (e + off)² − e², summed (Cauchy-Schwarz), once each way
        CHECK(error_of(stream.values, chosen, target) <= least + tolerance);
      }
    }
  }
  CHECK(observe("mse", with(normals(4000), {40}), {Mapping::symmetric, 4}).high < 10);  // keeping 40 rounds all others to 0: an error of 4000; clipping it at 4 costs 36² = 1296
}

TEST_CASE("observers: entropy as published") {
  for (const Stream& stream : streams()) {
    if (largest(stream.values) == 0) continue;
    for (int bits : {8, 4}) {
      INFO(stream.name << ", " << bits << " bits");
      const double width = bin_width(stream.values) * static_cast<double>(ValueHistogram::bins) / 2048;
      const double expected = std::min((static_cast<double>(entropy_reference(stream.values, width, size_t{1} << (bits - 1))) + 0.5) * width, largest(stream.values));
      CHECK(observe("entropy", stream.values, {Mapping::symmetric, bits}).high == Approx(expected).epsilon(1e-12));
    }
  }
  CHECK(observe("entropy", with(normals(100000), {100}), symmetric).high < 10);
}

TEST_CASE("histogram: counts are those of its final width") {
  for (const Stream& stream : streams()) {
    INFO(stream.name);
    ValueHistogram histogram;
    for (const float& x : stream.values) histogram.add(std::span(&x, 1), std::abs(static_cast<double>(x)));
    std::vector<uint64_t> above(ValueHistogram::bins), below(ValueHistogram::bins);
    for (double x : stream.values) ++(x < 0 ? below : above)[static_cast<size_t>(std::floor(std::abs(x) / histogram.width()))];
    CHECK(histogram.above_zero() == above);
    CHECK(histogram.below_zero() == below);
    CHECK(histogram.width() == std::exp2(std::round(std::log2(histogram.width()))));
  }
}

TEST_CASE("observers: what is refused") {
  const auto observer = make_observer("minmax", {.where = "input of x"});
  check_contains(message_of([&] { observer->range(symmetric); }), "input of x: no calibration sample reached it");
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    const Values values = {1, bad, 2};
    check_contains(message_of([&] { observer->add(7, values); }), "input of x: sequence 7: a value is not finite");
  }
  observer->add(0, {});
  check_contains(message_of([&] { observer->range(symmetric); }), "no calibration sample reached it");
  CHECK_THROWS_AS(make_observer("median", {}), Error);
  CHECK_THROWS_AS(make_observer("percentile", {.percentile = 50}), Error);
  CHECK_THROWS_AS(make_observer("percentile", {.percentile = NAN}), Error);
  CHECK_THROWS_AS(make_observer("moving-average", {.averaging = 0}), Error);
}
