#include "passes/student.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "model/random_model.h"

namespace llmc {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::array tokenizer_files = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"};

class Student final : public Pass {
 public:
  Student(FieldReader fields, const std::string& where) : from_(fields.get_string("from")) {
    fields.finish();
    std::error_code unknown;  // a link to itself is not there either
    if (!fs::exists(from_, unknown)) throw Error(ErrorKind::input, fmt::format("{}: from: {} not found; expected a checkpoint directory or a config.json", where, from_.string()));
  }

  json options() const override { return {{"pass", "student"}, {"from", from_.string()}}; }

  std::vector<Treatment> plan(const Model& model) const override {
    const Model student = load(0, model.ignored_config_fields());
    if (student.config().vocabulary != model.config().vocabulary) throw Error(ErrorKind::usage, fmt::format("student {}: vocabulary: expected the teacher's {}, found {}", from_.string(), model.config().vocabulary, student.config().vocabulary));
    if (student.checkpoint().container != Container::dense) throw Error(ErrorKind::usage, fmt::format("student {}: is compressed ({}); expected a float checkpoint (`llmc export --dense` makes one)", from_.string(), to_string(student.checkpoint().container)));
    return {};
  }
  std::optional<Model> outline(const Model& model) const override { return load(0, model.ignored_config_fields()); }

  json run(Model& model, const PassContext& context) override {
    Model student = load(context.seed, model.ignored_config_fields());
    if (!fs::is_regular_file(from_)) check_finite(student, context.run);
    Checkpoint& checkpoint = student.checkpoint();
    const auto own = checkpoint.find_file("tokenizer.json"), of_teacher = model.checkpoint().find_file("tokenizer.json");
    if (own && of_teacher && *own != *of_teacher) context.run.sink.warn(fmt::format("student {}: its tokenizer.json is not the teacher's; the texts are read with the teacher's", from_.string()));
    if (fs::is_regular_file(from_) || !own)
      for (const char* name : tokenizer_files)
        if (auto content = model.checkpoint().find_file(name)) checkpoint.rewritten_files[name] = std::move(*content);
    Origin origin;
    for (int64_t block = 0; block < student.config().layers; ++block) origin.blocks.push_back(-2 - block);
    student.set_origin(std::move(origin));
    for (const PlacedTensor& placed : student.tensors()) placed.tensor->moved = true;
    const int64_t parameters = model.parameters();
    model = std::move(student);
    return {{"from", from_.string()}, {"weights", fs::is_regular_file(from_) ? "random" : "read"}, {"parameters", {{"before", parameters}, {"after", model.parameters()}}}};
  }

 private:
  Model load(uint64_t seed, const std::set<std::string>& ignored) const { return fs::is_regular_file(from_) ? make_random_model(from_, seed, ignored) : place_tensors(open_checkpoint(from_), ignored); }

  fs::path from_;
};

}  // namespace

std::unique_ptr<Pass> make_student(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Student>(std::move(fields), where);
}

}  // namespace llmc
