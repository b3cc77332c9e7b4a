#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and gives each SECONDS_EACH (default 60) from seeds that lie in this repository.
# Long check, not part of CI: bash tests/fuzz/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${SECONDS_EACH:-60}
cmake --preset fuzz
fuzzers=(fuzz_safetensors fuzz_checkpoint fuzz_config fuzz_recipe fuzz_npy fuzz_tokenizer fuzz_gguf fuzz_imatrix fuzz_pytorch fuzz_pickle)
cmake --build --preset fuzz --target "${fuzzers[@]}" make_codec_seeds make_gguf_seeds make_imatrix_seeds
seeds=build/fuzz/seeds
rm -rf "$seeds" && mkdir -p "$seeds"/{safetensors,checkpoint,config,recipe,npy,tokenizer,gguf,imatrix,pytorch,pickle}
for model in tests/golden/tiny/*/; do
  cp "$model/config.json" "$seeds/config/$(basename "$model").json"
  cp "$model/input_ids.npy" "$seeds/npy/$(basename "$model").npy"
done
printf 'version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: 0.5, exclude: [x]}\n  - {pass: quantize.rtn, scheme: W4A16-g32-linear, tensor_types: [{pattern: a, scheme: keep}]}\n' > "$seeds/recipe/two-steps.yaml"
build/fuzz/tests/fuzz/make_codec_seeds "$seeds/checkpoint" "$seeds/safetensors"
build/fuzz/tests/fuzz/make_gguf_seeds "$seeds/gguf"
build/fuzz/tests/fuzz/make_imatrix_seeds "$seeds/imatrix"
for file in tests/golden/pytorch/views.bin tests/golden/pytorch/*/*.bin; do
  name=$(basename "$(dirname "$file")")-$(basename "$file")
  [ "$(stat -c %s "$file")" -gt 50000 ] || cp "$file" "$seeds/pytorch/$name"
  python3 -c 'import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); open(sys.argv[2], "wb").write(z.read(next(n for n in z.namelist() if n.endswith("data.pkl"))))' "$file" "$seeds/pickle/$name"
done
for folder in tests/golden/tokenizer/*/; do
  for file in "$folder"tokenizer.json "$folder"tokenizer.model; do
    [ ! -e "$file" ] || cp "$file" "$seeds/tokenizer/$(basename "$folder")${file##*tokenizer}"
  done
done
printf '#version: 0.2\na b\n\304\240 ab\n\0{"a": 0, "b": 1, "\304\240": 2, "ab": 3, "\304\240ab": 4, "<|endoftext|>": 5}' > "$seeds/tokenizer/byte-level-files"
for fuzzer in "${fuzzers[@]}"; do
  name=${fuzzer#fuzz_}
  mkdir -p "build/fuzz/found/$name"
  echo "== $fuzzer, $seconds s"
  "build/fuzz/tests/fuzz/$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" "build/fuzz/found/$name" "$seeds/$name" 2> "build/fuzz/$name.log" || { tail -30 "build/fuzz/$name.log"; exit 1; }
  grep -E "number_of_executed_units|new_units" "build/fuzz/$name.log"
done
