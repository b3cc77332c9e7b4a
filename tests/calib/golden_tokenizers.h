// Owns where the tokenizers lie of which tests know what others answered (tests/golden/make_tokenizers.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/mapped_file.h"

using Ids = std::vector<int32_t>;
inline const std::filesystem::path golden = std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tokenizer";

inline nlohmann::json read_json(const std::filesystem::path& path) { return nlohmann::json::parse(llmc::read_text_file(path)); }
