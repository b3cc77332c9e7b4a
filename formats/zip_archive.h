// Owns reading ZIP archives whose entries are stored as they are, such as torch.save writes: names, and where their bytes lie.
// Format: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 and 4.5.3 (ZIP64).
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

namespace llmc {

/// Entries by name, as views into `bytes`: nothing is unpacked or copied. The archive is one file from its first byte to its
/// last; its central directory lies right before its end records, agrees with the local headers, and gives every entry bytes
/// of its own. Compressed and encrypted entries are refused, so an archive cannot become larger than it is. Checksums are not
/// looked at. Throws Error(input) naming `where` and the entry.
std::map<std::string, std::span<const std::byte>> parse_stored_zip(std::span<const std::byte> bytes, const std::string& where);

}  // namespace llmc
