// Owns content hashes for provenance.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace llmc {

/// SHA-256 as 64 hexadecimal digits.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace llmc
