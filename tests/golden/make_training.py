#!/usr/bin/env python3
"""Makes training/: what PyTorch's autograd and AdamW make of whole tiny models, in float64.

    python make_training.py [--out DIR]

Four samples of 24 tokens, 7·i² + 3·i + 11·sample modulo the vocabulary, are taught by `llama-sharded` (by its first
logits, where the vocabulary is smaller). The loss is
0.7 · T² · KL(teacher(T) ‖ student(T)) + 0.4 · CE(next token), T = 2; the means are over all 96 positions and over the 92 that
have a next token.

gradients-<name>.npy  of that loss: one float32 vector with, for every tensor in the order of its name in the checkpoint, as a
                      matrix G [out, in] (vectors are [1, n]; GPT-2's weights are transposed): G · v and u · G with
                      v = wave(1, in, 3), u = wave(1, out, 4)
attention-<name>.npy  as gradients-<name>.npy, of the mean over layers, heads and positions of KL(attention of `qwen2-untied` ‖ own), and first
                      that mean
curve-<name>.npy      float32 [200, 2]: KL and CE before each of 200 steps of AdamW: rate 2e-3 (up along a line over 10 steps, then
                      down as a cosine), betas 0.9 and 0.95, epsilon 1e-8, weight decay 0.1 of matrices, gradients clipped to 1
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from make_backward import wave
from make_golden import HERE, load_model, true_float64

GRADIENTS = ("llama-gqa-tied", "llama-mha-untied", "llama-headdim", "llama-bias", "gpt2-tied", "gpt2-untied", "qwen2-untied", "qwen2-tied", "mistral-window", "qwen3-untied", "qwen3-tied", "llama-rope-yarn", "llama-rope-dynamic",
             "phi3-whole", "phi3-part", "stablelm", "stablelm-bias", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "gpt-neox-sequential", "opt", "bloom", "bloom-untied", "stablelm-parallel", "falcon", "falcon-groups",
             "falcon-refined", "falcon-heads", "falcon-one-norm", "phi3-longrope")
ATTENTION = ("llama-gqa-tied",)
CURVES = ("llama-gqa-tied", "gpt2-tied")
STEPS, WARMUP, RATE, TEMPERATURE = 200, 10, 2e-3, 2.0


def samples(vocabulary):
    return torch.tensor([[(7 * i * i + 3 * i + 11 * s) % vocabulary for i in range(24)] for s in range(4)])


def losses(model, teacher, tokens):
    logits = model(tokens).logits
    with torch.no_grad():
        target = torch.log_softmax(teacher(tokens).logits[..., : logits.shape[-1]] / TEMPERATURE, -1)
    own = torch.log_softmax(logits / TEMPERATURE, -1)
    kl = (target.exp() * (target - own)).sum(-1).mean()
    ce = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return kl, ce


def total(kl, ce):
    return 0.7 * TEMPERATURE**2 * kl + 0.4 * ce


def attention_loss(model, teacher):
    tokens = samples(model.config.vocab_size)
    with torch.no_grad():
        wanted = teacher(tokens, output_attentions=True).attentions
    own = model(tokens, output_attentions=True).attentions
    seen = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()  # elsewhere both are 0
    means = [(t[..., seen] * (t[..., seen] / s[..., seen]).log()).sum() / (tokens.numel() * t.shape[1]) for t, s in zip(wanted, own)]
    return sum(means) / len(means)


def gradients_of(model, loss):
    loss.backward()
    parts = []
    stored = {"lm_head.weight": "embed_out.weight"} if model.config.model_type == "gpt_neox" else {}
    for name, parameter in sorted(((stored.get(name, name), parameter) for name, parameter in model.named_parameters()), key=lambda entry: entry[0]):
        matrix = (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).numpy()
        matrix = matrix[None] if matrix.ndim == 1 else matrix
        if model.config.model_type == "gpt2" and parameter.ndim == 2 and ".h." in name:
            matrix = matrix.T
        parts += [matrix @ wave(1, matrix.shape[1], 3)[0], wave(1, matrix.shape[0], 4)[0] @ matrix]
    return np.concatenate(parts).astype(np.float32)


def share(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def curve_of(model, teacher):
    tokens = samples(model.config.vocab_size)
    parameters = list(model.parameters())
    matrices, vectors = [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}], lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    curve = []
    for _ in range(STEPS):
        kl, ce = losses(model, teacher, tokens)
        curve.append((kl.item(), ce.item()))
        optimizer.zero_grad()
        total(kl, ce).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return np.array(curve, dtype=np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    folder = parser.parse_args().out / "training"
    folder.mkdir(parents=True, exist_ok=True)
    with true_float64():
        teacher = load_model(HERE / "tiny" / "llama-sharded").double()
        for name in GRADIENTS:
            model = load_model(HERE / "tiny" / name).double()
            values = gradients_of(model, total(*losses(model, teacher, samples(model.config.vocab_size))))
            np.save(folder / f"gradients-{name}.npy", values)
            print(f"{name:16} {values.size} values, largest {np.abs(values).max():.2f}")
        for name in ATTENTION:
            model = load_model(HERE / "tiny" / name).double()
            loss = attention_loss(model, load_model(HERE / "tiny" / "qwen2-untied").double())
            values = np.concatenate([[loss.item()], gradients_of(model, loss)]).astype(np.float32)
            np.save(folder / f"attention-{name}.npy", values)
            print(f"{name:16} {values.size} values, largest {np.abs(values).max():.2f}, attention {loss.item():.4f}")
        for name in CURVES:
            curve = curve_of(load_model(HERE / "tiny" / name).double(), teacher)
            np.save(folder / f"curve-{name}.npy", curve)
            print(f"{name:16} kl {curve[0, 0]:.4f} -> {curve[-1, 0]:.4f}, ce {curve[0, 1]:.4f} -> {curve[-1, 1]:.4f}")


if __name__ == "__main__":
    main()
