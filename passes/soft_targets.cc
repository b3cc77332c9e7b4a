#include "passes/soft_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "formats/safetensors.h"

namespace llmc {
namespace {

std::string hash_tokens(const Sequences& samples) {
  std::vector<int32_t> all;
  for (const auto& sample : samples) all.insert(all.end(), sample.begin(), sample.end());
  return sha256(std::as_bytes(std::span(all)));
}

template <typename T>
std::span<const T> view_as(const SafetensorsContent& content, const std::string& name, DType dtype, const std::string& where) {
  const auto found = std::ranges::find(content.tensors, name, &NamedTensor::name);
  if (found == content.tensors.end() || found->tensor.dtype != dtype || found->tensor.shape.size() != 2) throw Error(ErrorKind::input, fmt::format("{}: expected a matrix {} of {}", where, name, get_info(dtype).name));
  if (reinterpret_cast<uintptr_t>(found->tensor.bytes.data()) % alignof(T) != 0) throw Error(ErrorKind::input, fmt::format("{}: {} is not aligned in the file; expected it at a multiple of {} bytes", where, name, alignof(T)));
  return {reinterpret_cast<const T*>(found->tensor.bytes.data()), static_cast<size_t>(found->tensor.count())};
}

}  // namespace

void write_soft_targets(const std::filesystem::path& file, Teacher& teacher, const Sequences& samples, const SoftTargetOptions& options, const RunContext& context) {
  const int64_t vocabulary = teacher.vocabulary(), top = options.top;
  if (top < 1 || top > vocabulary) throw Error(ErrorKind::usage, fmt::format("soft targets: expected 1 to {} tokens of the vocabulary, found {}", vocabulary, top));
  std::vector<int32_t> indices;
  std::vector<float> log_probabilities, rest;
  Stage stage(context, "soft targets", static_cast<int64_t>(samples.size()));
  for (size_t s = 0; s < samples.size(); ++s) {
    const Batch batch(samples, {s});
    const TrainableHead::Teacher targets = teacher.look_at(batch);
    const auto length = static_cast<int64_t>(samples[s].size());
    const auto done = static_cast<int64_t>(rest.size());
    indices.resize(static_cast<size_t>((done + length) * top));
    log_probabilities.resize(indices.size());
    rest.resize(static_cast<size_t>(done + length));
    constexpr int64_t piece = 16;
    parallel_pieces(length, piece, [&](int64_t first, int64_t last) {
      Matrix logits(last - first, vocabulary);
      targets(batch.rows.ranges[0].first + first, logits.view());
      std::vector<int32_t> order(static_cast<size_t>(vocabulary));
      for (int64_t r = 0; r < last - first; ++r) {
        const auto row = logits.view().row_span(r);
        const double largest = *std::ranges::max_element(row);
        double sum = 0;
        for (const float value : row) sum += std::exp((value - largest) / options.temperature);
        const double norm = largest / options.temperature + std::log(sum);
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + top, order.end(), [&](int32_t a, int32_t b) { return row[static_cast<size_t>(a)] != row[static_cast<size_t>(b)] ? row[static_cast<size_t>(a)] > row[static_cast<size_t>(b)] : a < b; });
        double named = 0;
        for (int64_t k = 0; k < top; ++k) {
          const auto at = static_cast<size_t>((done + first + r) * top + k);
          indices[at] = order[static_cast<size_t>(k)];
          log_probabilities[at] = static_cast<float>(row[static_cast<size_t>(indices[at])] / options.temperature - norm);
          named += std::exp(double{log_probabilities[at]});
        }
        rest[static_cast<size_t>(done + first + r)] = static_cast<float>(std::max(0.0, 1 - named));
      }
    });
    stage.advance();
  }
  const auto tokens = static_cast<int64_t>(rest.size());
  SafetensorsWriter writer(file, {{.name = "indices", .dtype = DType::i32, .shape = {tokens, top}}, {.name = "log_probabilities", .dtype = DType::f32, .shape = {tokens, top}}, {.name = "rest", .dtype = DType::f32, .shape = {tokens}}},
                           {{"vocabulary", std::to_string(vocabulary)}, {"temperature", fmt::format("{}", options.temperature)}, {"tokens_sha256", hash_tokens(samples)}});
  writer.write("indices", std::as_bytes(std::span(indices)));
  writer.write("log_probabilities", std::as_bytes(std::span(log_probabilities)));
  writer.write("rest", std::as_bytes(std::span(rest)));
  writer.close();
}

KeptTargets::KeptTargets(const std::filesystem::path& file, const Sequences& samples, double temperature) : file_(file) {
  const std::string where = file.string();
  const SafetensorsContent content = parse_safetensors(file_.bytes(), where);
  indices_ = view_as<int32_t>(content, "indices", DType::i32, where);
  log_probabilities_ = view_as<float>(content, "log_probabilities", DType::f32, where);
  const auto note = [&](const char* key) {
    const auto found = content.metadata.find(key);
    if (found == content.metadata.end()) throw Error(ErrorKind::input, fmt::format("{}: expected soft targets, found no {}", where, key));
    return found->second;
  };
  if (const std::string found = note("temperature"); found != fmt::format("{}", temperature)) throw Error(ErrorKind::usage, fmt::format("{}: is for a temperature of {}; expected {}", where, found, temperature));
  if (note("tokens_sha256") != hash_tokens(samples)) throw Error(ErrorKind::usage, fmt::format("{}: is for other samples than those that are trained on", where));
  vocabulary_ = std::strtoll(note("vocabulary").c_str(), nullptr, 10);
  int64_t tokens = 0;
  for (const auto& sample : samples) {
    first_tokens_.push_back(tokens);
    tokens += static_cast<int64_t>(sample.size());
  }
  if (indices_.size() != log_probabilities_.size() || tokens == 0 || static_cast<int64_t>(indices_.size()) % tokens != 0) throw Error(ErrorKind::input, fmt::format("{}: {} indices and {} probabilities; expected as many, for {} tokens", where, indices_.size(), log_probabilities_.size(), tokens));
  top_ = static_cast<int64_t>(indices_.size()) / tokens;
  for (const int32_t index : indices_)
    if (index < 0 || index >= vocabulary_) throw Error(ErrorKind::input, fmt::format("{}: indices: {} is outside the vocabulary of {}", where, index, vocabulary_));
  for (const float value : log_probabilities_)
    if (!(value <= 0)) throw Error(ErrorKind::input, fmt::format("{}: log_probabilities: expected numbers up to 0, found {}", where, value));
}

TrainableHead::Teacher KeptTargets::look_at(const Batch& batch) {
  row_tokens_.assign(static_cast<size_t>(batch.rows.rows), -1);
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const auto& [first, length] = batch.rows.ranges[i];
    std::iota(row_tokens_.begin() + first, row_tokens_.begin() + first + length, first_tokens_[batch.chosen[i]]);
  }
  return [this](int64_t first, MatrixView targets) {
    for (int64_t r = 0; r < targets.rows; ++r) {
      std::ranges::fill(targets.row_span(r), -std::numeric_limits<float>::infinity());
      const int64_t token = row_tokens_[static_cast<size_t>(first + r)];
      for (int64_t k = 0; token >= 0 && k < top_; ++k) targets.row(r)[indices_[static_cast<size_t>(token * top_ + k)]] = log_probabilities_[static_cast<size_t>(token * top_ + k)];
    }
  };
}

}  // namespace llmc
