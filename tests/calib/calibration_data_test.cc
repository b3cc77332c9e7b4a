// Tests calibration samples: what is drawn from which files, what is held out, what is refused.
#include "calib/calibration_data.h"

#include <fstream>
#include <numeric>
#include <set>

#include "calib/bundled_text.h"
#include "calib/token_overlap.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "tests/calib/small_tokenizer.h"
#include "tests/support.h"

using namespace llmc;

namespace {

using Rows = std::vector<std::vector<int32_t>>;

/// Documents of these sizes whose tokens count on from 0.
TokenData numbered(const std::vector<int64_t>& sizes) {
  TokenData data{.name = "d", .sequences = {}, .byte_lengths = {}, .sha256 = "s"};
  int32_t next = 0;
  for (int64_t size : sizes) {
    data.sequences.emplace_back(size);
    std::iota(data.sequences.back().begin(), data.sequences.back().end(), next);
    data.byte_lengths.emplace_back(size, 1);
    next += static_cast<int32_t>(size);
  }
  return data;
}

CalibrationData draw(const TokenData& data, const CalibrationOptions& options, int64_t seqlen, uint64_t seed = 0) { return draw_samples(std::span(&data, 1), options, seqlen, seed); }

class Files {
 public:
  std::string write(const std::string& name, const std::string& bytes) {
    const std::string path = (directory_.path() / name).string();
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

 private:
  test::TemporaryDirectory directory_;
};

std::string repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text + std::to_string(i) + " ";
  return result;
}

}  // namespace

TEST_CASE("calibration samples: packed ones are whole pieces of the joined documents, in order, none twice") {
  const TokenData data = numbered({7, 0, 30, 1, 27});  // 65 tokens: 13 pieces of 5
  const CalibrationData drawn = draw(data, {.samples = 6}, 5);
  REQUIRE(drawn.samples.size() == 6);
  int32_t last = -1;
  for (const auto& sample : drawn.samples) {
    REQUIRE(sample.size() == 5);
    CHECK(sample.front() % 5 == 0);
    CHECK(sample.front() > last);
    for (size_t i = 1; i < sample.size(); ++i) CHECK(sample[i] == sample[i - 1] + 1);
    last = sample.front();
  }
  CHECK(drawn.warnings.empty());
  CHECK(drawn.tokens() == 30);
  CHECK(drawn.sources.at(0).documents == 5);
  CHECK(drawn.sources.at(0).empty_documents == 1);
  CHECK(drawn.sources.at(0).tokens == 65);
}

TEST_CASE("calibration samples: the seed decides, and every piece can be drawn") {
  const TokenData data = numbered({1000});
  const CalibrationOptions options{.samples = 10};
  CHECK(draw(data, options, 10, 1).samples == draw(data, options, 10, 1).samples);
  CHECK(draw(data, options, 10, 1).samples != draw(data, options, 10, 2).samples);
  std::set<int32_t> starts;
  for (uint64_t seed = 0; seed < 100; ++seed)
    for (const auto& sample : draw(data, options, 10, seed).samples) starts.insert(sample.front());
  CHECK(starts.size() == 100);  // 1000 draws of 100 pieces: one stays out with probability 100 · 0.9^100 < 0.003, and the seeds are fixed
}

TEST_CASE("calibration samples: a document each, long ones cut where the seed says") {
  const TokenData data = numbered({3, 0, 100, 1, 5});
  const CalibrationOptions options{.samples = 9, .packing = Packing::document};
  std::set<int32_t> starts;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const CalibrationData drawn = draw(data, options, 5, seed);
    REQUIRE(drawn.samples.size() == 4);
    CHECK(drawn.samples[0] == data.sequences[0]);
    REQUIRE(drawn.samples[1].size() == 5);
    for (size_t i = 1; i < 5; ++i) CHECK(drawn.samples[1][i] == drawn.samples[1][i - 1] + 1);
    CHECK(drawn.samples[1].front() >= 3);
    CHECK(drawn.samples[1].back() < 103);
    CHECK(drawn.samples[2] == data.sequences[3]);
    CHECK(drawn.samples[3] == data.sequences[4]);
    REQUIRE(drawn.warnings.size() == 1);
    CHECK(drawn.warnings[0] == "calibration: the data hold 4 samples, 9 were asked for; all of them are used");
    starts.insert(drawn.samples[1].front());
  }
  CHECK(starts.size() > 20);  // 40 draws of 96 places
  CHECK(draw(data, {.samples = 2, .packing = Packing::document}, 5).samples.size() == 2);
}

TEST_CASE("calibration samples: too few tokens") {
  check_contains(message_of([] { draw(numbered({4}), {}, 5); }), "calibration data: expected at least 5 tokens, one sample, found 4");
  check_contains(message_of([] { draw(numbered({0, 0}), {.packing = Packing::document}, 5); }), "no document holds a token");
  const CalibrationData one = draw(numbered({5}), {.samples = 3}, 5);
  CHECK(one.samples == Rows{{0, 1, 2, 3, 4}});
  CHECK(one.warnings.size() == 1);
}

TEST_CASE("held out: disjoint, complete, at the end, at least a fifth, and both parts have something") {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{10}, {2}, {1, 1}, {100, 1}, {1, 100}, {3, 0, 4, 0}, {10, 10, 10, 10, 10, 10}, {0, 9}, {33, 31, 1, 255}}) {
    const TokenData data = numbered(sizes);
    const SplitData split = hold_out_end(data);
    INFO("documents: " << sizes.size() << ", first of " << sizes[0]);
    std::vector<int32_t> joined;
    int64_t held_out = 0;
    for (const auto& sequence : split.calibration.sequences) joined.insert(joined.end(), sequence.begin(), sequence.end());
    CHECK(!joined.empty());
    for (const auto& sequence : split.held_out.sequences) {
      joined.insert(joined.end(), sequence.begin(), sequence.end());
      held_out += static_cast<int64_t>(sequence.size());
    }
    std::vector<int32_t> all(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})));
    std::iota(all.begin(), all.end(), 0);
    CHECK(joined == all);
    CHECK(held_out > 0);
    if (sizes[0] < 50) CHECK(held_out >= static_cast<int64_t>(held_out_share * static_cast<double>(all.size())));  // but not of {100, 1}, whose first document stays whole
    for (const TokenData* part : {&split.calibration, &split.held_out}) {
      REQUIRE(part->sequences.size() == part->byte_lengths.size());
      for (size_t i = 0; i < part->sequences.size(); ++i) CHECK(part->sequences[i].size() == part->byte_lengths[i].size());
    }
    CHECK(split.held_out.name == "d (its last 20 %)");
  }
  CHECK(hold_out_end(numbered({10, 10, 10, 10, 10, 10})).held_out.sequences.size() == 2);
  CHECK(hold_out_end(numbered({1000})).held_out.sequences.at(0).size() == 200);
  check_contains(message_of([] { hold_out_end(numbered({1, 0})); }), "d: 1 tokens cannot be split");
}

TEST_CASE("calibration files: several, in order, and the evaluation data kept apart") {
  Files files;
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  const std::string text = files.write("a.txt", repeat("alpha ", 100)), lines = files.write("b.jsonl", "{\"text\": \"one\"}\n\n{\"id\": 3, \"text\": \"\"}\r\n{\"text\": \"two\"}");
  const CalibrationRequest request{.options = {.files = {text, lines}, .samples = 3, .seqlen = 16}, .tokenizer = &tokenizer, .vocabulary = 260, .context = 64, .seed = 0};
  const TokenData other = tokenize_text("something else", "e", tokenizer, 260);

  const SeparatedData apart = load_calibration(request, other);
  CHECK(apart.evaluation.sequences == other.sequences);
  REQUIRE(apart.calibration.sources.size() == 2);
  CHECK(apart.calibration.sources[0].name == text);
  CHECK(apart.calibration.sources[0].held_out_tokens == 0);
  CHECK(apart.calibration.sources[1].documents == 3);
  CHECK(apart.calibration.sources[1].empty_documents == 1);
  CHECK(apart.calibration.sources[1].tokens == 6);
  CHECK(apart.calibration.warnings.empty());
  CHECK(to_json(apart.calibration).at("sources").at(0).at("sha256").get<std::string>().size() == 64);

  const TokenData same = load_token_data(files.write("copy.txt", read_text_file(text)), {.tokenizer = &tokenizer}, 260);  // another name, the same bytes
  CalibrationRequest all = request;
  all.options.samples = 1000;
  const SeparatedData split = load_calibration(all, same);
  const auto& held_out = split.evaluation.sequences.at(0);
  CHECK(held_out.size() == same.sequences.at(0).size() / 5);
  CHECK(std::equal(held_out.rbegin(), held_out.rend(), same.sequences.at(0).rbegin()));
  CHECK(split.calibration.sources[0].held_out_tokens == std::ssize(held_out));
  CHECK(split.calibration.sources[0].tokens + std::ssize(held_out) == std::ssize(same.sequences.at(0)));
  CHECK(split.calibration.warnings.size() == 2);
  check_contains(split.calibration.warnings[1], text + " is also what the result is judged on");
  std::vector<std::span<const int32_t>> judged(split.evaluation.sequences.begin(), split.evaluation.sequences.end());
  CHECK(find_overlap(split.calibration.samples, judged).shared == 0);  // the numbers make every run of the text a different one

  CalibrationRequest twice = request;
  twice.options.files.push_back(files.write("c.txt", read_text_file(text)));
  check_contains(message_of([&] { load_calibration(twice, other); }), "c.txt holds the same bytes as " + text);
}

TEST_CASE("calibration files: what is damaged is named with its line") {
  Files files;
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  const auto refusal = [&](const std::string& name, const std::string& bytes, const std::string& field = "text") {
    const CalibrationRequest request{.options = {.files = {files.write(name, bytes)}, .field = field, .seqlen = 4}, .tokenizer = &tokenizer, .vocabulary = 260, .context = 64, .seed = 0};
    return message_of([&] { load_calibration(request, TokenData{.name = "e"}); });
  };
  check_contains(refusal("a.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n"), "a.jsonl:2: not valid JSON");
  check_contains(refusal("a.jsonl", "{\"text\": \"fine\"}\n\n{\"txt\": \"x\"}\n"), "a.jsonl:3: field \"text\" is missing");
  check_contains(refusal("a.jsonl", "{\"text\": \"fine\"}\n", "body"), "a.jsonl:1: field \"body\" is missing");
  check_contains(refusal("a.jsonl", "{\"text\": 7}"), "a.jsonl:1: field \"text\": expected a string, found 7");
  check_contains(refusal("a.jsonl", "[\"text\"]"), "a.jsonl:1: expected an object, found array");
  check_contains(refusal("a.jsonl", "{\"text\": \"a\xff\"}"), "a.jsonl:1: not valid JSON");
  check_contains(refusal("a.jsonl", "\n\n"), "a.jsonl: holds no tokens");
  check_contains(refusal("a.txt", "ab\xff"), "a.txt: byte 2 (0xFF) is not valid UTF-8");
  check_contains(refusal("a.txt", ""), "a.txt: holds no tokens");
  check_contains(refusal("a.txt", "abc"), "expected at least 4 tokens, one sample, found 3");
  check_contains(refusal("a.u16", std::string("\x04\x01\x00", 3)), "a.u16: expected a multiple of 2 bytes, found 3");
  check_contains(refusal("a.u16", std::string("\x04\x01", 2)), "expected a token id from 0 to 259, found 260");
}

TEST_CASE("calibration files: none means the bundled text, which needs a tokenizer") {
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  CalibrationRequest request{.options = {.samples = 2}, .tokenizer = &tokenizer, .vocabulary = 260, .context = 64, .seed = 0};
  const SeparatedData data = load_calibration(request, TokenData{.name = "e"});
  CHECK(data.calibration.sources.at(0).name == "bundled calibration text");
  CHECK(data.calibration.seqlen == 64);  // the context, being less than 512
  request.options.seqlen = 65;
  CHECK_THROWS_AS(load_calibration(request, TokenData{.name = "e"}), Error);
  request.options.seqlen = 0;
  request.tokenizer = nullptr;
  check_contains(message_of([&] { load_calibration(request, TokenData{.name = "e"}); }), "needs a tokenizer.json");
}

TEST_CASE("calibration text: the file's bytes, and no 8 words of the evaluation text") {
  CHECK(bundled_calibration_text() == read_text_file(std::string(LLMC_SOURCE_DIR) + "/calib/data/calibration.txt"));
  const auto runs = [](std::string_view text) {
    std::vector<std::string> words(1);
    for (char c : text) {
      if (std::isalnum(static_cast<unsigned char>(c))) words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      else if (!words.back().empty()) words.emplace_back();
    }
    std::set<std::string> result;
    for (size_t i = 0; i + 8 <= words.size(); ++i) result.insert(std::accumulate(words.begin() + static_cast<std::ptrdiff_t>(i), words.begin() + static_cast<std::ptrdiff_t>(i + 8), std::string(), [](std::string a, const std::string& b) { return std::move(a) + b + " "; }));
    return result;
  };
  const std::set<std::string> judged = runs(bundled_text());
  REQUIRE(judged.size() > 20000);
  const std::set<std::string> calibrated = runs(bundled_calibration_text());
  CHECK(std::ranges::count_if(calibrated, [&](const std::string& run) { return judged.contains(run); }) == 0);
}

TEST_CASE("overlap: agrees with comparing every run") {
  Random random(3, "overlap");
  const auto tokens = [&](size_t size) {
    std::vector<int32_t> result(size);
    for (int32_t& token : result) token = static_cast<int32_t>(random.below(3));
    return result;
  };
  Rows samples = {tokens(200), tokens(31), tokens(0), tokens(32), tokens(100)};
  Rows windows = {tokens(150), tokens(31), tokens(33), samples[3], tokens(1)};
  std::copy_n(samples[0].begin() + 20, 60, windows[0].begin() + 40);   // 29 runs
  std::copy_n(samples[4].begin(), 32, windows[0].begin() + 118);       // 1 run, at both ends
  int64_t runs = 0, shared = 0;
  for (const auto& window : windows) {
    for (size_t at = 0; at + overlap_run <= window.size(); ++at) {
      ++runs;
      bool found = false;
      for (const auto& sample : samples)
        for (size_t i = 0; i + overlap_run <= sample.size(); ++i) found = found || std::equal(window.begin() + static_cast<std::ptrdiff_t>(at), window.begin() + static_cast<std::ptrdiff_t>(at + overlap_run), sample.begin() + static_cast<std::ptrdiff_t>(i));
      shared += found;
    }
  }
  const TokenOverlap overlap = find_overlap(samples, std::vector<std::span<const int32_t>>(windows.begin(), windows.end()));
  CHECK(overlap.runs == runs);
  CHECK(overlap.shared == shared);
  CHECK(shared >= 29 + 1 + 1);  // those planted; what stands beside one may fit by chance
  CHECK(find_overlap({}, {}).share() == 0);
}

TEST_CASE("calibration options: written and read back, unknown and impossible ones refused") {
  const CalibrationOptions options{.files = {"a", "b"}, .field = "body", .samples = 5, .seqlen = 9, .packing = Packing::document};
  CHECK(to_json(read_calibration_options(to_json(options), "x")) == to_json(options));
  CHECK(to_json(read_calibration_options(nlohmann::json::object(), "x")) == to_json(CalibrationOptions{}));
  check_contains(message_of([] { read_calibration_options({{"samples", 3}}, "x"); }), "samples");
  CHECK(message_of([] { read_calibration_options({{"nsamples", -1}}, "x"); }) == "x: nsamples: expected a number from 0, found -1");
  CHECK(message_of([] { read_calibration_options({{"seqlen", -1}}, "x"); }) == "x: seqlen: expected a number from 0, found -1");
  check_contains(message_of([] { read_calibration_options({{"files", "a"}}, "x"); }), "files");
  CHECK_THROWS_AS(read_calibration_options({{"packing", "dense"}}, "x"), Error);
}
