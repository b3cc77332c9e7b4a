#!/usr/bin/env python3
"""Makes gguf/mixes.json: the type that llama-quantize (llama-cpp-python 0.3.36) gives every tensor, for mixes and models.

    python make_gguf_mix.py [--out DIR]

The models are GGUF files of two rows a tensor: the choice depends on names, columns and a few keys only. A case:
{"model", "mix", "importance", "pure", "types": a letter for each of the model's tensors}, "letters" saying which type each is.
"""

import argparse
import ctypes
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

MIXES = {"Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q2_K_S": 21, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14,
         "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "TQ1_0": 36, "TQ2_0": 37, "F16": 1}
LETTERS = {name: chr(ord("a") + i) for i, name in enumerate(
    ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0"])}
# name: architecture, layers, hidden, feed-forward, heads, key-value heads, whether the head has a weight of its own
MODELS = {"quill": ("llama", 8, 256, 768, 8, 4, False), "smollm2": ("llama", 30, 576, 1536, 9, 3, False),
          "untied": ("llama", 17, 512, 1024, 8, 2, True), "seventy": ("llama", 80, 256, 256, 8, 1, True), "gpt2": ("gpt2", 12, 256, 1024, 4, 4, True),
          "falcon": ("falcon", 32, 256, 1024, 4, 1, False), "falcon-untied": ("falcon", 6, 256, 512, 8, 2, True),
          "qwen2": ("qwen2", 24, 256, 768, 14, 2, False), "qwen2-seventy": ("qwen2", 80, 256, 256, 8, 8, True)}


def tensors_of(name):
    kind, layers, hidden, inner, heads, kv_heads, untied = MODELS[name]
    columns = {"token_embd.weight": hidden}
    if kind == "gpt2":
        columns["position_embd.weight"] = hidden
    parts = {"attn_output": hidden, "ffn_down": inner, "ffn_up": hidden}
    parts |= {"attn_qkv": hidden} if kind in ("gpt2", "falcon") else {"attn_q": hidden, "attn_k": hidden, "attn_v": hidden, "ffn_gate": hidden}
    for layer in range(layers):
        columns |= {f"blk.{layer}.{part}.weight": width for part, width in parts.items()}
        columns[f"blk.{layer}.attn_norm.weight"] = 0
        if kind == "gpt2":
            columns[f"blk.{layer}.attn_qkv.bias"] = 0
        if kind == "qwen2":
            columns |= {f"blk.{layer}.attn_{part}.bias": 0 for part in "qkv"}
    columns["output_norm.weight"] = 0
    if untied:
        columns["output.weight"] = hidden
    return columns


def write_model(name, path):
    kind, layers, hidden, inner, heads, kv_heads, _ = MODELS[name]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(2)
    for tensor, columns in tensors_of(name).items():
        writer.add_tensor(tensor, np.ones((2, columns), np.float16) if columns else np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(name, source, target, mix, importance, pure):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.pure = MIXES[mix], 1, pure
    if importance:
        columns = {tensor: width for tensor, width in tensors_of(name).items() if width}
        ones = {width: (ctypes.c_float * width)(*[1.0] * width) for width in columns.values()}
        entry = llama_cpp.llama_cpp.llama_model_imatrix_data
        entries = (entry * (len(columns) + 1))()
        for place, (tensor, width) in zip(entries, columns.items()):
            place.name, place.data, place.size = tensor.encode(), ones[width], width
        parameters.imatrix = entries
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if status != 0:
        return None
    found = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}
    return "".join(LETTERS[found[tensor]] for tensor in tensors_of(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "gguf")
    arguments = parser.parse_args()
    models = {name: {"architecture": row[0], "layers": row[1], "heads": row[4], "kv_heads": row[5], "names": list(tensors_of(name)), "columns": list(tensors_of(name).values())} for name, row in MODELS.items()}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            source = Path(folder) / f"{name}.gguf"
            write_model(name, source)
            for mix in MIXES:
                for importance, pure in ((False, False), (True, False), (False, True)):
                    if (pure or importance) and name in ("seventy", "gpt2", "qwen2-seventy") or pure and mix not in ("Q4_K_M", "Q2_K"):
                        continue
                    types = quantize(name, source, Path(folder) / "out.gguf", mix, importance, pure)
                    if types is None:
                        print(f"refused: {name} {mix} importance {importance}")
                    else:
                        cases.append({"model": name, "mix": mix, "importance": importance, "pure": pure, "types": types})
    (arguments.out / "mixes.json").write_text(json.dumps({"letters": {letter: name for name, letter in LETTERS.items()}, "models": models, "cases": cases}, separators=(",", ":")) + "\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
