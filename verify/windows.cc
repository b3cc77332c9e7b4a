#include "verify/windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace llmc {

std::string_view to_string(Convention convention) { return convention == Convention::all ? "all" : "second-half"; }

std::string Windows::description() const {
  return fmt::format("windows of {} tokens, {}, {}, {} scored", length, stride ? fmt::format("{} tokens apart", stride) : "no overlap", starts_with_bos ? "BOS first in each" : "no BOS added", stride ? "what is new in each" : convention == Convention::all ? "all but the first token" : "second half");
}

int64_t window_length(const WindowOptions& options, int64_t context) {
  constexpr int64_t usual_length = 512;
  return options.length > 0 ? options.length : std::min(usual_length, context);
}

void start_windows_with(int32_t bos, TokenData& data, const WindowOptions& options, int64_t context) {
  const auto length = static_cast<size_t>(window_length(options, context));
  for (auto& tokens : data.sequences) {
    tokens.insert(tokens.begin(), bos);
    for (size_t start = 0; start < tokens.size(); start += length) tokens[start] = bos;
  }
  for (auto& bytes : data.byte_lengths) {
    bytes.insert(bytes.begin(), 0);
    for (size_t start = 0; start < bytes.size(); start += length) bytes[start] = 0;
  }
}

Windows cut_windows(const TokenData& data, const WindowOptions& options, int64_t context) {
  if (options.length > context) throw Error(ErrorKind::usage, fmt::format("windows of {} tokens: the model's context is {}", options.length, context));
  Windows windows{.length = window_length(options, context), .stride = options.stride, .convention = options.convention};
  if (options.stride > windows.length) throw Error(ErrorKind::usage, fmt::format("windows of {} tokens {} apart would leave tokens between them out: the stride is at most the length", windows.length, options.stride));
  if (options.stride && options.convention != Convention::all) throw Error(ErrorKind::usage, fmt::format("a stride says what of a window is scored: it does not go with the convention {}", to_string(options.convention)));
  if (windows.length < 2) throw Error(ErrorKind::usage, fmt::format("windows of {} tokens: expected at least 2", windows.length));
  if (windows.length < 3 && options.convention == Convention::second_half) throw Error(ErrorKind::usage, fmt::format("windows of {} tokens: expected at least 3 for the convention {}", windows.length, to_string(options.convention)));

  std::vector<Window> all;
  for (size_t s = 0; s < data.sequences.size(); ++s) {
    const std::span<const int32_t> tokens = data.sequences[s];
    const std::span<const int32_t> bytes = data.byte_lengths.empty() ? std::span<const int32_t>() : data.byte_lengths[s];
    const auto size = static_cast<int64_t>(tokens.size());
    windows.tokens += size;
    const int64_t length = std::min(windows.length, size);
    if (length < 2) continue;
    int64_t scored = 1;  // the first position that is not scored yet
    for (int64_t start = 0; windows.stride ? scored < size : start + length <= size; start += windows.stride ? windows.stride : length) {
      const int64_t end = std::min(start + length, size);
      const auto at = static_cast<size_t>(start), count = static_cast<size_t>(end - start);
      const int64_t first = windows.stride ? std::max<int64_t>(1, scored - start) : windows.convention == Convention::all ? 1 : length / 2 + 1;
      all.push_back({tokens.subspan(at, count), bytes.empty() ? bytes : bytes.subspan(at, count), first});
      scored = end;
    }
  }
  const auto found = static_cast<int64_t>(all.size());
  const int64_t used = options.most > 0 ? std::min(options.most, found) : found;
  for (int64_t i = 0; i < used; ++i) windows.list.push_back(all[static_cast<size_t>(i * found / used)]);
  windows.unused_tokens = windows.tokens;
  int64_t scored = 0;
  for (const Window& window : windows.list) {
    const int64_t behind = static_cast<int64_t>(window.tokens.size()) - window.first_scored;
    windows.unused_tokens -= windows.stride ? behind + (window.first_scored == 1) : static_cast<int64_t>(window.tokens.size());
    scored += std::max<int64_t>(0, behind);
  }
  if (scored == 0) throw Error(ErrorKind::input, fmt::format("{}: holds {} token{}, too few to score any", data.name, windows.tokens, windows.tokens == 1 ? "" : "s"));
  return windows;
}

}  // namespace llmc
