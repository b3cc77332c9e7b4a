#!/usr/bin/env python3
"""Compares the search for GGUF blocks with ggml's quantizer on normal, heavy-tailed and real rows, with and without importance.

    python test_gguf_blocks.py --encoder build/dev/tests/llmc_encode_gguf --model sample_models/quill-7m [--ggml libggml-base.so]

Both encode the same rows; the gguf package decodes both. Prints the ratio of the weighted squared errors, ours over ggml's, for
each type; every one must be below 1. Exit code: 0, 1, or 77 when gguf, safetensors or llama-cpp-python is not installed.
"""

import argparse
import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
sys.dont_write_bytecode = True

try:
    import gguf
    import numpy as np
    import torch
    from safetensors import safe_open
    import make_gguf
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

TYPES = [name for name in make_gguf.TYPES if name not in ("F16", "BF16")]


def find_ggml():
    found = importlib.util.find_spec("llama_cpp")
    library = found and Path(found.origin).parent / "lib/libggml-base.so"
    return library if library and library.exists() else None


def rows_of(model):
    random = np.random.default_rng(5)
    with safe_open(model / "model.safetensors", "pt") as file:
        names = [name for name in sorted(file.keys()) if name.startswith("model.layers.3.") and "proj" in name]
        real = np.concatenate([file.get_tensor(name).to(torch.float32).numpy().reshape(-1, 256)[:64] for name in names])
    return {"normal": (0.02 * random.standard_normal((128, 1024))).astype(np.float32),
            "heavy": (0.02 * random.standard_t(3, (128, 1024))).astype(np.float32), "real": np.ascontiguousarray(real)}


def encode(encoder, name, rows, importance, folder):
    np.save(folder / "rows.npy", rows)
    if importance is not None:
        np.save(folder / "importance.npy", importance)
    subprocess.run([encoder, name, folder / "rows.npy", "-" if importance is None else folder / "importance.npy", folder / "out"], check=True)
    return np.fromfile(folder / "out", np.uint8).reshape(rows.shape[0], -1)


def error_of(encoded, name, rows, importance):
    back = gguf.dequantize(encoded, gguf.GGMLQuantizationType[name]).astype(np.float64)
    return float(((1.0 if importance is None else importance) * (back - rows) ** 2).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--ggml", type=Path, default=find_ggml())
    arguments = parser.parse_args()
    if arguments.ggml is None:
        print("skipped: llama-cpp-python is not installed (see tests/interop/requirements.txt)")
        return 77
    library = ctypes.CDLL(str(arguments.ggml))
    data, random, worst = rows_of(arguments.model), np.random.default_rng(6), 0.0
    print(f"{'':8}" + "".join(f"{kind:>10}{'weighted':>10}" for kind in data))
    with tempfile.TemporaryDirectory() as folder:
        for name in TYPES:
            ratios = []
            for rows in data.values():
                for importance in (None, np.exp(2 * random.standard_normal(rows.shape[1])).astype(np.float32)):
                    ours = encode(arguments.encoder, name, rows, importance, Path(folder))
                    theirs = make_gguf.encode(library, name, rows, importance)
                    ratios.append(error_of(ours, name, rows, importance) / error_of(theirs, name, rows, importance))
            print(f"{name:8}" + "".join(f"{ratio:10.3f}" for ratio in ratios))
            worst = max(worst, *ratios)
    print(f"worst: {worst:.3f}")
    return 0 if worst < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
