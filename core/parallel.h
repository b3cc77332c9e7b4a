// Owns the use of several cores. Work is cut into the same pieces for any number of threads, so results never depend on it.
#pragma once

#include <cstdint>
#include <functional>

namespace llmc {

/// Calls body(0) … body(count-1), in any order and on any thread. Of the exceptions the one of the
/// lowest index is rethrown here, so that errors are the same for any number of threads.
void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

/// Cuts [0, count) into pieces of `piece` (the last may be shorter) and calls body(first, last) for each.
void parallel_pieces(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>& body);

/// Runs `body` with at most `threads` threads for everything that is called from it; 0 means all cores.
void with_threads(int threads, const std::function<void()>& body);

}  // namespace llmc
