#include "calib/token_decoder.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/byte_alphabet.h"
#include "calib/utf8.h"
#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

TokenDecoder TokenDecoder::parse(const json* decoder, const std::string& where) {
  if (!decoder) return {};
  FieldReader fields(*decoder, where);
  const std::string type = fields.get_string("type");
  if (type == "Sequence") {
    const json* parts = fields.find("decoders");
    fields.finish();
    if (!parts || !parts->is_array() || parts->size() != 1) throw Error(ErrorKind::input, where + ": a Sequence that is not of one decoder is not supported");
    return parse(&parts->front(), where);
  }
  if (type != "ByteLevel") throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.find_bool(key);  // of no effect here
  fields.finish();
  return {};
}

std::string TokenDecoder::bytes_of(std::string_view token) const {
  auto bytes = find_spelled_bytes(token);
  return bytes ? std::move(*bytes) : std::string(token);
}

std::string TokenDecoder::finish(std::string_view bytes) const { return replace_invalid_utf8(bytes); }

}  // namespace llmc
