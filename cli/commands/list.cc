// llmc list: what this llmc knows.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/table.h"
#include "core/json.h"
#include "formats/checkpoint.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/packed_codecs.h"
#include "formats/gguf_mix.h"
#include "formats/scheme.h"
#include "model/architecture.h"
#include "passes/pass.h"

namespace llmc {
namespace {

using nlohmann::json;

json list_all() {
  json result = {{"architectures", json::array()}, {"schemes", json::array()}, {"passes", json::array()}, {"formats", json::array()}, {"codecs", json::array()}, {"mixes", json::array()}};
  for (const Architecture& architecture : architecture_list()) result["architectures"].push_back({{"name", architecture.model_type}, {"summary", architecture.causal_class}});
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string name = fmt::format("W{}A16", bits);
    result["schemes"].push_back({{"name", name}, {"summary", "means " + to_string(parse_scheme(name))}});
  }
  for (const Preset& preset : preset_list()) result["schemes"].push_back({{"name", preset.name}, {"summary", fmt::format("means {}: {}", to_string(preset.scheme), preset.summary)}});
  result["schemes"].push_back({{"name", "codebook2 … codebook256"}, {"summary", fmt::format("such as codebook16, means {}: that many shared values by k-means", to_string(make_codebook_scheme(16)))}});
  for (const PassInfo& pass : pass_list()) result["passes"].push_back({{"name", pass.name}, {"summary", pass.summary}});
  for (const ContainerInfo& container : container_list()) result["formats"].push_back({{"name", container.name}, {"summary", container.summary}});
  for (const auto codecs : {packed_codecs(), compressed_tensors_codecs()})
    for (const Codec& codec : codecs) result["codecs"].push_back({{"name", codec.name}, {"summary", codec.summary}});
  for (const GgufMix& mix : gguf_mix_list()) result["mixes"].push_back({{"name", mix.name}, {"summary", fmt::format("{} where no rule says otherwise", get_info(mix.type).name)}});
  return result;
}

int run_list(const CommandContext& context) {
  const json all = list_all();
  if (context.common.json) {
    fmt::print("{}", format_json(all));
    return exit_done;
  }
  for (const char* section : {"architectures", "schemes", "passes", "formats", "codecs", "mixes"}) {
    Table table({{section, Align::left}, {"", Align::left}});
    for (const json& row : all[section]) table.add({"  " + row["name"].get<std::string>(), row["summary"].get<std::string>()});
    fmt::print("{}\n", table.text());
  }
  return exit_done;
}

}  // namespace

CommandFunction add_list(CLI::App& app) {
  app.description("Lists the architectures, schemes, passes, formats, codecs and mixes of GGUF types that this llmc knows.");
  app.footer("Schemes take modifiers: W4A16-g32-linear is 4 bits in groups of 32 with zero points; also symmetric, tensor, channel.");
  return run_list;
}

}  // namespace llmc
