"""Owns what the command-line tests share: running llmc, tiny checkpoints, and reading what llmc writes.

Every test file is a program: `python3 tests/cli/test_X.py LLMC SOURCE_DIR [unittest arguments]`. It needs Python 3.11
and nothing else. Exit 77 means that nothing could be tested here.
"""

import array
import atexit
import functools
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from collections import namedtuple
from pathlib import Path

LLMC = None    # the program under test
SOURCE = None  # the project's folder

COVERED = {}   # (command, flag) → the test that shows what the flag does

Result = namedtuple("Result", "code out err")


def main(*needed):
    """Runs the tests of the program that calls. `needed`: paths without which there is nothing to test."""
    global LLMC, SOURCE
    LLMC, SOURCE = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    for path in needed:
        if not Path(path() if callable(path) else path).exists():
            print(f"skipped: {path() if callable(path) else path} is not here")
            sys.exit(77)
    unittest.main(module="__main__", argv=[sys.argv[0]] + sys.argv[3:], buffer=False)


def covers(commands, *flags):
    """Marks a test as the one that shows what these flags do; test_flags.py holds the marks against --help."""
    def mark(test):
        for command in commands.split():
            for flag in flags:
                COVERED.setdefault((command, flag), []).append(test.__qualname__)
        return test
    return mark


def long_under_sanitizers(test):
    """Marks a test, or a class of them, that takes minutes under sanitizers: there only the tests labelled long run it
    (tests/CMakeLists.txt)."""
    return unittest.skipIf(os.environ.get("LLMC_SKIP_LONG"), "under sanitizers it is one of the tests labelled long")(test)


COMPRESSING = "quantize prune compress"
EVERY = COMPRESSING + " convert distill evaluate export generate imatrix inspect list completions manual"


def run(*args, **options):
    done = subprocess.run([str(LLMC)] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@functools.cache
def workshop():
    """A folder for what several tests read; gone when the program ends."""
    path = Path(tempfile.mkdtemp(prefix="llmc-cli-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="llmc-cli-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def ok(self, *args, code=0, **options):
        result = run(*args, **options)
        self.assertEqual(result.code, code, f"llmc {' '.join(map(str, args))}\n{result.out}\n{result.err}")
        return result

    def json(self, *args, **options):
        return json.loads(self.ok(*args, "--json", **options).out)

    def refused(self, code, words, *args, **options):
        """The command fails with this code, says all of `words` on stderr, and puts nothing on stdout."""
        result = run(*args, **options)
        told = f"llmc {' '.join(map(str, args))}\nexit {result.code}\n{result.out}\n{result.err}"
        self.assertEqual(result.code, code, told)
        self.assertIn("llmc: error: ", result.err, told)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(str(word), result.err, told)
        self.assertEqual(result.out, "", told)
        return result

    def assert_nothing_left(self, folder, *expected):
        """The folder holds exactly these names: no output, no staging folder."""
        self.assertEqual(sorted(os.listdir(folder)), sorted(expected))


# Tensors and safetensors files

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}


def count(shape):
    product = 1
    for dimension in shape:
        product *= dimension
    return product


def encode(dtype, values):
    """Floats as stored; to BF16 by cutting, so pass values that survive it where that matters."""
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    raw = array.array("f", values).tobytes()
    return raw if dtype == "F32" else b"".join(raw[i + 2:i + 4] for i in range(0, len(raw), 4))


class Tensor(namedtuple("Tensor", "dtype shape raw")):
    def values(self):
        if self.dtype == "BF16":
            return array.array("f", b"".join(b"\0\0" + self.raw[i:i + 2] for i in range(0, len(self.raw), 2)))
        if self.dtype == "F16":
            return array.array("f", struct.unpack(f"<{len(self.raw) // 2}e", self.raw))
        return array.array({"F32": "f", "F64": "d", "I8": "b", "U8": "B", "I32": "i", "I64": "q", "U16": "H"}[self.dtype], self.raw)

    def rows(self):
        values, width = self.values(), self.shape[-1]
        return [values[i:i + width] for i in range(0, len(values), width)]

    def elements(self):
        """The stored bytes of each element."""
        size = SIZES[self.dtype]
        return [self.raw[i:i + size] for i in range(0, len(self.raw), size)]


def floats(dtype, shape, values):
    return Tensor(dtype, list(shape), encode(dtype, values))


def write_file(path, header, data):
    """A safetensors file with any header, right or wrong: a dict, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def lay_out(tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(tensor.raw)]}
        data += tensor.raw
    return header, data


def write_safetensors(path, tensors):
    write_file(path, *lay_out(tensors))


def read_header(path):
    raw = Path(path).read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def read_safetensors(path):
    """Tensors by name, and the metadata, of a file or of the directory that holds model.safetensors."""
    path = Path(path)
    header, data = read_header(path / "model.safetensors" if path.is_dir() else path)
    metadata = header.pop("__metadata__", {})
    return {name: Tensor(row["dtype"], row["shape"], data[slice(*row["data_offsets"])]) for name, row in header.items()}, metadata


# GGUF files

GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_FLOATS = {0: "F32", 1: "F16", 30: "BF16"}


def read_gguf(path):
    """Keys with their values, and tensors by name (of a block type: dtype is ggml's number), in the order of the file."""
    raw, at = Path(path).read_bytes(), 0

    def take(code):
        nonlocal at
        value, = struct.unpack_from("<" + code, raw, at)
        at += struct.calcsize("<" + code)
        return value

    def text():
        nonlocal at
        size = take("Q")
        at += size
        return raw[at - size:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, size = take("I"), take("Q")
            return [value(inner) for _ in range(size)]
        return take(GGUF_SCALARS[kind])

    assert (take("4s"), take("I")) == (b"GGUF", 3)
    tensors, keys = take("Q"), take("Q")
    metadata = {text(): value(take("I")) for _ in range(keys)}
    rows = []
    for _ in range(tensors):
        name = text()
        shape = [take("Q") for _ in range(take("I"))][::-1]
        rows.append((name, shape, take("I"), take("Q")))
    alignment = metadata.get("general.alignment", 32)
    data = raw[-(-at // alignment) * alignment:]
    ends = [row[3] for row in rows[1:]] + [len(data)]
    result = {}
    for (name, shape, kind, offset), end in zip(rows, ends):
        dtype = GGUF_FLOATS.get(kind, kind)
        size = count(shape) * SIZES[dtype] if dtype in SIZES else end - offset
        result[name] = Tensor(dtype, shape, data[offset:offset + size])
    return metadata, result


def write_gguf(path, metadata, tensors):
    """Keys map to (type, value); tensors are floats."""
    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def pack(kind, value):
        if kind == 8:
            return text(value)
        if kind == 9:
            inner, values = value
            return struct.pack("<IQ", inner, len(values)) + b"".join(pack(inner, v) for v in values)
        return struct.pack("<" + GGUF_SCALARS[kind], value)

    numbers = {name: number for number, name in GGUF_FLOATS.items()}
    out, data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)), b""
    for key, (kind, value) in metadata.items():
        out += text(key) + struct.pack("<I", kind) + pack(kind, value)
    for name, tensor in tensors.items():
        out += text(name) + struct.pack("<I", len(tensor.shape)) + b"".join(struct.pack("<Q", n) for n in reversed(tensor.shape)) + struct.pack("<IQ", numbers[tensor.dtype], len(data))
        data += tensor.raw + bytes(-len(tensor.raw) % 32)
    Path(path).write_bytes(out + bytes(-len(out) % 32) + data)
    return path


# Checkpoints

def llama_config(**changes):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": True, "dtype": "float32"}
    config.update(changes)
    return {key: value for key, value in config.items() if value is not ...}


def llama_shapes(config):
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden]}
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        shapes.update({block + "input_layernorm.weight": [hidden], block + "self_attn.q_proj.weight": [hidden, hidden],
                       block + "self_attn.k_proj.weight": [kv, hidden], block + "self_attn.v_proj.weight": [kv, hidden],
                       block + "self_attn.o_proj.weight": [hidden, hidden], block + "post_attention_layernorm.weight": [hidden],
                       block + "mlp.gate_proj.weight": [ffn, hidden], block + "mlp.up_proj.weight": [ffn, hidden],
                       block + "mlp.down_proj.weight": [hidden, ffn]})
    shapes["model.norm.weight"] = [hidden]
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    return shapes


def random_tensors(shapes, dtype="F32", seed=1):
    source = random.Random(seed)
    return {name: floats(dtype, shape, [source.gauss(0, 0.3) if len(shape) == 2 else 1 + source.uniform(-0.2, 0.2) for _ in range(count(shape))])
            for name, shape in shapes.items()}


TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_checkpoint(folder, config, tensors):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def make_llama(folder, dtype="F32", seed=1, **changes):
    config = llama_config(**{"dtype": TORCH[dtype], **changes})
    return write_checkpoint(folder, config, random_tensors(llama_shapes(config), dtype, seed))


@functools.cache
def llama(dtype="F32", **changes):
    """A tiny Llama that several tests read. Nobody writes to it."""
    name = "-".join([dtype] + [f"{key}={value}" for key, value in sorted(changes.items())])
    return make_llama(workshop() / name, dtype, **changes)


def tiny(name):
    """A tiny checkpoint made by transformers; see tests/golden/README.md."""
    return SOURCE / "tests/golden/tiny" / name


def quill():
    return SOURCE / "sample_models/quill-7m"


def write_ids(path, ids, code="H"):
    Path(path).write_bytes(array.array(code, ids).tobytes())
    return path


@functools.cache
def ids():
    """256 token ids below 64: four windows of the tiny models' context."""
    source = random.Random(7)
    return write_ids(workshop() / "ids.u16", [source.randrange(64) for _ in range(256)])


def read_npy(path):
    """Shape and values of a .npy file of one of the types that occur here."""
    raw = Path(path).read_bytes()
    assert raw[:6] == b"\x93NUMPY"
    size, start = (struct.unpack("<H", raw[8:10])[0], 10) if raw[6] == 1 else (struct.unpack("<I", raw[8:12])[0], 12)
    header = raw[start:start + size].decode()
    code = {"<f4": "f", "<f8": "d", "<i4": "i", "<u2": "H"}[re.search(r"'descr': '([^']*)'", header)[1]]
    shape = [int(n) for n in re.search(r"'shape': \(([^)]*)\)", header)[1].replace(" ", "").split(",") if n]
    return shape, array.array(code, raw[start + size:])


def write_npy(path, rows):
    """Token ids [len(rows), len(rows[0])]."""
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}".ljust(117) + "\n"
    Path(path).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"".join(array.array("H", row).tobytes() for row in rows))
    return path


# What llmc writes, read without llmc

def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x):
    """Rounded to nearest, ties to even."""
    bits, = struct.unpack("<I", struct.pack("<f", x))
    return struct.unpack("<f", struct.pack("<I", (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000))[0]


def unpack_bits(words, bits, number):
    """`number` codes from 32-bit words, least significant bit first; code + 2^(bits−1) was stored."""
    stream = int.from_bytes(b"".join((word & 0xffffffff).to_bytes(4, "little") for word in words), "little")
    return [(stream >> bits * i & (1 << bits) - 1) - (1 << bits - 1) for i in range(number)]


Codes = namedtuple("Codes", "codes scales zeros scale_dtype")  # lists of rows; scales and zeros one per row, group, or tensor


def read_codes(tensors, module, weights):
    """Codes of a module of a compressed-tensors artifact; `weights` is what config.json says about them."""
    bits, scale = weights["num_bits"], tensors[module + ".weight_scale"]
    zeros = None
    if bits == 8:
        codes = [list(row) for row in tensors[module + ".weight"].rows()]
        if not weights["symmetric"]:
            zeros = [list(row) for row in tensors[module + ".weight_zero_point"].rows()]
    else:
        rows, cols = tensors[module + ".weight_shape"].values()
        codes = [unpack_bits(row, bits, cols) for row in tensors[module + ".weight_packed"].rows()]
        assert len(codes) == rows
        if not weights["symmetric"]:
            stored = tensors[module + ".weight_zero_point"]
            if stored.dtype == "I8":
                zeros = [list(stored.values())]
            else:
                columns = [unpack_bits(column, bits, scale.shape[0]) for column in zip(*stored.rows())]
                zeros = [list(row) for row in zip(*columns)]
    return Codes(codes, [list(row) for row in scale.rows()], zeros, scale.dtype)


def dequantize(codes):
    """(code − zero point) · scale, each product rounded once to f32."""
    values = []
    for r, row in enumerate(codes.codes):
        scales = codes.scales[min(r, len(codes.scales) - 1)]
        zeros = codes.zeros[min(r, len(codes.zeros) - 1)] if codes.zeros else [0] * len(scales)
        span = len(row) // len(scales)
        values.append([f32((q - zeros[c // span]) * scales[c // span]) for c, q in enumerate(row)])
    return values


def round_to_nearest(rows, bits, linear, granularity, group=None, scale_dtype="F32"):
    """The grid of DESIGN.md § 5 in plain Python: what llmc quantize with --observer minmax must give."""
    lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1
    width = len(rows[0])
    span = group if granularity == "group" else width
    store = {"F32": f32, "BF16": bf16}[scale_dtype]

    def grid(values):
        if not linear:
            widest = max(abs(x) for x in values)
            return (store(f32(widest / highest)) if widest else 1.0), 0
        low, high = min(min(values), 0.0), max(max(values), 0.0)
        scale = store(f32(f32(high - low) / (2 ** bits - 1))) if high > low else 1.0
        return scale, max(lowest, min(highest, round(f32(lowest - f32(low / scale)))))

    whole = grid([x for row in rows for x in row]) if granularity == "tensor" else None
    codes, scales, zeros = [], [], []
    for row in rows:
        grids = [whole or grid(row[start:start + span]) for start in range(0, width, span)]
        codes.append([max(lowest, min(highest, round(f32(x / grids[c // span][0])) + grids[c // span][1])) for c, x in enumerate(row)])
        scales.append([s for s, _ in grids])
        zeros.append([z for _, z in grids])
    if whole:
        scales, zeros = [[whole[0]]], [[whole[1]]]
    return Codes(codes, scales, zeros if linear else None, scale_dtype)


def treatments(report):
    return {tensor["name"]: tensor["treatment"] for tensor in report["tensors"]}


def without_clocks(report):
    """A report without what differs from run to run."""
    report = json.loads(json.dumps(report))
    report["artifact"].pop("path")
    for step in report["steps"]:
        step.pop("seconds"), step.pop("peak_memory_bytes")
    for speed in [report["sparse_products"], *report["sparse_products"]["tensors"]] if report["sparse_products"] else []:
        for clock in ("dense_seconds", "sparse_seconds", "ratio"):
            speed.pop(clock, None)
    return report
