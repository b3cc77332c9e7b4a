#include "formats/codecs/compressed_tensors_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

/// Groups "4" to "8", each of so many bits, with the targets that are given for them.
json make_groups(const std::map<int, std::vector<std::string>>& targets, const std::vector<std::string>& ignored = {}) {
  json groups = json::object();
  for (const auto& [bits, list] : targets) groups[std::to_string(bits)] = {{"targets", list}, {"weights", {{"num_bits", bits}, {"strategy", "channel"}}}};
  return {{"format", "int-quantized"}, {"config_groups", groups}, {"ignore", ignored}};
}

/// Bits of the module; 0: no group targets it.
int bits_of(const json& config, const std::string& module) {
  const auto encodings = read_quantization_config(config, {module}, "f");
  return encodings.empty() ? 0 : encodings.at(module).scheme.bits;
}

}  // namespace

TEST_CASE("a module's group is the one that names it most closely", "[compressed_tensors]") {
  const json config = make_groups({{4, {"a.up"}}, {5, {"re:.*up"}}, {6, {"Linear"}}, {7, {"Embedding"}}}, {"re:.*skipped", "b.head"});
  CHECK(bits_of(config, "a.up") == 4);
  CHECK(bits_of(config, "b.up") == 5);
  CHECK(bits_of(config, "a.down") == 6);
  CHECK(bits_of(config, "model.embed_tokens") == 7);
  CHECK(bits_of(config, "wte") == 7);
  CHECK(bits_of(config, "embed_out") == 6);
  CHECK(bits_of(config, "a.skipped") == 0);
  CHECK(bits_of(config, "b.head") == 0);
  CHECK(bits_of(make_groups({{4, {"Linear"}}}), "model.embed_tokens") == 4);  // for want of another that its codes could be of
  CHECK(find_targeted(make_groups({{4, {"Linear"}}}), {"model.embed_tokens", "a.down"}, "f") == std::map<std::string, std::string>{{"a.down", "4"}});
  CHECK(find_targeted(make_groups({{4, {"Linear"}}}, {"Linear"}), {"a.down"}, "f").empty());
}

TEST_CASE("two groups that are as close are refused where they differ", "[compressed_tensors]") {
  for (const char* target : {"a.up", "re:a", "Linear"}) {
    const json config = make_groups({{4, {target}}, {5, {"re:x", target}}});
    CHECK_THROWS_WITH(bits_of(config, "a.up"), Contains("f: tensor a.up.weight: config_groups 4 (target \"" + std::string(target) + "\") and 5 (target") && Contains("different schemes"));
    json same = config;
    same["config_groups"]["5"]["weights"]["num_bits"] = 4;
    CHECK(bits_of(same, "a.up") == 4);
    same["config_groups"]["5"]["input_activations"] = {{"num_bits", 8}, {"strategy", "token"}, {"dynamic", true}};
    CHECK_THROWS_WITH(bits_of(same, "a.up"), Contains("different schemes"));
  }
}

TEST_CASE("patterns that are none are the file's mistake", "[compressed_tensors]") {
  for (const char* pattern : {"re:(", "re:(x+x+)+[yz]"}) {
    try {
      bits_of(make_groups({{4, {pattern}}}), std::string(40, 'x'));
      FAIL("accepted");
    } catch (const Error& problem) {
      CHECK(problem.kind() == ErrorKind::input);
      CHECK_THAT(problem.what(), Contains("f.config_groups.4.targets: \"" + std::string(pattern) + "\": pattern"));
    }
  }
}
