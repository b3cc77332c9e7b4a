#!/bin/sh
# Sets up a Debian 12 machine and runs all tests; .ci/run runs this too. Stops at the first part that fails.
#
#   1. preset dev: warnings are errors, benchmarks are compiled; unit, command-line and interoperability tests
#   2. preset asan: the tests labelled core again, under the address and undefined-behaviour sanitizers
#
# The interoperability tests need a Python with the packages of tests/interop/requirements.txt. LLMC_PEERS_PYTHON may
# name one; otherwise it is made in build/peers and kept there. Without it those tests are skipped.
# The full output of every test is in build/*/Testing/Temporary/LastTest.log.
set -eu
cd "$(dirname "$0")/.."

requirements=tests/interop/requirements.txt

# Makes the Python environment $1.
install_peers() {
  python3 -m venv --clear "$1" || return 1
  # torch first and alone: another package would ask for a newer one.
  "$1/bin/pip" install "$(grep '^torch==' $requirements)" || return 1
  "$1/bin/pip" install --requirement $requirements || return 1
  cp $requirements "$1/installed.txt"
}

sh scripts/install-packages.sh
mkdir -p build

peers=${LLMC_PEERS_PYTHON:-}
if [ -z "$peers" ]; then
  if cmp -s $requirements build/peers/installed.txt || install_peers build/peers >build/peers.log 2>&1; then
    peers=$PWD/build/peers/bin/python
  else
    echo "pip could not install $requirements (build/peers.log says why); the interoperability tests will be skipped"
  fi
fi

cmake --preset dev -DLLMC_PEERS_PYTHON="$peers" -DLLMC_BENCH=ON -DCMAKE_UNITY_BUILD=ON  # sources that few change are compiled faster together
cmake --build --preset dev
ctest --preset dev --parallel "$(nproc)"

cmake --preset asan
cmake --build --preset asan --target llmc llmc_tests
ctest --preset asan --parallel "$(nproc)" --label-regex core
