"""Trains the student of a bundle that `llmc export --for-distillation` wrote: python train.py OUT [--steps N] [--batch N] [--lr X]

Needs torch, transformers, safetensors and numpy. The loss is the one that manifest.json states; the optimizer AdamW (0.9, 0.95), the
rate rises over 10 steps and falls as a cosine, gradients are clipped to 1: as `llmc distill --from-bundle` trains.
"""

import argparse
import json
import math
import pathlib

import numpy
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

BUNDLE = pathlib.Path(__file__).resolve().parent


def distillation_loss(logits, indices, log_p, rest, temperature):
    """logits [tokens, vocabulary]; indices and log_p [tokens, top]; rest [tokens]."""
    scaled = logits.float() / temperature
    norm = scaled.logsumexp(-1, keepdim=True)
    named = (log_p.exp() * (log_p - (scaled.gather(-1, indices) - norm))).sum(-1)
    others = scaled.scatter(-1, indices, -math.inf).logsumexp(-1) - norm[:, 0]
    rest = rest.clamp_min(1e-12)
    return temperature**2 * (named + rest * (rest.log() - others)).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=10)
    options = parser.parse_args()
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    tokens = torch.from_numpy(numpy.load(BUNDLE / "tokens.npy")).long()
    targets = {name: tensor.reshape(*tokens.shape, -1) for name, tensor in load_file(BUNDLE / "targets.safetensors").items()}
    model = AutoModelForCausalLM.from_pretrained(BUNDLE / "student", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0)
    share = lambda step: (step + 1) / options.warmup if step < options.warmup else 0.5 * (1 + math.cos(math.pi * (step - options.warmup) / max(1, options.steps - options.warmup)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    order, torch_random = [], torch.Generator().manual_seed(0)
    for step in range(options.steps):
        while len(order) < min(options.batch, len(tokens)):
            order += torch.randperm(len(tokens), generator=torch_random).tolist()
        chosen, order = order[: options.batch], order[options.batch :]
        logits = model(tokens[chosen]).logits.flatten(0, 1)
        loss = distillation_loss(logits, *(targets[name][chosen].flatten(0, 1) for name in ("indices", "log_probabilities")), targets["rest"][chosen].flatten(), manifest["temperature"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
    model.save_pretrained(options.out)
    if (BUNDLE / "student" / "tokenizer.json").exists():
        AutoTokenizer.from_pretrained(BUNDLE / "student").save_pretrained(options.out)


if __name__ == "__main__":
    main()
