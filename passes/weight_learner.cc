#include "passes/weight_learner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "formats/safetensors.h"

namespace llmc {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

/// Of every step, a number for each of loss_terms.
std::vector<HeadLosses> read_losses(const json& steps, const std::string& where) {
  const auto is_step = [](const json& step) { return step.is_array() && step.size() == loss_terms.size() && std::ranges::all_of(step, [](const json& loss) { return loss.is_number(); }); };
  if (!steps.is_array() || !std::ranges::all_of(steps, is_step)) throw Error(ErrorKind::input, fmt::format("{}: losses: expected a list of {} numbers for each step", where, loss_terms.size()));
  std::vector<HeadLosses> losses;
  for (const json& step : steps) {
    HeadLosses& terms = losses.emplace_back();
    for (size_t i = 0; i < loss_terms.size(); ++i) terms.*loss_terms[i].loss = step[i].get<double>();
  }
  return losses;
}

}  // namespace

WeightLearner::WeightLearner(Model& model, TrainableModel& trainable, const WeightLearning& learning) : trainable_(trainable), learning_(learning) {
  for (const PlacedTensor& placed : model.tensors()) {
    const StoredTensor& tensor = *placed.tensor;
    by_block_[placed.block].push_back({.placed = &placed, .values = LearnedFloats(tensor, tensor.pruned ? LearnedFloats::Zeros::kept : LearnedFloats::Zeros::learned), .gradient = Matrix(tensor.rows(), tensor.cols())});
  }
  for (const auto& [block, weights] : by_block_) hand_on(block);
}

void WeightLearner::hand_on(int64_t block) {
  BlockTensors values;
  for (const Weight& weight : by_block_.at(block)) {
    Matrix& matrix = values(weight.placed->row->role, weight.placed->part);
    matrix = Matrix(weight.gradient.rows(), weight.gradient.cols());
    weight.values.write_values(matrix);
  }
  trainable_.set(block, values);
}

BlockTensors WeightLearner::prepare(int64_t block) {
  BlockTensors gradients;
  for (Weight& weight : by_block_.at(block)) gradients(weight.placed->row->role, weight.placed->part) = std::move(weight.gradient);
  return gradients;
}

void WeightLearner::take(int64_t block, BlockTensors gradients) {
  for (Weight& weight : by_block_.at(block)) weight.gradient = std::move(gradients(weight.placed->row->role, weight.placed->part));
}

template <typename Body>
void WeightLearner::for_each(const Body& body) {
  for (auto& [block, weights] : by_block_)
    for (Weight& weight : weights) body(weight.placed->tensor->name, weight.values, weight.gradient, is_vector(*weight.placed) ? 0.0f : static_cast<float>(learning_.weight_decay));
  for (const Companion& companion : companions_) body(companion.name, *companion.values, *companion.gradient, 0.0f);
}

void WeightLearner::end_step(int64_t step, const HeadLosses& losses) {
  std::vector<const Matrix*> all;
  for_each([&](const std::string&, LearnedFloats&, Matrix& gradient, float) { all.push_back(&gradient); });
  std::vector<double> squares(all.size());
  parallel_for(static_cast<int64_t>(all.size()), [&](int64_t i) {
    for (const float value : all[static_cast<size_t>(i)]->values()) squares[static_cast<size_t>(i)] += double{value} * value;
  });
  double square = 0;
  for (const double part : squares) square += part;
  gradient_norm_ = std::sqrt(square) / static_cast<double>(learning_.accumulate);
  const double clipped = learning_.clip > 0 && gradient_norm_ > learning_.clip ? learning_.clip / gradient_norm_ : 1;
  const auto factor = static_cast<float>(clipped / static_cast<double>(learning_.accumulate));
  const double rate = learning_.rate * schedule_share(learning_.schedule, step, warmup_, steps_);
  for_each([&](const std::string&, LearnedFloats& values, Matrix& gradient, float decay) {
    if (factor != 1)
      for (float& value : gradient.values()) value *= factor;
    values.update(gradient, {.optimizer = learning_.optimizer, .rate = static_cast<float>(rate), .weight_decay = decay, .decay = learning_.decay});
    std::ranges::fill(gradient.values(), 0.0f);
  });
  for (const auto& [block, weights] : by_block_) hand_on(block);
  losses_.push_back(losses);
}

void WeightLearner::finish() {
  for (auto& [block, weights] : by_block_)
    for (Weight& weight : weights) weight.placed->tensor->form = FloatData(Matrix(weight.values.values()));
}

void WeightLearner::save(const fs::path& file) {
  json losses = json::array();
  for (const HeadLosses& step : losses_) {
    json terms = json::array();
    for (const LossTerm& term : loss_terms) terms.push_back(step.*term.loss);
    losses.push_back(std::move(terms));
  }
  const std::map<std::string, std::string> metadata = {{"signature", signature_}, {"warmup", std::to_string(warmup_)}, {"steps", std::to_string(steps_)}, {"losses", losses.dump()}};
  std::vector<TensorLayout> layouts;
  const auto for_each_part = [&](const auto& body) {
    for_each([&](const std::string& name, LearnedFloats& values, Matrix&, float) {
      for (const auto& [part, matrix] : values.state()) body(fmt::format("{}.{}", name, part), *matrix);
    });
  };
  for_each_part([&](const std::string& name, const Matrix& matrix) { layouts.push_back({.name = name, .dtype = DType::f32, .shape = {matrix.rows(), matrix.cols()}}); });
  std::error_code problem;
  fs::create_directories(file.parent_path(), problem);
  if (problem) throw Error(ErrorKind::output, fmt::format("{}: cannot be made: {}", file.parent_path().string(), problem.message()));
  const fs::path partial = file.string() + ".partial";
  fs::remove(partial, problem);
  SafetensorsWriter writer(partial, std::move(layouts), metadata);
  for_each_part([&](const std::string& name, const Matrix& matrix) { writer.write(name, std::as_bytes(matrix.values())); });
  writer.close();
  fs::rename(partial, file, problem);
  if (problem) throw Error(ErrorKind::output, fmt::format("{}: cannot be renamed: {}", partial.string(), problem.message()));
}

int64_t WeightLearner::restore(const fs::path& file) {
  const MappedFile mapped(file);
  const SafetensorsContent content = parse_safetensors(mapped.bytes(), file.string());
  const auto get_note = [&](const char* key) {
    const auto found = content.metadata.find(key);
    if (found == content.metadata.end()) throw Error(ErrorKind::input, fmt::format("{}: expected the state of a training, found no {}", file.string(), key));
    return found->second;
  };
  if (const std::string found = get_note("signature"); found != signature_) throw Error(ErrorKind::usage, fmt::format("{}: is the state of another run: expected {}, found {}", file.string(), signature_, found));
  const auto read_count = [&](const char* key) {
    const json count = parse_json(get_note(key), file.string());
    if (!count.is_number_integer() || count.get<int64_t>() < 0) throw Error(ErrorKind::input, fmt::format("{}: {}: expected a count of steps, found {}", file.string(), key, count.dump()));
    return count.get<int64_t>();
  };
  warmup_ = read_count("warmup");
  steps_ = read_count("steps");
  losses_ = read_losses(parse_json(get_note("losses"), file.string()), file.string());
  const auto done = std::ssize(losses_);
  if (done > steps_) throw Error(ErrorKind::input, fmt::format("{}: losses: expected those of {} steps at most, found {}", file.string(), steps_, done));
  std::map<std::string, const TensorView*> by_name;
  for (const NamedTensor& tensor : content.tensors) by_name[tensor.name] = &tensor.tensor;
  for_each([&](const std::string& tensor, LearnedFloats& values, Matrix&, float) {
    for (const auto& [part, matrix] : values.state()) {
      const std::string name = fmt::format("{}.{}", tensor, part);
      const auto found = by_name.find(name);
      if (found == by_name.end() || found->second->dtype != DType::f32 || found->second->bytes.size() != matrix->values().size_bytes()) throw Error(ErrorKind::input, fmt::format("{}: tensor {}: missing or of another size; expected {} × {}", file.string(), name, matrix->rows(), matrix->cols()));
      std::memcpy(matrix->values().data(), found->second->bytes.data(), found->second->bytes.size());
    }
    values.set_steps(done);
  });
  for (const auto& [block, weights] : by_block_) hand_on(block);
  return done;
}

}  // namespace llmc
