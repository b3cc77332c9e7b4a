#include "core/parallel.h"

#include "core/error.h"
#include "tests/catch.h"

namespace llmc {

using Catch::Matchers::Contains;

TEST_CASE("Of several exceptions the one of the lowest index is rethrown, however the threads run") {
  for (int threads : {1, 2, 7})
    for (int round = 0; round < 50; ++round)
      with_threads(threads, [&] {
        CHECK_THROWS_WITH(parallel_for(64, [](int64_t i) {
                            volatile int64_t work = i == 5 ? 20'000 : 0;  // the lowest is also the latest
                            while (work > 0) work = work - 1;
                            if (i % 11 == 5) throw Error(ErrorKind::input, "at " + std::to_string(i) + ".");
                          }),
                          Contains("at 5."));
      });
}

}  // namespace llmc
