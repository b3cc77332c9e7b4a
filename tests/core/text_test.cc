#include <atomic>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/pattern.h"
#include "core/random.h"
#include "core/sha256.h"
#include "core/suggest.h"
#include "core/units.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

TEST_CASE("JSON is read strictly", "[json]") {
  CHECK_THROWS_WITH(parse_json(R"({"a":1,"a":2})", "f"), Contains("\"a\" appears twice"));
  CHECK_THROWS_WITH(parse_json(std::string(100, '[') + std::string(100, ']'), "f"), Contains("64 levels"));
  CHECK_THROWS_WITH(parse_json("{\"a\":\"\xff\"}", "f"), Contains("not valid JSON"));
  CHECK_THROWS_WITH(parse_json("{} x", "f"), Contains("not valid JSON"));
  CHECK_THROWS_WITH(parse_json(std::string("{}\0[", 4), "f"), "f: not valid JSON: a zero byte at 3 of 4");  // the parser's own end of input
  CHECK_THROWS_WITH(parse_json("[1e999999]", "f"), "f: a number in the JSON is beyond what a double holds");
  CHECK_THROWS_WITH(parse_json("{\"" + std::string(1000, 'a') + "\":1,\"" + std::string(1000, 'a') + "\":2}", "f"), Contains("(800 bytes more)") && Contains("appears twice"));
  std::string many = "[0";
  for (int i = 0; i < 4'000'000; ++i) many += ",[]";
  CHECK_THROWS_WITH(parse_json(many + "]", "f"), Contains("more than 8000000 keys"));
  std::string wide = "{";
  for (int i = 0; i < 100'000; ++i) wide += (i ? ",\"" : "\"") + std::to_string(i) + "\":{}";
  CHECK(parse_json(wide + "}", "f").size() == 100'000);  // minutes, if time grew with the square
  CHECK(parse_json(R"({"a":{"b":1},"c":{"b":2}})", "f")["c"]["b"] == 2);
}

TEST_CASE("fields are typed, and unknown ones are named with the nearest known", "[json]") {
  const nlohmann::json object = {{"count", 3}, {"name", "x"}, {"nothing", nullptr}, {"sparsty", 0.5}, {"list", {"a", 1}}};
  FieldReader fields(object, "here");
  CHECK(fields.get_int("count") == 3);
  CHECK(fields.find_number("count") == 3.0);
  CHECK_FALSE(fields.find_string("nothing"));
  CHECK_THROWS_WITH(fields.get_int("name"), Contains("here") && Contains("expected an integer") && Contains("\"x\""));
  CHECK_THROWS_WITH(fields.find_strings("list"), Contains("list of strings"));
  const nlohmann::json large = {{"count", std::string(100'000, 'x')}};
  CHECK_THROWS_WITH(FieldReader(large, "here").get_int("count"), Contains("(99802 bytes more)"));
  CHECK_THROWS_WITH(fields.get_string("absent"), Contains("\"absent\" is missing"));
  fields.find_number("sparsity");
  CHECK_THROWS_WITH(fields.finish(), Contains("unknown field \"sparsty\"") && Contains("did you mean \"sparsity\""));
}

TEST_CASE("problems are listed together", "[error]") {
  Problems problems;
  problems.throw_if_any(ErrorKind::input, "f");
  problems.add("one");
  CHECK_THROWS_WITH(problems.throw_if_any(ErrorKind::input, "f"), "f: one");
  problems.add("two");
  CHECK_FALSE(problems.is_full());
  CHECK_THROWS_WITH(problems.throw_if_any(ErrorKind::input, "f"), "f: 2 problems\n  - one\n  - two");
  for (int i = 0; i < 100'000; ++i) problems.add("more");
  CHECK(problems.is_full());
  CHECK(problems.list().size() == 20);  // what is never shown is counted only
  CHECK_THROWS_WITH(problems.throw_if_any(ErrorKind::input, "f"), Contains("f: 100002 problems") && Contains("\n  … and 99982 more"));
}

TEST_CASE("sizes and shares are read as people write them", "[units]") {
  CHECK(parse_size("40MB", "x") == 40'000'000);
  CHECK(parse_size("1.5GiB", "x") == 1'610'612'736);
  CHECK(parse_size("17", "x") == 17);
  for (const char* wrong : {"", "MB", "-1", "4 MB", "4XB", "1e400", "nan", "99999999TB"}) CHECK_THROWS_AS(parse_size(wrong, "x"), Error);
  CHECK(parse_share("1%", "x") == Approx(0.01));
  CHECK(parse_share("0.95", "x") == Approx(0.95));
  for (const char* wrong : {"", "1%%", "inf", "-1%", "x"}) CHECK_THROWS_AS(parse_share(wrong, "x"), Error);
  CHECK(format_size(999) == "999 B");
  CHECK(format_size(14'696'792) == "14.70 MB");
}

TEST_CASE("patterns search, and say where they are wrong", "[pattern]") {
  CHECK(Pattern("down_proj").matches("model.layers.0.mlp.down_proj.weight"));
  CHECK_FALSE(Pattern("^down_proj").matches("model.layers.0.mlp.down_proj.weight"));
  CHECK_THROWS_WITH(Pattern("a("), Contains("'a('") && Contains("at character 2"));
  CHECK_THROWS_WITH(Pattern("(x+x+)+[yz]").matches(std::string(40, 'x')), Contains("cannot be matched"));  // runs into PCRE2's limit instead of hanging
}

TEST_CASE("suggestions are near or absent", "[suggest]") {
  CHECK(did_you_mean("lama", {"llama", "gpt2"}) == " (did you mean \"llama\"?)");
  CHECK(did_you_mean("mixtral", {"llama", "gpt2"}).empty());
  CHECK(did_you_mean(std::string(101, 'a'), {std::string(101, 'b'), std::string(101, 'a')}).empty());  // nobody mistypes such names
}

TEST_CASE("SHA-256 of the standard's examples", "[sha256]") {  // FIPS 180-4
  CHECK(sha256({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string abc = "abc";
  CHECK(sha256(std::as_bytes(std::span(abc))) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("random streams depend on seed and name only", "[random]") {
  CHECK(Random(1, "a").next() == Random(1, "a").next());
  CHECK(Random(1, "a").next() != Random(1, "b").next());
  CHECK(Random(1, "a").next() != Random(2, "a").next());
  Random random(3, "moments");
  double sum = 0, square = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = random.normal();
    sum += x, square += x * x;
  }
  CHECK(std::abs(sum / 1e5) < 0.02);  // six standard errors of the mean, 1/√n each
  CHECK(square / 1e5 == Approx(1).margin(0.03));
}

TEST_CASE("parallel_for visits every index once and hands on exceptions, at any number of threads", "[parallel]") {
  for (int threads : {1, 2, 7})
    with_threads(threads, [] {
      std::vector<std::atomic<int>> visits(1000);
      parallel_for(1000, [&](int64_t i) { ++visits[static_cast<size_t>(i)]; });
      for (const auto& count : visits) REQUIRE(count == 1);
      std::atomic<int64_t> covered = 0;
      parallel_pieces(1001, 64, [&](int64_t first, int64_t last) { covered += last - first; });
      CHECK(covered == 1001);
      CHECK_THROWS_AS(parallel_for(100, [](int64_t i) { if (i == 57) throw Error(ErrorKind::input, "x"); }), Error);
    });
}
