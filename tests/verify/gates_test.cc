#include "verify/gates.h"

#include <cmath>

#include "tests/catch.h"
#include "verify/report.h"

using namespace llmc;
using Catch::Matchers::Contains;

TEST_CASE("a gate passes on its own side of the limit only", "[gates]") {
  const GateLimit at_most{"max_kl", GateDirection::at_most, 0.02}, at_least{"min_ratio", GateDirection::at_least, 3};
  CHECK(judge_gate(at_most, 0.02).passed);
  CHECK_FALSE(judge_gate(at_most, 0.0201).passed);
  CHECK(judge_gate(at_least, 3.0).passed);
  CHECK_FALSE(judge_gate(at_least, 2.99).passed);
}

TEST_CASE("a missing or NaN value never passes", "[gates]") {
  for (GateDirection direction : {GateDirection::at_most, GateDirection::at_least}) {
    CHECK_FALSE(judge_gate({"g", direction, 1}, std::nullopt).passed);
    CHECK_FALSE(judge_gate({"g", direction, 1}, NAN).passed);
  }
  CHECK_FALSE(judge_gate({"g", GateDirection::at_most, 1}, INFINITY).passed);
}

TEST_CASE("misses are said in one line", "[gates]") {
  const std::vector<Gate> gates = {judge_gate({"max_kl", GateDirection::at_most, 0.02}, 0.03), judge_gate({"min_ratio", GateDirection::at_least, 3}, 4.0), judge_gate({"max_size", GateDirection::at_most, 5}, NAN)};
  CHECK(describe_misses(gates) == "gate max_kl missed: 0.03 is over 0.02; gate max_size missed: it has no value to compare with 5");
  Report report;
  CHECK(report.passed());
  report.gates = gates;
  report.artifact_path = "a<b&\"c\"";
  CHECK_FALSE(report.passed());
  CHECK_THAT(to_junit(report), Contains("tests=\"3\" failures=\"2\"") && Contains("a&lt;b&amp;&quot;c&quot;") && Contains("<testcase classname=\"llmc.gates\" name=\"min_ratio\"></testcase>"));
}

TEST_CASE("what JSON cannot say becomes null", "[report]") {
  CHECK(number(NAN).is_null());
  CHECK(number(INFINITY).is_null());
  CHECK(number(0.5) == 0.5);
}
