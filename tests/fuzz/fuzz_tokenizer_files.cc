// Any files beside a model's weights give a tokenizer, its GGUF keys, end tokens and a vocabulary that is cut to a text, or an
// llmc::Error. The input is those files, each behind a letter of `names`.
#include <cstddef>
#include <cstdint>
#include <map>

#include "calib/model_tokens.h"
#include "calib/vocabulary_cut.h"
#include "core/json.h"
#include "formats/gguf_tokenizer.h"
#include "tests/fuzz/small_model.h"

namespace {

using namespace llmc;

const std::map<char, const char*> names = {{'c', "config.json"}, {'t', "tokenizer.json"}, {'m', "tokenizer.model"}, {'v', "vocab.json"}, {'r', "merges.txt"}, {'k', "tokenizer_config.json"}, {'s', "special_tokens_map.json"}, {'a', "added_tokens.json"}, {'g', "generation_config.json"}, {'j', "chat_template.jinja"}};

/// Reads the text with the tokenizer of the cut vocabulary too.
void check_cut(const Model& model, const std::string& text) {
  fuzz::write("texts.txt", text);
  const VocabularyCut cut = cut_vocabulary(fuzz::scratch(), model.checkpoint().config, model.config().vocabulary, {(fuzz::scratch() / "texts.txt").string()});
  const auto before = load_tokenizer(model).value().encode(text, SpecialTokens::omit);
  std::vector<int32_t> after;
  try {
    after = Tokenizer::parse(cut.files.at("tokenizer.json"), "cut").encode(text, SpecialTokens::omit);
  } catch (const Error&) {
    std::abort();
  }
  if (before.size() != after.size()) std::abort();
  for (size_t i = 0; i < after.size(); ++i)
    if (cut.kept.at(static_cast<size_t>(after[i])) != before[i]) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Model model = fuzz::make_small_model(512);
  const std::string text = "It's the end\n";
  fuzz::clear();
  model.checkpoint().config = nlohmann::json::object();
  model.checkpoint().directory = fuzz::scratch();
  for (const std::string_view file : fuzz::split_files({reinterpret_cast<const char*>(data), size})) {
    const auto name = file.empty() ? names.end() : names.find(file[0]);
    if (name == names.end()) continue;
    fuzz::write(name->second, file.substr(1));
    if (file[0] != 'c') continue;
    fuzz::expect_no_bug([&] {
      if (auto config = parse_json(file.substr(1), "config.json"); config.is_object()) model.checkpoint().config = std::move(config);
    });
  }
  fuzz::expect_no_bug([&] {
    const auto tokenizer = load_tokenizer(model);
    if (tokenizer) fuzz::check_ids(tokenizer->encode(text, SpecialTokens::add), tokenizer->vocabulary_size());
    if (const auto begin = find_begin_token(model, tokenizer ? &*tokenizer : nullptr)) fuzz::check_ids(std::span(&*begin, 1), model.config().vocabulary);
  });
  fuzz::expect_no_bug([] { fuzz::check_ids(find_end_tokens(model), model.config().vocabulary); });
  fuzz::expect_no_bug([] {
    GgufMetadata metadata;
    add_gguf_tokenizer(metadata, model.checkpoint(), model.config().vocabulary);
  });
  fuzz::expect_no_bug([&] { check_cut(model, text); });
  return 0;
}
