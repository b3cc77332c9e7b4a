// Owns running a test on every instruction set.
#pragma once

#include <functional>

#include <hwy/highway.h>

#include "tests/catch.h"

namespace llmc::test {

/// Runs `body` once for each instruction set that this processor and this build have.
inline void for_each_target(const std::function<void()>& body) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    CAPTURE(hwy::TargetName(target));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace llmc::test
