"""Quality of GGUF files of the same mix and size: llmc's default with calibration text beside llama.cpp's with an imatrix of that text.

    LLMC_PEERS_PYTHON bench/peers/gguf_quality.py [--llmc build/release/llmc] [--mixes Q4_K_M …] [--fresh]

Both tools see the same 128 × 512 calibration tokens: llmc through `quantize --type MIX --calibration`, llama_model_quantize of
llama-cpp-python through the mean squares of every layer's inputs, which transformers computes in f32 (what llama-imatrix stores).
Each file is judged twice on as many held-out windows against the float model: by `llmc evaluate`, which decodes the blocks and
computes in f32, on windows spread over the text; and by llama.cpp itself, which also rounds activations to 8 bits, on those at its front. A row per file, as bench/results/gguf_quality.csv;
rows that the file has already are kept, unless --fresh.

Runs in the peers' Python (peers/requirements.txt) with llama-cpp-python==0.3.36 installed as well, which pip builds in some minutes.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "interop")]
sys.dont_write_bytecode = True

try:
    import llama_cpp
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print(f"gguf_quality.py: {error} (it needs bench/peers/requirements.txt and llama-cpp-python==0.3.36)", file=sys.stderr)
    sys.exit(77)
from llama_cpp_logits import Running
from result_rows import ResultRows

MODEL = ROOT / "sample_models" / "quill-7m"
CALIBRATION = ROOT / "calib" / "data" / "calibration.txt"
SAMPLES, SEQLEN = 128, 512
FILE_TYPES = {"Q4_K_M": 15, "Q4_0": 2, "Q3_K_M": 12, "Q2_K": 10, "IQ4_XS": 30}  # llama.h: llama_ftype
LINEARS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
COLUMNS = ["mix", "tool", "bytes", "kl", "perplexity", "kl_over_llama_cpp", "kl_in_llama_cpp", "perplexity_in_llama_cpp", "kl_over_llama_cpp_in_llama_cpp"]


def collect_imatrix():
    """Mean square of each input column, by GGUF name."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(MODEL)(CALIBRATION.read_text())["input_ids"][:SAMPLES * SEQLEN]
    sums = {}

    def watch(name, module):
        def add(_, inputs):
            sums[name] = sums.get(name, 0) + inputs[0].double().square().sum((0, 1))
        module.register_forward_pre_hook(add)

    for name, module in model.named_modules():
        part = LINEARS.get(name.rpartition(".")[2])
        if part:
            watch(f"blk.{name.split('.')[2]}.{part}.weight", module)
    with torch.no_grad():
        for batch in torch.tensor(ids).view(-1, 8, SEQLEN):
            model.model(batch)
    return {name: (values / len(ids)).float().numpy() for name, values in sums.items()}


def quantize_in_llama_cpp(source, target, mix, imatrix, threads):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FILE_TYPES[mix], threads
    entries = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()  # the last one ends it
    values = [(ctypes.c_float * found.size)(*found) for found in imatrix.values()]
    for entry, name, found in zip(entries, imatrix, values):
        entry.name, entry.data, entry.size = name.encode(), found, len(found)
    parameters.imatrix = entries
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeError(f"llama_model_quantize does not make {mix}")


def log_softmax(scores):
    scores = scores.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


class Judge:
    def __init__(self, llmc, windows, reference):
        ids = AutoTokenizer.from_pretrained(MODEL)((MODEL / "held_out.txt").read_text())["input_ids"]
        count = min(windows, len(ids) // SEQLEN)
        self.llmc, self.windows = llmc, np.array(ids[:count * SEQLEN]).reshape(count, SEQLEN)
        with Running(reference, SEQLEN) as running:
            self.reference = [log_softmax(running.logits(window)).astype(np.float32) for window in self.windows]

    def in_llmc(self, path):
        command = [self.llmc, "evaluate", path, "--reference", MODEL, "--data", MODEL / "held_out.txt", "--seqlen", SEQLEN, "--max-windows", len(self.windows), "--json"]
        quality = json.loads(subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout)["quality"]
        return quality["kl_mean"], quality["perplexity"]

    def in_llama_cpp(self, path):
        divergence, loss = [], []
        with Running(path, SEQLEN) as running:
            for window, reference in zip(self.windows, self.reference):
                scores = log_softmax(running.logits(window))
                divergence.append((np.exp(reference) * (reference - scores)).sum(axis=1)[:-1])
                loss.append(-scores[np.arange(SEQLEN - 1), window[1:]])
        return float(np.mean(divergence)), float(np.exp(np.mean(loss)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--mixes", nargs="+", choices=FILE_TYPES, default=list(FILE_TYPES))
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "gguf_quality.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = ResultRows(options.csv, COLUMNS, ("mix", "tool"), options.fresh)
    with tempfile.TemporaryDirectory(prefix="llmc-gguf-") as folder:
        work = pathlib.Path(folder)
        run = lambda *command: subprocess.run([str(options.llmc), *map(str, command), "--max-windows", "1", "--threads", str(options.threads), "--quiet"], check=True)
        run("convert", MODEL, "-o", work / "float.gguf", "--type", "F32")
        imatrix, judge = collect_imatrix(), Judge(options.llmc, options.windows, work / "float.gguf")
        for mix in options.mixes:
            if table.has(mix, "llmc"):
                continue
            files = {"llama.cpp": work / f"theirs-{mix}.gguf", "llmc": work / f"ours-{mix}.gguf"}
            quantize_in_llama_cpp(work / "float.gguf", files["llama.cpp"], mix, imatrix, options.threads)
            run("quantize", MODEL, "-o", files["llmc"], "--type", mix, "--calibration", CALIBRATION, "--nsamples", SAMPLES, "--seqlen", SEQLEN)
            measured = {tool: (*judge.in_llmc(path), *judge.in_llama_cpp(path)) for tool, path in files.items()}
            for tool, (kl, perplexity, kl_there, perplexity_there) in measured.items():
                theirs = measured["llama.cpp"]
                row = {"kl": kl, "perplexity": perplexity, "kl_over_llama_cpp": kl / theirs[0], "kl_in_llama_cpp": kl_there, "perplexity_in_llama_cpp": perplexity_there, "kl_over_llama_cpp_in_llama_cpp": kl_there / theirs[2]}
                table.add({"mix": mix, "tool": tool, "bytes": files[tool].stat().st_size, **{column: f"{value:.4g}" for column, value in row.items()}})
            print(mix, {tool: f"KL {figures[0]:.5f}, in llama.cpp {figures[2]:.5f}" for tool, figures in measured.items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
