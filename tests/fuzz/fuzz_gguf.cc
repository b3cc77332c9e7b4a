// Any bytes give a parsed GGUF file or an llmc::Error; so do its blocks, its tokenizer, its keys as a config, and the model of all.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "formats/codecs/gguf_codecs.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer.h"
#include "model/gguf_model.h"
#include "model/model.h"
#include "tests/fuzz/scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  fuzz::expect_no_bug([&] {
    GgufContent content = parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
    Checkpoint checkpoint;
    checkpoint.container = Container::gguf;
    checkpoint.config = nlohmann::json::object();
    for (const GgufTensor& tensor : content.tensors) checkpoint.tensors.push_back(make_gguf_tensor(tensor));
    checkpoint.gguf = std::move(content.metadata);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fuzz::expect_no_bug([&] { checkpoint.find_file(name); });
    bool is_model = false;
    fuzz::expect_no_bug([&] { adopt_gguf(checkpoint), is_model = true; });
    for (StoredTensor& tensor : checkpoint.tensors)
      if (tensor.count() < (1 << 16)) decode(tensor);
    if (is_model) place_tensors(std::move(checkpoint), {});
  });
  return 0;
}
