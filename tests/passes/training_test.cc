#include "passes/training.h"

#include "core/error.h"
#include "core/parallel.h"
#include "formats/safetensors.h"
#include "passes/weight_learner.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// The training of tests/golden/make_training.py.
struct Training {
  explicit Training(const std::string& name, int64_t steps = 200) : model(load_model(golden_root() / name, {}, test::context())), plan{.name = "t", .order = "t", .steps = steps, .batch = 2, .accumulate = 2, .loss = {.kl = 0.7, .temperature = 2, .cross_entropy = 0.4}} {
    for (int64_t s = 0; s < 4; ++s)
      for (int64_t i = 0; i < 24; ++i) samples.resize(4), samples[static_cast<size_t>(s)].push_back(static_cast<int32_t>((7 * i * i + 3 * i + 11 * s) % model.config().vocabulary));
  }

  /// Both losses of every step.
  std::vector<HeadLosses> run(TeacherRuns runs = TeacherRuns::with_each_batch) {
    const RunContext context = test::context();
    const PassContext pass{.run = context, .seed = 1, .calibration = &samples, .sweep = {}, .state_directory = {}, .load_original = {}};
    TeacherModel teacher(load_model(golden_root() / "llama-sharded", {}, context), runs, samples, pass);
    TrainableModel trainable(model.config(), Precision::f32, default_backend());
    learner.emplace(model, trainable, learning);
    learner->set_schedule(10, 200);
    if (!state.empty()) plan.first_step = learner->restore(state);
    train(trainable, *learner, teacher, samples, plan, pass);
    return learner->losses();
  }

  Model model;
  Sequences samples;
  TrainingPlan plan;
  WeightLearning learning{.decay = {.epsilon = 1e-8f}, .rate = 2e-3, .weight_decay = 0.1, .clip = 1, .accumulate = 2};
  std::filesystem::path state;
  std::optional<WeightLearner> learner;
};

/// Of the last step's values.
Matrix embedding_of(Training& training) {
  training.learner->finish();
  return read_matrix(training.model.get(Role::token_embedding));
}

}  // namespace

TEST_CASE("200 steps of AdamW have PyTorch's losses") {
  for (const char* name : {"llama-gqa-tied", "gpt2-tied"}) {
    const auto expected = read_golden<float>(golden_root() / "../training" / ("curve-" + std::string(name) + ".npy"), DType::f32);
    Training training(name);
    const std::vector<HeadLosses> found = training.run();
    REQUIRE(expected.values.size() == 2 * found.size());
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) worst = std::max({worst, std::abs(found[i].kl - expected.values[2 * i]), std::abs(found[i].cross_entropy - expected.values[2 * i + 1])});
    CAPTURE(name, worst);
    CHECK(worst < 1e-3);  // what f32 instead of f64 adds up to; any other rate, moment or decay is beyond it
  }
}

TEST_CASE("A training gives the same bits for any number of threads, and when the teacher is kept") {
  std::vector<Matrix> made;
  for (const int threads : {1, 2, 5}) with_threads(threads, [&] {
      Training training("gpt2-tied", 5);
      training.run(threads == 2 ? TeacherRuns::once : TeacherRuns::with_each_batch);
      made.push_back(embedding_of(training));
    });
  CHECK(test::same_bits(made[0], made[1]));
  CHECK(test::same_bits(made[0], made[2]));
}

TEST_CASE("A training goes on from what was saved to the same bits, for another run not at all") {
  const test::TemporaryDirectory folder;
  const auto file = folder.path() / "deep" / "state.safetensors";
  for (const Optimizer optimizer : {Optimizer::adamw, Optimizer::sgd}) {
    Training whole("llama-gqa-tied", 7);
    whole.learning.optimizer = optimizer;
    whole.run();
    Training first("llama-gqa-tied", 3);
    first.learning.optimizer = optimizer;
    first.run();
    first.learner->set_signature("s");
    first.learner->save(file);
    Training rest("llama-gqa-tied", 7);
    rest.learning.optimizer = optimizer;
    rest.state = file;
    CHECK_THROWS_WITH(rest.run(), Catch::Matchers::Contains("is the state of another run: expected , found s"));
    first.learner->set_signature("");
    first.learner->save(file);
    CHECK(rest.run().size() == 7);
    CHECK(rest.learner->losses()[1].kl == whole.learner->losses()[1].kl);
    CHECK(test::same_bits(embedding_of(rest), embedding_of(whole)));
  }
}

TEST_CASE("The state of a training is refused by what is wrong with its notes") {
  const test::TemporaryDirectory folder;
  Training training("gpt2-tied");
  TrainableModel trainable(training.model.config(), Precision::f32, default_backend());
  WeightLearner learner(training.model, trainable, training.learning);
  const auto restore = [&](const std::string& warmup, const std::string& steps, const std::string& losses) {
    const auto file = folder.path() / "state.safetensors";
    std::filesystem::remove(file);
    SafetensorsWriter(file, {}, {{"signature", ""}, {"warmup", warmup}, {"steps", steps}, {"losses", losses}}).close();
    learner.restore(file);
  };
  CHECK_THROWS_WITH(restore("\"x\"", "4", "[]"), Catch::Matchers::Contains("state.safetensors: warmup: expected a count of steps, found \"x\""));
  CHECK_THROWS_WITH(restore("1", "-4", "[]"), Catch::Matchers::Contains("steps: expected a count of steps, found -4"));
  for (const char* losses : {"{}", "[3]", "[[1, 2]]", "[[1, 2, 3, null]]"}) CHECK_THROWS_WITH(restore("1", "4", losses), Catch::Matchers::Contains("losses: expected a list of 4 numbers for each step"));
  CHECK_THROWS_WITH(restore("1", "1", "[[1, 2, 3, 4], [1, 2, 3, 4]]"), Catch::Matchers::Contains("losses: expected those of 1 steps at most, found 2"));
  CHECK_THROWS_WITH(restore("1", "4", "[[1, 2, 3, 4]]"), Catch::Matchers::Contains("missing or of another size"));
}

TEST_CASE("SGD with momentum goes down, and a rate beyond reason is an error") {
  Training training("llama-gqa-tied", 40);
  training.learning.optimizer = Optimizer::sgd;
  training.learning.rate = 0.05;
  training.learning.weight_decay = 0;
  const auto losses = training.run();
  CHECK(losses.back().total(training.plan.loss) < 0.8 * losses.front().total(training.plan.loss));
  Training wild("llama-gqa-tied", 40);
  wild.learning.optimizer = Optimizer::sgd;
  wild.learning.rate = 1e38;
  wild.learning.clip = 0;
  CHECK_THROWS_WITH(wild.run(), Catch::Matchers::Contains("the loss became"));
}

TEST_CASE("Schedules rise over the warm-up and fall to 0") {
  for (const Schedule schedule : {Schedule::cosine, Schedule::linear, Schedule::constant}) {
    CHECK(schedule_share(schedule, 0, 4, 10) == 0.25);
    CHECK(schedule_share(schedule, 3, 4, 10) == 1);
    CHECK(schedule_share(schedule, 4, 4, 10) == 1);
    CHECK(schedule_share(schedule, 7, 4, 10) == Approx(schedule == Schedule::constant ? 1 : 0.5));
    CHECK(schedule_share(schedule, 10, 4, 10) == Approx(schedule == Schedule::constant ? 1 : 0).margin(1e-15));
  }
}
