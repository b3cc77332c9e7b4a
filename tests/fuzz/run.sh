#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and gives each SECONDS_EACH (default 60) from seeds that lie in this repository, as many at a
# time as there are cores. Long check, not part of CI: bash tests/fuzz/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
export seconds=${SECONDS_EACH:-60}
cmake --preset fuzz
fuzzers=(bundle checkpoint config gguf gguf_shards imatrix json npy pickle pytorch recipe safetensors sweep_state texts tokenizer tokenizer_files training_state weight_files)
makers=(make_codec make_gguf make_imatrix make_state make_weight)
cmake --build --preset fuzz --target "${fuzzers[@]/#/fuzz_}" "${makers[@]/%/_seeds}"
programs=build/fuzz/tests/fuzz
seeds=build/fuzz/seeds
rm -rf "$seeds"
for name in "${fuzzers[@]}"; do mkdir -p "$seeds/$name" "build/fuzz/found/$name"; done
for model in tests/golden/tiny/*/; do
  cp "$model/config.json" "$seeds/config/$(basename "$model").json"
  cp "$model/input_ids.npy" "$seeds/npy/$(basename "$model").npy"
done
printf 'version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: 0.5, exclude: [x]}\n  - {pass: quantize.rtn, scheme: W4A16-g32-linear, tensor_types: [{pattern: a, scheme: keep}]}\n' > "$seeds/recipe/two-steps.yaml"
"$programs/make_codec_seeds" "$seeds/checkpoint" "$seeds/safetensors"
"$programs/make_gguf_seeds" "$seeds/gguf" "$seeds/gguf_shards"
"$programs/make_imatrix_seeds" "$seeds/imatrix"
"$programs/make_state_seeds" "$seeds/sweep_state" "$seeds/training_state" "$seeds/bundle"
"$programs/make_weight_seeds" "$seeds/weight_files"
python3 tests/fuzz/make_file_seeds.py . "$seeds"
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

# A line for each, when it is done; the log of one that found something.
run_one() {
  local log="build/fuzz/$1.log" status=0
  "build/fuzz/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -dict=tests/fuzz/json.dict -print_final_stats=1 -artifact_prefix="build/fuzz/found/$1-" "build/fuzz/found/$1" "build/fuzz/seeds/$1" > "$log" 2>&1 || status=1
  local units added
  units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log") added=$(sed -n 's/^stat::new_units_added: *//p' "$log")
  local line="$1: ${units:-?} executed, ${added:-?} new"
  [ "$status" = 0 ] || line="$line, FAILED ($log)"$'\n'"$(tail -30 "$log")"
  printf '%s\n' "$line"
  return "$status"
}
export -f run_one
echo "== ${#fuzzers[@]} fuzzers, $seconds s each, $(nproc) at a time"
printf '%s\n' "${fuzzers[@]}" | xargs -P "$(nproc)" -I {} bash -c 'run_one {}'
