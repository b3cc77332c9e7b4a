// Tests byte pair encoding with its heap against merging by hand, pair by pair.
#include "calib/byte_pair_encoding.h"

#include <map>
#include <random>

#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

using Ids = std::vector<int32_t>;

struct RandomMerges {
  json model = small_tokenizer()["model"];
  std::map<std::pair<int32_t, int32_t>, std::pair<size_t, int32_t>> table;  ///< pair → rank, id
};

/// Merges over an alphabet of three letters, so that they overlap in every way.
RandomMerges make_merges(std::mt19937& random, size_t count) {
  RandomMerges merges;
  std::vector<std::string> tokens = {"a", "b", "c"};
  json list = json::array();
  json& vocab = merges.model["vocab"];
  for (size_t rank = 0; rank < count; ++rank) {
    const std::string left = tokens[random() % tokens.size()];
    const std::string right = tokens[random() % tokens.size()];
    if (!vocab.contains(left + right)) {
      vocab[left + right] = vocab.size();
      tokens.push_back(left + right);
    }
    list.push_back(json::array({left, right}));
    merges.table[{vocab[left], vocab[right]}] = {rank, vocab[left + right]};
  }
  merges.model["merges"] = list;
  return merges;
}

Ids encode_plainly(const RandomMerges& merges, const std::string& word) {
  Ids ids(word.begin(), word.end());
  while (true) {
    size_t best_rank = SIZE_MAX, best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.table.find({ids[i], ids[i + 1]});
      if (merge != merges.table.end() && merge->second.first < best_rank) best_rank = merge->second.first, best = i;
    }
    if (best_rank == SIZE_MAX) return ids;
    ids[best] = merges.table.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

}  // namespace

TEST_CASE("byte pair encoding: the heap merges as one does by hand") {
  std::mt19937 random(3);
  for (const size_t count : {0u, 1u, 5u, 40u, 200u}) {
    const RandomMerges merges = make_merges(random, count);
    const BytePairEncoding model = BytePairEncoding::parse(merges.model, "model");
    for (const size_t size : {1u, 2u, 3u, 31u, 33u, 255u}) {
      for (int repetition = 0; repetition < 20; ++repetition) {
        std::string word;
        while (word.size() < size) word += "abc"[random() % 3];
        Ids ids = {-7};  // what is there stays
        model.encode(word, ids);
        Ids expected = encode_plainly(merges, word);
        expected.insert(expected.begin(), -7);
        REQUIRE(ids == expected);
      }
    }
  }
}

TEST_CASE("byte pair encoding: ignore_merges takes whole words first") {
  json model = small_tokenizer()["model"];
  model["vocab"]["cafÃ©"] = 259;  // café, which no merge builds
  model["vocab"]["東"] = 260;      // not spelled in the byte alphabet, so never found
  const auto encode = [&](const std::string& word) {
    Ids ids;
    BytePairEncoding::parse(model, "model").encode(word, ids);
    return ids;
  };
  CHECK(encode("café") == Ids{'c', 'a', 'f', 0xC3, 0xA9});
  model["ignore_merges"] = true;
  CHECK(encode("café") == Ids{259});
  CHECK(encode("cafés") == Ids{'c', 'a', 'f', 0xC3, 0xA9, 's'});
  CHECK(encode("東") == Ids{0xE6, 0x9D, 0xB1});
  CHECK(encode("the") == Ids{257});
}

TEST_CASE("byte alphabet: every byte has its character") {
  CHECK(spell_bytes("Hi there\n") == "HiĠthereĊ");
  for (int byte = 0; byte < 256; ++byte) {
    const std::string raw(1, static_cast<char>(byte));
    CHECK(find_spelled_bytes(spell_bytes(raw)) == raw);
  }
  for (const char* token : {" ", "東", "\u00AD", "\u0144", "aĠ\n"}) CHECK(!find_spelled_bytes(token));
}
