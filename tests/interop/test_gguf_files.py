#!/usr/bin/env python3
"""Compares llmc's GGUF files with the gguf package and with llama.cpp: keys, tensors, and the logits of the model that runs.

    python test_gguf_files.py --llmc build/dev/llmc --model sample_models/quill-7m --tiny tests/golden/tiny [--text FILE]

With --text only the perplexities of the model's F32 and F16 files on all of that text are compared.
Exit code: 0 all agree, 1 something differs, 77 gguf or llama-cpp-python is not installed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

try:
    import gguf
    import numpy as np
    import torch
    from safetensors import safe_open
    import llama_cpp
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

from llama_cpp_logits import Running, compare_logits, run

# Largest |difference| of logits over the largest |logit|. llama.cpp rounds the inputs of a product to the type of the weights
# before it multiplies: to 24, 11 or 8 bits of significand, for block types to 8 bits with a scale for 32 (or 256) of them. Over
# quill-7m's 8 layers the differences were 1e-6, 3e-4, 3e-3, 9e-3 and 2e-2 when this was written; queries with their rows in
# another order make it 1.
BOUNDS = {"F32": 2e-5, "F16": 3e-3, "BF16": 3e-2, "Q8_0": 6e-2, "Q4_K_M": 1e-1}
GELU_BOUND = 3e-3  # GPT-2 in F32: ggml reads its GELU from a table of F16, 11 bits


def dense_tensors(folder):
    """By name, in f32, whatever the dtype."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).to(torch.float32).numpy() for name in file.keys()}


def from_file_order(name, values, heads):
    """Undoes convert_hf_to_gguf.py's permute of a Llama's queries and keys."""
    for part, count in heads.items():
        if part in name:
            return values.reshape(count, values.shape[0] // count // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
    return values


def compare_with_gguf(llmc, path, work):
    """The gguf package's decoding of every tensor against what llmc exports."""
    run(llmc, "export", path, "--dense", "-o", work / "dense", "--force")
    exported = dense_tensors(work / "dense")
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    heads = {"attn_q.": reader.get_field("llama.attention.head_count").contents(), "attn_k.": reader.get_field("llama.attention.head_count_kv").contents()} if architecture == "llama" else {}
    names = gguf.get_tensor_name_map(next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), 64)
    stored = {tensor.name: from_file_order(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type), heads) for tensor in reader.tensors}
    seen = 0
    for name, values in exported.items():
        base, _, part = name.rpartition(".")
        mapped = f"{names.get_name(base)}.{part}"
        found = stored[mapped]
        if architecture == "gpt2" and values.ndim == 2 and found.shape != values.shape or "c_attn.weight" in name or "c_proj.weight" in name:
            found = found.T
        if not np.array_equal(found, values):
            raise AssertionError(f"{path}: {mapped} as gguf reads it differs from {name} as llmc does")
        seen += 1
    if seen != len(stored):
        raise AssertionError(f"{path}: gguf finds {len(stored)} tensors, llmc {seen}")
    return seen


def perplexity(path, text, length, chunks):
    """As llama.cpp's perplexity tool has it: BOS first in each chunk if texts start with it, second half scored."""
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    add_bos = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(vocabulary.model))
    tokens = np.array(vocabulary.tokenize(text.encode(), add_bos=add_bos))
    total = 0.0
    with Running(path, length) as running:
        for chunk in range(chunks):
            part = tokens[chunk * length:(chunk + 1) * length].copy()
            if add_bos:
                part[0] = vocabulary.token_bos()
            scores = running.logits(part).astype(np.float64)
            scores -= scores.max(axis=1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
            total -= scores[np.arange(length // 2, length - 1), part[length // 2 + 1:]].sum()
    return float(np.exp(total / (chunks * (length - 1 - length // 2))))


def compare_perplexities(llmc, model, work, text):
    """The logits of F32 files allow 1e-5 between the two, those of F16 files 1e-3."""
    (work / "text.txt").write_text(text)
    for kind, bos, bound in (("F32", False, 1e-5), ("F16", False, 1e-3), ("F32", True, 1e-5)):
        path = work / f"{kind}-{bos}.gguf"
        run(llmc, "convert", model, "-o", path, "--type", kind, "--max-windows", 1)
        reader = gguf.GGUFReader(path, "r+")
        reader.get_field("tokenizer.ggml.add_bos_token").parts[-1][0] = bos
        del reader
        quality = json.loads(run(llmc, "evaluate", path, "--data", work / "text.txt", "--seqlen", 512, "--convention", "second-half", "--json"))["quality"]
        theirs = perplexity(path, text, 512, quality["windows"])
        if not abs(quality["perplexity"] / theirs - 1) <= bound:
            raise AssertionError(f"{path.name}: perplexity {quality['perplexity']}, in llama.cpp {theirs}")
        print(f"{path.name:32} {quality['windows']} windows, perplexity {quality['perplexity']:.4f}, in llama.cpp {theirs:.4f}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--llmc", "--model", "--tiny"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
        tokens = np.random.default_rng(3).integers(0, vocabulary, 128).astype(np.int32)
        text = options.text.read_text() if options.text else (options.model / "held_out.txt").read_text()[:12000]
        cases = [(options.model, None, tokens, kind, ["convert" if kind in ("F32", "F16", "BF16") else "quantize", "--type", kind]) for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_K_M")]
        # pruned: zeros stay, a smaller model is one to llama.cpp too
        cases += [(options.model, None, tokens, "F16", ["prune", "--sparsity", 0.5]), (options.model, None, tokens, "F16", ["prune", "--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "layers=1"])]
        for name in ("gpt2-tied", "llama-gqa-tied", "llama-mha-untied", "llama-bias", "llama-headdim", "qwen2-untied", "qwen2-tied", "mistral-whole", "qwen3-untied", "qwen3-tied"):
            data = options.tiny / name / "input_ids.npy"
            cases += [(options.tiny / name, data, np.load(data).reshape(-1)[:24].astype(np.int32), kind, ["convert", "--type", kind]) for kind in ("F32", "F16")]
        for number, (model, data, ids, kind, command) in enumerate(() if options.text else cases):
            path = work / f"{number}-{model.name}-{kind}.gguf"
            evaluation = ["--eval-data", data] if data else ["--max-windows", 1]
            try:
                run(options.llmc, command[0], model, "-o", path, *command[1:], *evaluation)
                tensors = compare_with_gguf(options.llmc, path, work)
                bound = max(BOUNDS[kind], GELU_BOUND) if "gpt2" in model.name else BOUNDS[kind]
                difference = compare_logits(options.llmc, path, ids, work, bound)
                print(f"{model.name:20} {' '.join(map(str, command)):40} {tensors:3} tensors, logits within {difference:.1e} of the largest (bound {bound:.0e})")
            except AssertionError as problem:
                print(f"FAILED {path.name}: {problem}")
                failures += 1
        try:
            compare_perplexities(options.llmc, options.model, work, text)
        except AssertionError as problem:
            print(f"FAILED {problem}")
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
