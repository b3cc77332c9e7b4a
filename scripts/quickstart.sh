#!/bin/sh
# Sets up a Debian 12 machine, builds llmc, and quantizes the sample model to 4 bits. May be run again.
set -eu
cd "$(dirname "$0")/.."

sh scripts/install-packages.sh
cmake --preset release
cmake --build --preset release --target llmc

set -x
exec build/release/llmc quantize sample_models/quill-7m -o build/quill-7m-4bit --force \
  --bits 4 --group-size 32 --max-ppl-increase 3% --min-ratio 2
