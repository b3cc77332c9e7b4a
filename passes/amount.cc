#include "passes/amount.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/units.h"

namespace llmc {

using nlohmann::json;

namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& found) {
  throw Error(ErrorKind::usage, fmt::format("{}: expected a share between 0 and 1 such as 25%, a count from 1 such as 2, or a list such as 3,5; found {}", what, found));
}

bool is_count(const json& value) { return value.is_number_integer() && (value.is_number_unsigned() ? value.get<uint64_t>() < INT32_MAX : value.get<int64_t>() >= 0 && value.get<int64_t>() < INT32_MAX); }

int64_t read_number(const std::string& text, const std::string& what) {
  constexpr size_t most_digits = 9;
  if (text.empty() || text.size() > most_digits || text.find_first_not_of("0123456789") != std::string::npos) refuse(what, "'" + text + "'");
  return std::stoll(text);
}

Amount read_text(const std::string& text, const std::string& what) {
  Amount amount;
  if (text.find(',') != std::string::npos) {
    for (size_t start = 0; start <= text.size();) {
      const size_t end = std::min(text.find(',', start), text.size());
      if (end > start || end < text.size()) amount.list.push_back(read_number(text.substr(start, end - start), what));  // "3," is a list of one
      start = end + 1;
    }
  } else if (text.find_first_of("%.") != std::string::npos) {
    amount.share = parse_share(text, what);
  } else {
    amount.count = read_number(text, what);
  }
  return amount;
}

}  // namespace

int64_t Amount::of(int64_t total) const { return !list.empty() ? static_cast<int64_t>(list.size()) : count > 0 ? count : std::llround(share * static_cast<double>(total)); }

Amount read_amount(const json& value, const std::string& what) {
  Amount amount;
  if (value.is_string()) amount = read_text(value.get<std::string>(), what);
  else if (value.is_number_float()) amount.share = value.get<double>();
  else if (is_count(value)) amount.count = value.get<int64_t>();
  else if (value.is_array() && std::ranges::all_of(value, is_count)) amount.list = value.get<std::vector<int64_t>>();
  else refuse(what, value.dump());
  const bool is_share = amount.share > 0 && amount.share < 1;
  if (amount.list.empty() && amount.count == 0 && !is_share) refuse(what, value.dump());
  if (std::set(amount.list.begin(), amount.list.end()).size() != amount.list.size()) throw Error(ErrorKind::usage, fmt::format("{}: {} names one twice", what, value.dump()));
  std::ranges::sort(amount.list);
  return amount;
}

json to_json(const Amount& amount) { return !amount.list.empty() ? json(amount.list) : amount.count > 0 ? json(amount.count) : json(amount.share); }

}  // namespace llmc
