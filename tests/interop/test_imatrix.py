#!/usr/bin/env python3
"""Compares llmc's importance matrices with llama.cpp: names, shapes and values as the gguf package reads them, against the inputs of
llama.cpp's own products on the same tokens; and the bytes that both make of one matrix's values.

    python test_imatrix.py --llmc build/dev/llmc --model sample_models/quill-7m --tiny tests/golden/tiny

Exit code: 0 all agree, 1 something differs, 77 gguf or llama-cpp-python is not installed.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

try:
    import gguf
    import numpy as np
    import llama_cpp  # noqa: F401
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

from llama_cpp_inputs import input_squares

# Largest |difference| of two sums over the larger. Both compute in f32 from the same F32 file, with products summed in other orders;
# quill-7m's differed by 6e-6 when this was written, the tiny Llamas' by 1e-6. llama.cpp runs GPT-2 with a GELU from a table of F16,
# 11 bits: 9e-4.
BOUND, GELU_BOUND = 1e-4, 1e-2


def run(*args):
    done = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def read_imatrix(path, dataset, chunks, chunk_size):
    """Sums and count by weight, as llama.cpp's common/imatrix-loader.cpp takes them."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field(key).contents()
    found = (field("general.type"), field("imatrix.datasets"), field("imatrix.chunk_count"), field("imatrix.chunk_size"))
    require(found == ("imatrix", [dataset], chunks, chunk_size), f"{path}: keys say {found}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    entries = {}
    for name, tensor in tensors.items():
        require(tensor.tensor_type == gguf.GGMLQuantizationType.F32, f"{path}: {name} is no F32")
        weight, _, part = name.rpartition(".")
        require(part in ("in_sum2", "counts"), f"{path}: {name} is part of no entry")
        if part == "in_sum2":
            counts = tensors[weight + ".counts"]
            require(list(counts.shape) == [1] and len(tensor.shape) == 1, f"{path}: {weight} has shapes {tensor.shape} and {counts.shape}")
            entries[weight] = (np.array(tensor.data, dtype=np.float64), float(counts.data[0]))
    require(len(tensors) == 2 * len(entries), f"{path}: an entry lacks its sums")
    return entries


def compare_inputs(llmc, model, work, bound):
    """Every entry against the inputs of llama.cpp's products."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    samples = np.random.default_rng(3).integers(0, vocabulary, (3, 29)).astype(np.int32)
    np.save(work / "ids.npy", samples)
    run(llmc, "imatrix", model, "-o", work / "i.gguf", "--calibration", work / "ids.npy", "--nsamples", 3, "--seqlen", 29, "--calibration-precision", "f32", "--force")
    entries = read_imatrix(work / "i.gguf", str(work / "ids.npy"), 3, 29)
    run(llmc, "convert", model, "-o", work / "f32.gguf", "--type", "F32", "--eval-data", work / "ids.npy", "--eval-seqlen", 29, "--force")
    watched = input_squares(work / "f32.gguf", samples)
    require(set(entries) == set(watched), f"entries {sorted(set(entries) ^ set(watched))} are not in both")
    worst = 0.0
    for name, (sums, count) in entries.items():
        expected, rows = watched[name]
        require(count == rows == samples.size, f"{name}: {count} tokens, llama.cpp saw {rows}")
        require(sums.shape == expected.shape, f"{name}: {sums.shape} columns, llama.cpp saw {expected.shape}")
        difference = float((np.abs(sums - expected) / np.maximum(expected, 1e-30)).max())
        require(difference <= bound, f"{name}: sums differ from llama.cpp's by {difference:.1e} of their size, over {bound:.0e}")
        worst = max(worst, difference)
    return len(entries), worst


def write_old(path, entries):
    """A .dat file of one call, as llama.cpp's save_imatrix_legacy lays it out."""
    out = struct.pack("<i", len(entries))
    for name, (sums, count) in sorted(entries.items()):
        means = (sums.astype(np.float32) / np.float32(count)).astype("<f4")
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, len(means)) + means.tobytes()
    path.write_bytes(out + struct.pack("<ii", 3, 4) + b"test")


def compare_bytes(llmc, model, work):
    """The blocks that llmc makes by a text, by its own file of that text, and by that in the old layout are the same."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    np.save(work / "text.npy", np.random.default_rng(4).integers(0, vocabulary, (4, 64)).astype(np.int32))
    samples = ["--nsamples", 4, "--seqlen", 64]
    run(llmc, "imatrix", model, "-o", work / "new.gguf", "--calibration", work / "text.npy", *samples)
    write_old(work / "old.dat", read_imatrix(work / "new.gguf", str(work / "text.npy"), 4, 64))
    made = []
    for name, flags in (("text", ["--rounding", "weighted", "--calibration", work / "text.npy", *samples]), ("new", ["--imatrix", work / "new.gguf"]), ("old", ["--imatrix", work / "old.dat"])):
        run(llmc, "quantize", model, "-o", work / f"{name}-q4.gguf", "--type", "Q4_K_M", *flags, "--max-windows", 1)
        made.append({tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(work / f"{name}-q4.gguf").tensors})
    for other in made[1:]:
        different = [name for name in made[0] if made[0][name] != other[name]]
        require(not different, f"{different} differ")
    return len(made[0])


def main():
    parser = argparse.ArgumentParser()
    for name in ("--llmc", "--model", "--tiny"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    failures = 0

    def check(what, test):
        nonlocal failures
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"{what:24} {test(Path(folder))}")
            except AssertionError as problem:
                print(f"FAILED {what}: {problem}")
                failures += 1

    for model in (options.model, *(options.tiny / name for name in ("llama-gqa-tied", "llama-mha-untied", "llama-bias", "gpt2-tied"))):
        bound = GELU_BOUND if "gpt2" in model.name else BOUND
        check(model.name, lambda work: "{} entries, sums within {:.1e} of llama.cpp's (bound {:.0e})".format(*compare_inputs(options.llmc, model, work, bound), bound))
    check("one matrix, three ways", lambda work: f"{compare_bytes(options.llmc, options.model, work)} tensors the same")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
