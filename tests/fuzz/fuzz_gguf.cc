// Any bytes give a parsed GGUF file or an llmc::Error; so do its blocks, its tokenizer and its keys as a config.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer.h"
#include "model/gguf_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmc;
  try {
    GgufContent content = parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
    Checkpoint checkpoint;
    checkpoint.container = Container::gguf;
    checkpoint.config = nlohmann::json::object();
    for (const GgufTensor& tensor : content.tensors) checkpoint.tensors.push_back(make_gguf_tensor(tensor));
    checkpoint.gguf = std::move(content.metadata);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      try {
        checkpoint.find_file(name);
      } catch (const Error&) {
      }
    }
    try {
      adopt_gguf(checkpoint);
    } catch (const Error&) {
    }
    for (StoredTensor& tensor : checkpoint.tensors)
      if (tensor.count() < (1 << 16)) decode(tensor);
  } catch (const Error&) {
  }
  return 0;
}
