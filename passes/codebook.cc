#include "passes/codebook.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace llmc {
namespace {

constexpr size_t most_atoms = 8192;

/// Weights of one value (or close together): Σ importance, Σ importance · x, Σ importance · x².
struct Atom {
  double mass = 0;
  double sum = 0;
  double squares = 0;

  void add(const Atom& other) { mass += other.mass, sum += other.sum, squares += other.squares; }
};

struct Weighted {
  float value;
  float importance;
};

/// The distinct weights, ascending.
std::vector<Atom> make_atoms(ConstMatrixView weights, std::span<const float> importance) {
  std::vector<Weighted> all;
  all.reserve(static_cast<size_t>(weights.rows * weights.cols));
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) all.push_back({weights.row(r)[c] + 0.0f, importance.empty() ? 1.0f : importance[static_cast<size_t>(c)]});  // −0 becomes 0
  std::ranges::sort(all, [](const Weighted& a, const Weighted& b) { return a.value != b.value ? a.value < b.value : a.importance < b.importance; });  // the order of sums is fixed
  std::vector<Atom> atoms;
  for (size_t i = 0; i < all.size(); ++i) {
    const double x = all[i].value, mass = std::max(static_cast<double>(all[i].importance), 1e-30);  // an unused column still needs values
    if (i == 0 || all[i].value != all[i - 1].value) atoms.emplace_back();
    atoms.back().add({mass, mass * x, mass * x * x});
  }
  return atoms;
}

/// Merges neighbours until at most most_atoms are left, each of about the same mass.
std::vector<Atom> merge_atoms(std::vector<Atom> atoms) {
  if (atoms.size() <= most_atoms) return atoms;
  double total = 0;
  for (const Atom& atom : atoms) total += atom.mass;
  std::vector<Atom> merged(1);
  double before = 0;
  for (const Atom& atom : atoms) {
    if (before >= total * static_cast<double>(merged.size()) / most_atoms && merged.size() < most_atoms) merged.emplace_back();
    merged.back().add(atom);
    before += atom.mass;
  }
  return merged;
}

/// Optimal clusters of the atoms: D[q][j] = min over i of D[q − 1][i] + cost(i, j), where the best i grows with j, so that each
/// layer is filled by halving.
class Clustering {
 public:
  explicit Clustering(const std::vector<Atom>& atoms) : prefix_(atoms.size() + 1) {
    for (size_t i = 0; i < atoms.size(); ++i) prefix_[i + 1] = prefix_[i], prefix_[i + 1].add(atoms[i]);
  }

  /// Means of the `count` clusters, 1 ≤ count ≤ number of atoms.
  std::vector<double> means(int count) {
    const auto n = static_cast<int32_t>(prefix_.size() - 1);
    best_.assign(prefix_.size(), 0);
    for (int32_t j = 0; j <= n; ++j) best_[static_cast<size_t>(j)] = cost(0, j);
    splits_.assign(static_cast<size_t>(count), std::vector<int32_t>(prefix_.size()));
    for (int q = 1; q < count; ++q) {
      previous_ = best_;
      fill(splits_[static_cast<size_t>(q)], q + 1, n, q, n);
    }
    std::vector<double> result(static_cast<size_t>(count));
    int32_t end = n;
    for (int q = count - 1; q >= 0; --q) {
      const int32_t begin = q == 0 ? 0 : splits_[static_cast<size_t>(q)][static_cast<size_t>(end)];
      const Atom& a = prefix_[static_cast<size_t>(begin)];
      const Atom& b = prefix_[static_cast<size_t>(end)];
      result[static_cast<size_t>(q)] = (b.sum - a.sum) / (b.mass - a.mass);
      end = begin;
    }
    return result;
  }

 private:
  /// Squared error of atoms [i, j) around their mean.
  double cost(int32_t i, int32_t j) const {
    if (j - i < 2) return 0;
    const Atom& a = prefix_[static_cast<size_t>(i)];
    const Atom& b = prefix_[static_cast<size_t>(j)];
    const double sum = b.sum - a.sum;
    return std::max(0.0, b.squares - a.squares - sum * sum / (b.mass - a.mass));
  }

  /// best_[j] for j in [first, last], whose best last cluster starts in [low, high].
  void fill(std::vector<int32_t>& split, int32_t first, int32_t last, int32_t low, int32_t high) {
    if (first > last) return;
    const int32_t middle = first + (last - first) / 2;
    int32_t chosen = low;
    double least = INFINITY;
    for (int32_t i = low; i <= std::min(high, middle - 1); ++i) {
      const double error = previous_[static_cast<size_t>(i)] + cost(i, middle);
      if (error < least) least = error, chosen = i;
    }
    best_[static_cast<size_t>(middle)] = least;
    split[static_cast<size_t>(middle)] = chosen;
    fill(split, first, middle - 1, low, chosen);
    fill(split, middle + 1, last, chosen, high);
  }

  std::vector<Atom> prefix_;
  std::vector<double> best_, previous_;
  std::vector<std::vector<int32_t>> splits_;  ///< [cluster][atoms]: where the last cluster starts
};

}  // namespace

std::vector<float> fit_codebook(ConstMatrixView weights, std::span<const float> importance, int count, DType dtype, ZeroLevel zero) {
  const std::vector<Atom> atoms = merge_atoms(make_atoms(weights, importance));
  const int clusters = static_cast<int>(std::min(atoms.size(), static_cast<size_t>(count)));
  std::vector<float> centroids;
  for (double mean : Clustering(atoms).means(clusters)) centroids.push_back(round_to(dtype, static_cast<float>(mean)));
  std::ranges::sort(centroids);  // means of a merge may round out of order
  if (zero == ZeroLevel::kept) *std::ranges::min_element(centroids, {}, [](float x) { return std::abs(x); }) = 0;
  centroids.resize(static_cast<size_t>(count), centroids.back());
  return centroids;
}

}  // namespace llmc
