// Owns the cut of evaluation text into windows, and the convention by which their tokens are scored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/token_data.h"

namespace llmc {

/// Which tokens of a window are scored. A window's first token never is: nothing predicts it.
enum class Convention {
  all,          ///< every token but the first (GPTQ's papers, with windows of 2048)
  second_half,  ///< positions past the middle (llama.cpp's perplexity tool, with windows of 512)
};
std::string_view to_string(Convention convention);

struct WindowOptions {
  int64_t length = 0;  ///< tokens in a window; 0: 512, or the model's context if that is less
  int64_t most = 0;    ///< windows to evaluate, spread evenly over the text; 0: all
  Convention convention = Convention::all;
  int64_t stride = 0;  ///< tokens from the start of a window to that of the next, which scores what is new in it, but for a first token with nothing before it; 0: no overlap
};

struct Window {
  std::span<const int32_t> tokens;
  std::span<const int32_t> byte_lengths;  ///< bytes of text per token; empty when unknown
  int64_t first_scored = 1;               ///< position from which on tokens are scored
};

/// Windows borrow the token data.
struct Windows {
  std::vector<Window> list;
  int64_t length = 0;
  int64_t stride = 0;          ///< 0: no overlap
  int64_t tokens = 0;          ///< in the whole data
  int64_t unused_tokens = 0;   ///< rests shorter than a window, and windows past `most`
  Convention convention = Convention::all;
  bool starts_with_bos = false;  ///< every window

  /// "windows of 512 tokens, no overlap, no BOS added, all but the first token scored"
  std::string description() const;
};

/// Tokens in a window, of a model with that context.
int64_t window_length(const WindowOptions& options, int64_t context);

/// Puts `bos` before each sequence, and in the place of the token that each window (of cut_windows with these) starts with: what
/// llama.cpp's perplexity tool does.
void start_windows_with(int32_t bos, TokenData& data, const WindowOptions& options, int64_t context);

/// Cuts each sequence into windows. Without overlap a rest shorter than a window is left out, unless the sequence has no whole
/// window at all. With a stride the last window ends with the sequence and may be shorter, and every token but the first is scored
/// once, behind at least length − stride tokens where there are as many; with a stride of the length every window's first token has none and is not (huggingface.co/docs/transformers/perplexity).
/// Throws Error(input) when nothing is left to score, Error(usage) when the length is over `context` or the stride over the length.
Windows cut_windows(const TokenData& data, const WindowOptions& options, int64_t context);

}  // namespace llmc
