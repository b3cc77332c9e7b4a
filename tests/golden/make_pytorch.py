#!/usr/bin/env python3
"""Makes pytorch/: checkpoints as torch.save writes them, for the tests of reading pytorch_model.bin.

    python make_pytorch.py [--out DIR]

  llama/           tiny/llama-sharded in one pytorch_model.bin, as parameters of a module (OrderedDict with _metadata)
  llama-sharded/   the same in three, with pytorch_model.bin.index.json; one matrix is stored transposed, two share a storage
  views.bin        a tensor of every type, and views: offsets, transposed, steps, scalars, empty, shared storages
  views.safetensors  what the tensors of views.bin hold, row by row

Made with Python 3.11, torch 2.13.0 CPU, safetensors 0.8.0. Every run gives the same tensors; torch writes the same bytes.
"""

import argparse
import collections
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool)


def make_views():
    base = torch.arange(24, dtype=torch.float32)
    matrix = (torch.arange(15, dtype=torch.float32) / 8).to(torch.bfloat16).reshape(3, 5)
    tensors = collections.OrderedDict((str(dtype).removeprefix("torch."), (torch.arange(6) % (2 if dtype == torch.bool else 7)).reshape(2, 3).to(dtype)) for dtype in TYPES)
    tensors.update({"whole": base.reshape(2, 3, 4), "part": base[5:17].reshape(3, 4), "transposed": base.reshape(4, 6).t(), "steps": base[1::3], "inner": base.reshape(4, 6)[1:3, 2:5],
                    "permuted": base.reshape(2, 3, 4).permute(2, 0, 1), "again": base.reshape(2, 3, 4), "scalar": base[7], "empty": torch.empty(0, 4), "one": base.reshape(4, 6)[:, 3:4][2:3],
                    "matrix": torch.nn.Parameter(matrix), "matrix_transposed": matrix.t(), "long": torch.arange(300, dtype=torch.int32)})
    return tensors


def make_llama(out):
    source = HERE / "tiny/llama-sharded"
    tensors = {name: tensor for shard in sorted(source.glob("model-*.safetensors")) for name, tensor in load_file(shard).items()}
    whole = collections.OrderedDict((name, torch.nn.Parameter(tensors[name])) for name in sorted(tensors))
    whole._metadata = collections.OrderedDict([("", {"version": 1}), ("model", {"version": 1})])
    (out / "llama").mkdir(parents=True)
    torch.save(whole, out / "llama/pytorch_model.bin")

    shards = [dict() for _ in range(3)]
    gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    both = torch.cat([tensors[gate], tensors[up]])
    for i, name in enumerate(sorted(tensors)):
        rows = tensors[gate].shape[0]
        tensor = {gate: both[:rows], up: both[rows:]}.get(name, tensors[name])
        if name.endswith("0.mlp.down_proj.weight"):
            tensor = tensor.t().contiguous().t()
        shards[1 if name in (gate, up) else i * 3 // len(tensors)][name] = tensor
    (out / "llama-sharded").mkdir()
    names = [f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        torch.save(shard, out / "llama-sharded" / name)
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())}, "weight_map": {n: name for name, shard in zip(names, shards) for n in shard}}
    (out / "llama-sharded/pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for folder in ("llama", "llama-sharded"):
        shutil.copy(source / "config.json", out / folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out / "pytorch"
    shutil.rmtree(out, ignore_errors=True)
    make_llama(out)
    views = make_views()
    torch.save(views, out / "views.bin")
    save_file({name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in views.items()}, out / "views.safetensors")


if __name__ == "__main__":
    main()
