#include "verify/windows.h"

#include <numeric>

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

TokenData make_data(std::initializer_list<int> lengths) {
  TokenData data{.name = "d"};
  for (int length : lengths) {
    data.sequences.emplace_back(static_cast<size_t>(length));
    std::iota(data.sequences.back().begin(), data.sequences.back().end(), 0);
  }
  return data;
}

}  // namespace

TEST_CASE("windows do not overlap, do not cross sequences, and leave short rests out", "[windows]") {
  const TokenData data = make_data({25, 10, 3, 1});
  const Windows windows = cut_windows(data, {.length = 10}, 64);
  REQUIRE(windows.list.size() == 4);  // two of 10, one of 10, and a sequence of 3 that has no whole window
  CHECK(windows.list[1].tokens.front() == 10);
  CHECK(windows.list[3].tokens.size() == 3);
  CHECK(windows.tokens == 39);
  CHECK(windows.unused_tokens == 6);
}

TEST_CASE("fewer windows are spread over the text", "[windows]") {
  const TokenData data = make_data({100});
  const Windows windows = cut_windows(data, {.length = 10, .most = 3}, 64);
  REQUIRE(windows.list.size() == 3);
  CHECK(windows.list[0].tokens.front() == 0);
  CHECK(windows.list[1].tokens.front() == 30);
  CHECK(windows.list[2].tokens.front() == 60);
}

TEST_CASE("conventions say which positions count", "[windows]") {
  const TokenData data = make_data({512});
  CHECK(cut_windows(data, {}, 1024).length == 512);
  CHECK(cut_windows(data, {}, 256).length == 256);
  const Windows all = cut_windows(data, {}, 1024);
  CHECK(all.list[0].first_scored == 1);
  const Windows half = cut_windows(data, {.convention = Convention::second_half}, 1024);
  CHECK(512 - half.list[0].first_scored == 255);  // as llama.cpp: n_ctx − n_ctx/2 − 1
  CHECK_THAT(half.description(), Contains("512 tokens") && Contains("second half"));
}

TEST_CASE("with a stride windows overlap and score every token but the first once", "[windows]") {
  const TokenData data = make_data({25, 4, 1});
  const Windows windows = cut_windows(data, {.length = 10, .stride = 4}, 64);
  REQUIRE(windows.list.size() == 6);  // from 0, 4, 8, 12, 16 on, and a short sequence
  int32_t next = 1;
  for (size_t w = 0; w < 5; ++w) {
    const Window& window = windows.list[w];
    CHECK(window.tokens.front() == static_cast<int32_t>(4 * w));
    CHECK(window.tokens[static_cast<size_t>(window.first_scored)] == next);
    next = window.tokens.back() + 1;
  }
  CHECK(next == 25);
  CHECK(windows.list[4].tokens.size() == 9);  // ends with the sequence
  CHECK(windows.list[5].first_scored == 1);
  CHECK(windows.unused_tokens == 1);
  CHECK_THAT(windows.description(), Contains("windows of 10 tokens, 4 tokens apart") && Contains("what is new in each scored"));
  const Windows apart = cut_windows(make_data({25}), {.length = 10, .stride = 10}, 64);  // the first of each has nothing before it
  REQUIRE(apart.list.size() == 3);
  CHECK(apart.list[1].first_scored == 1);
  CHECK(apart.list[2].tokens.size() == 5);
  CHECK_THROWS_WITH(cut_windows(data, {.length = 10, .stride = 11}, 64), Contains("11 apart"));
  CHECK_THROWS_WITH(cut_windows(data, {.length = 10, .convention = Convention::second_half, .stride = 4}, 64), Contains("second-half"));
}

TEST_CASE("BOS goes before the data and takes the place of each window's first token", "[windows]") {
  TokenData data = make_data({25});
  data.byte_lengths = {std::vector<int32_t>(25, 2)};
  const WindowOptions options{.length = 10, .convention = Convention::second_half};
  start_windows_with(99, data, options, 64);
  const Windows windows = cut_windows(data, options, 64);
  REQUIRE(windows.list.size() == 2);
  CHECK(windows.tokens == 26);
  CHECK(windows.list[0].tokens[0] == 99);
  CHECK(windows.list[0].tokens[1] == 0);  // the data's first
  CHECK(windows.list[1].tokens[0] == 99);
  CHECK(windows.list[1].tokens[1] == 10);  // 9 gave way
  CHECK(windows.list[1].byte_lengths[0] == 0);
  CHECK(windows.list[1].byte_lengths[1] == 2);
}

TEST_CASE("what cannot be scored is refused", "[windows]") {
  CHECK_THROWS_WITH(cut_windows(make_data({}), {}, 64), Contains("holds 0 tokens"));
  CHECK_THROWS_WITH(cut_windows(make_data({1, 1}), {}, 64), Contains("too few to score"));
  CHECK_THROWS_WITH(cut_windows(make_data({2}), {.convention = Convention::second_half}, 64), Contains("too few"));
  CHECK_THROWS_WITH(cut_windows(make_data({100}), {.length = 65}, 64), Contains("windows of 65 tokens: the model's context is 64"));
  CHECK_THROWS_WITH(cut_windows(make_data({100}), {.length = 1}, 64), Contains("at least 2"));
  CHECK_THROWS_WITH(cut_windows(make_data({100}), {.length = 2, .convention = Convention::second_half}, 64), Contains("windows of 2 tokens: expected at least 3 for the convention second-half"));
  CHECK(cut_windows(make_data({100}), {.length = 3, .convention = Convention::second_half}, 64).list.front().first_scored == 2);
}
