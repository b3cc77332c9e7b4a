#include "core/parallel.h"

#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace llmc {
namespace {

/// What ThreadSanitizer cannot see in oneTBB, whose library is not instrumented: that all before a `release` is over when an `acquire`
/// returns. Empty in other builds.
class Handover {
 public:
#ifdef __SANITIZE_THREAD__
  void release() { __tsan_release(this); }
  void acquire() { __tsan_acquire(this); }
#else
  void release() {}
  void acquire() {}
#endif
};

}  // namespace

void parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 1) {
    if (count == 1) body(0);
    return;
  }
  // Of several exceptions the one of the lowest index counts, whichever came first: what is after it is left out, what is
  // before it still runs.
  std::atomic<int64_t> failed = count;
  std::exception_ptr problem;
  std::mutex mutex;
  Handover begun, ended;
  const auto run = [&](int64_t i) {
    if (i > failed) return;
    try {
      body(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (i < failed) failed = i, problem = std::current_exception();
    }
  };
  begun.release();
  // Isolated: a thread that waits here must not pick up a piece of an outer loop and grow its stack and memory.
  tbb::this_task_arena::isolate([&] {
    tbb::parallel_for(tbb::blocked_range<int64_t>(0, count, 1),
                      [&](const tbb::blocked_range<int64_t>& range) {
                        begun.acquire();
                        for (int64_t i = range.begin(); i < range.end(); ++i) run(i);
                        ended.release();
                      },
                      tbb::simple_partitioner{});
  });
  ended.acquire();
  if (problem) std::rethrow_exception(problem);
}

void parallel_pieces(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>& body) {
  parallel_for((count + piece - 1) / piece, [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

void with_threads(int threads, const std::function<void()>& body) {
  const int count = threads > 0 ? threads : tbb::info::default_concurrency();
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(count));
  tbb::task_arena arena(count);
  Handover begun, ended;  // another thread may run it
  begun.release();
  arena.execute([&] {
    begun.acquire();
    body();
    ended.release();
  });
  ended.acquire();
}

}  // namespace llmc
