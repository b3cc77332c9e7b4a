#!/usr/bin/env python3
"""Makes backward/<name>.npy: gradients of one decoder block by PyTorch's autograd, in float64.

    python make_backward.py [--out DIR]

Block 0 of some of the tiny checkpoints runs over two sequences of 70 and 9 positions whose hidden states and output
gradients are `wave` of two numbers, so nothing but results is stored: one float32 vector with

    the gradient of the hidden states [79, hidden],
    then for every tensor of the block in the order of its name in the checkpoint, as a matrix G [out, in]
    (vectors are [1, n]; GPT-2's weights are transposed): G · v and u · G with v = wave(1, in, 3), u = wave(1, out, 4).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from transformers.models.bloom import modeling_bloom
from transformers.models.falcon import modeling_falcon

from make_golden import HERE, load_model, true_float64

NAMES = ("llama-gqa-tied", "llama-headdim", "llama-bias", "gpt2-tied", "gpt2-untied", "qwen2-untied", "mistral-window", "qwen3-untied", "llama-rope-yarn", "llama-rope-dynamic",
         "phi3-whole", "phi3-part", "stablelm", "stablelm-bias", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "gpt-neox-sequential", "opt", "bloom", "bloom-untied", "stablelm-parallel", "falcon", "falcon-groups", "falcon-refined", "falcon-heads", "falcon-one-norm", "phi3-longrope")
LENGTHS = (70, 9)


def wave(rows, cols, number):
    r, c = np.arange(rows)[:, None], np.arange(cols)[None, :]
    return np.sin(1.7 * r + 0.9 * c + 0.013 * r * c + number).astype(np.float32).astype(np.float64)


def blocks_of(model):
    base = model.base_model
    return base.decoder.layers if model.config.model_type == "opt" else base.h if hasattr(base, "h") else base.layers


def run_block(model, hidden):
    config, base, block = model.config, model.base_model, blocks_of(model)[0]
    length = hidden.shape[1]
    mask = torch.full((1, 1, length, length), float("-inf"), dtype=torch.float64).triu(1)
    kind = getattr(config, "layer_types", None) or ["sliding_attention"]
    if (window := getattr(config, "sliding_window", None)) and kind[0] == "sliding_attention":
        mask += torch.full_like(mask, float("-inf")).tril(-window)
    positions = torch.arange(length)[None]
    if config.model_type in ("gpt2", "opt"):
        out = block(hidden, attention_mask=mask)
    elif config.model_type == "bloom":
        alibi = modeling_bloom.build_alibi_tensor(torch.ones(1, length), config.n_head, torch.float64)
        out = block(hidden, alibi=alibi, attention_mask=mask)
    elif config.model_type == "falcon":
        alibi = modeling_falcon.build_alibi_tensor(torch.ones(1, length, dtype=torch.long), config.num_attention_heads, torch.float64) if config.alibi else None
        if config.alibi:
            mask = mask + alibi[None] / config.head_dim**0.5
        out = block(hidden, alibi=alibi, attention_mask=mask, position_embeddings=base.rotary_emb(hidden, positions))
    else:
        rotary = base.rotary_emb(hidden, positions, *kind[:1] if config.model_type == "gemma3_text" else ())
        out = block(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return out[0] if isinstance(out, tuple) else out


def gradients_of(folder):
    model = load_model(folder).double()
    block = blocks_of(model)[0]
    size = model.config.hidden_size
    rows = sum(LENGTHS)
    hidden, d_out = wave(rows, size, 1), wave(rows, size, 2)
    d_hidden, first = [], 0
    for length in LENGTHS:
        piece = torch.tensor(hidden[first : first + length])[None].requires_grad_()
        run_block(model, piece).backward(torch.tensor(d_out[first : first + length])[None])
        d_hidden.append(piece.grad[0].numpy())
        first += length
    parts = [np.concatenate(d_hidden).ravel()]
    for name, parameter in sorted(block.named_parameters()):
        matrix = parameter.grad.numpy()
        matrix = matrix[None] if matrix.ndim == 1 else matrix
        if model.config.model_type == "gpt2" and parameter.ndim == 2:
            matrix = matrix.T
        parts += [matrix @ wave(1, matrix.shape[1], 3)[0], wave(1, matrix.shape[0], 4)[0] @ matrix]
    return np.concatenate(parts).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    folder = parser.parse_args().out / "backward"
    folder.mkdir(parents=True, exist_ok=True)
    with true_float64():
        for name in NAMES:
            values = gradients_of(HERE / "tiny" / name)
            np.save(folder / f"{name}.npy", values)
            print(f"{name:16} {values.size} values, largest {np.abs(values).max():.1f}")


if __name__ == "__main__":
    main()
