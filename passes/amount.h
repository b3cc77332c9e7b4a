// Owns how much of something is to be removed, as people write it: "25%", 0.25, 3, or which ones.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace llmc {

/// A share, a count, or a list of numbers; exactly one is set.
struct Amount {
  double share = 0;
  int64_t count = 0;
  std::vector<int64_t> list;

  /// How many of `total` that is, a share to the nearest whole number.
  int64_t of(int64_t total) const;
};
/// "25%" and 0.25 are shares, 3 and "3" counts; "3,5" and [3, 5] lists, which must not name one twice. Throws Error(usage)
/// naming `what`.
Amount read_amount(const nlohmann::json& value, const std::string& what);
nlohmann::json to_json(const Amount& amount);

}  // namespace llmc
