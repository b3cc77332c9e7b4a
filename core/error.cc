#include "core/error.h"

#include <fmt/format.h>

namespace llmc {

void Problems::throw_if_any(ErrorKind kind, const std::string& headline) const {
  constexpr size_t most = 20;
  if (problems_.empty()) return;
  if (problems_.size() == 1) throw Error(kind, fmt::format("{}: {}", headline, problems_.front()));
  std::string text = fmt::format("{}: {} problems", headline, problems_.size());
  for (size_t i = 0; i < problems_.size() && i < most; ++i) text += "\n  - " + problems_[i];
  if (problems_.size() > most) text += fmt::format("\n  … and {} more", problems_.size() - most);
  throw Error(kind, text);
}

}  // namespace llmc
