#!/usr/bin/env python3
"""Makes gguf/<TYPE>.bytes.npy (uint8 [blocks, bytes of a block]) and gguf/<TYPE>.values.npy (float32 [blocks, weights of a
block]): blocks and what the `gguf` package (0.19.0) reads in them.

    python make_gguf.py --ggml PATH/libggml-base.so [--out DIR]

Also gguf/search.rows.npy (float32 [rows, in]), gguf/search.importance.npy (float32 [in]) and gguf/search.errors.json: the sum of
w (x - y)^2 over what ggml's quantizer makes of the rows, {type: [without, with importance]}.

Half of the blocks are random bytes, their f16 fields made finite; the other half is what ggml's own quantizer makes of normal
and of heavy-tailed rows. `libggml-base.so` is part of llama-cpp-python's wheel (0.3.36).
"""

import argparse
import ctypes
import json
from pathlib import Path

import gguf
import numpy as np

TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
         "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]
F16_FIELDS = {"F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64]}
BLOCKS = 6  # of each kind


def random_blocks(name, count, random):
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for field in F16_FIELDS.get(name, []):
        high = blocks[:, field + 1]
        blocks[:, field + 1] = np.where(high & 0x7c == 0x7c, high & 0xbf, high)
    if name == "BF16":
        blocks[:, 1] &= 0xbf
    return blocks


def rows(count, width, random):
    normal = 0.02 * random.standard_normal((count, width))
    heavy = 0.02 * random.standard_t(3, (count, width))
    return np.where(np.arange(count)[:, None] % 2 == 0, normal, heavy).astype(np.float32)


def encode(library, name, values, importance=None):
    """Rows of whole blocks -> bytes [rows, bytes of a row], by ggml_quantize_chunk."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros((values.shape[0], values.shape[1] // block * size), np.uint8)
    pointer = lambda array: None if array is None else array.ctypes.data_as(ctypes.c_void_p)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk(ctypes.c_int(kind), pointer(values), pointer(out), ctypes.c_int64(0), ctypes.c_int64(values.shape[0]), ctypes.c_int64(values.shape[1]), pointer(importance))
    return out


def search_errors(library, values, importance):
    errors = {}
    for name in TYPES[2:]:
        kind = gguf.GGMLQuantizationType[name]
        errors[name] = []
        for weights in (None, importance):
            back = gguf.dequantize(encode(library, name, values, weights), kind).astype(np.float64)
            errors[name].append(float(((1.0 if weights is None else weights) * (back - values) ** 2).sum()))
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ggml", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "gguf")
    arguments = parser.parse_args()
    library = ctypes.CDLL(str(arguments.ggml))
    arguments.out.mkdir(exist_ok=True)
    for name in TYPES:
        random = np.random.default_rng(20256)
        kind = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = 128 if block == 1 else BLOCKS
        blocks = np.concatenate([random_blocks(name, count, random), encode(library, name, rows(count, block, random)).reshape(count, size)])
        values = gguf.dequantize(blocks.reshape(-1) if block == 1 else blocks, kind).astype(np.float32).reshape(2 * count, block)
        assert np.isfinite(values).all(), name
        np.save(arguments.out / f"{name}.bytes.npy", blocks)
        np.save(arguments.out / f"{name}.values.npy", values)

    random = np.random.default_rng(20257)
    values, importance = rows(16, 512, random), np.exp(1.5 * random.standard_normal(512)).astype(np.float32)
    np.save(arguments.out / "search.rows.npy", values)
    np.save(arguments.out / "search.importance.npy", importance)
    (arguments.out / "search.errors.json").write_text(json.dumps(search_errors(library, values, importance), indent=1) + "\n")


if __name__ == "__main__":
    main()
