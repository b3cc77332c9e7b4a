#include "core/error.h"

#include <fmt/format.h>

#include "core/printable.h"

namespace llmc {

Error::Error(ErrorKind kind, const std::string& message) : std::runtime_error(printable(message)), kind_(kind) {}

constexpr size_t most_shown_problems = 20;  // the others are counted

bool Problems::is_full() const { return count_ >= most_shown_problems; }

void Problems::add(std::string problem) {
  if (++count_ <= most_shown_problems) problems_.push_back(std::move(problem));
}

void Problems::throw_if_any(ErrorKind kind, const std::string& headline) const {
  if (problems_.empty()) return;
  if (count_ == 1) throw Error(kind, fmt::format("{}: {}", headline, problems_.front()));
  std::string text = fmt::format("{}: {} problems", headline, count_);
  for (const std::string& problem : problems_) text += "\n  - " + problem;
  if (count_ > most_shown_problems) text += fmt::format("\n  … and {} more", count_ - most_shown_problems);
  throw Error(kind, text);
}

}  // namespace llmc
