#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and gives each SECONDS_EACH (default 60) from seeds that lie in this repository.
# Long check, not part of CI: bash tests/fuzz/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${SECONDS_EACH:-60}
cmake --preset fuzz
fuzzers=(fuzz_safetensors fuzz_config fuzz_recipe fuzz_npy fuzz_tokenizer)
cmake --build --preset fuzz --target "${fuzzers[@]}"
seeds=build/fuzz/seeds
rm -rf "$seeds" && mkdir -p "$seeds"/{safetensors,config,recipe,npy,tokenizer}
for model in tests/golden/tiny/*/; do
  cp "$model/config.json" "$seeds/config/$(basename "$model").json"
  cp "$model/input_ids.npy" "$seeds/npy/$(basename "$model").npy"
done
printf 'version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: 0.5, exclude: [x]}\n  - {pass: quantize.rtn, scheme: W4A16-g32-linear, tensor_types: [{pattern: a, scheme: keep}]}\n' > "$seeds/recipe/two-steps.yaml"
cp tests/golden/tokenizer/*/tokenizer.json "$seeds/tokenizer/" 2>/dev/null || true
python3 - "$seeds/safetensors" <<'PYTHON'
import json, struct, sys
def put(name, header, data):
    text = json.dumps(header).encode()
    open(f"{sys.argv[1]}/{name}", "wb").write(struct.pack("<Q", len(text)) + text + data)
put("plain", {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
rows = {"w": {"codec": "bitmask", "dtype": "F16", "shape": [2, 4]}, "q": {"codec": "packed-int", "dtype": "F32", "shape": [1, 8], "scheme": "W4A16-channel-linear"}}
put("packed", {"__metadata__": {"llmc.format": "llmc-packed", "llmc.version": "1", "llmc.tensors": json.dumps(rows)},
               "q:scales": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}, "w:values": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
               "q:codes": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}, "q:zero_points": {"dtype": "U8", "shape": [1], "data_offsets": [12, 13]},
               "w:mask": {"dtype": "U8", "shape": [1], "data_offsets": [13, 14]}}, b"\0\0\x80?" + bytes(9) + b"\x03")
PYTHON
python3 - "$seeds/safetensors" <<'PYTHON'
# One file for each way to store positions: a 2 x 4 matrix with the elements 1 and 6, over floats and over 4-bit codes.
import json, struct, sys
U8 = lambda *numbers: ("U8", [len(numbers)], bytes(numbers))
ways = {"gaps": {"kept": ("U32", [1], b"\2\0\0\0"), "gaps": U8(1, 0b01110)}, "coo": {"skips": U8(1, 4)}, "csr": {"row_counts": U8(1, 1), "skips": U8(1, 2)},
        "n-of-m": {"group": U8(1, 4), "places": U8(0b1001)}, "blocks": {"block": U8(1, 1), "block_mask": U8(0x42)}, "bitmask": {"mask": U8(0x42)}}
for way, parts in ways.items():
    for codes in (False, True):
        if codes:
            entry = {"codec": way + "+packed-codes", "dtype": "BF16", "shape": [2, 4], "pruned": True, "scheme": "W4A16-channel-symmetric"}
            own = {**parts, "codes": U8(0x9a), "scale_base": ("BF16", [1], b"\x80\x3f"), "scale_steps": U8(1, 2)}
        else:
            entry, own = {"codec": way, "dtype": "BF16", "shape": [2, 4], "pruned": True}, {**parts, "values": ("BF16", [2], b"\x80\x3f\0\x40")}
        header, data = {"__metadata__": {"llmc.format": "llmc-packed", "llmc.version": "1", "llmc.tensors": json.dumps({"w": entry})}}, b""
        for part, (dtype, shape, content) in sorted(own.items()):
            header["w:" + part] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header).encode()
        open(f"{sys.argv[1]}/{way}-{'codes' if codes else 'floats'}", "wb").write(struct.pack("<Q", len(text)) + text + data)
PYTHON
for fuzzer in "${fuzzers[@]}"; do
  name=${fuzzer#fuzz_}
  mkdir -p "build/fuzz/found/$name"
  echo "== $fuzzer, $seconds s"
  "build/fuzz/tests/fuzz/$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" "build/fuzz/found/$name" "$seeds/$name" 2> "build/fuzz/$name.log" || { tail -30 "build/fuzz/$name.log"; exit 1; }
  grep -E "number_of_executed_units|new_units" "build/fuzz/$name.log"
done
