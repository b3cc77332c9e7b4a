"""Writes what a peer's artifact stands for as float32 safetensors that llmc evaluate reads. Run by compare.py.

    python to_dense.py MODEL ARTIFACT OUT

transformers loads the artifact as its users do; each linear layer that is not a plain one any more is asked for its weight
by its outputs for the unit vectors, in float32. So this needs to know nothing of how a peer packs.
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

source, artifact, out = map(pathlib.Path, sys.argv[1:4])
torch.set_num_threads(2)
dense = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
packed = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.float32, device_map="cpu")

with torch.no_grad():
    packed(torch.zeros(1, 2, dtype=torch.long))  # compressed-tensors unpacks a layer when the model first runs
modules, state, replaced = dict(packed.named_modules()), dense.state_dict(), 0
for name, module in dense.named_modules():
    if not isinstance(module, torch.nn.Linear) or name == "lm_head":
        continue
    with torch.no_grad():
        weight = modules[name](torch.eye(module.in_features)).T.float()
    assert weight.shape == module.weight.shape and module.bias is None, name
    replaced += not torch.equal(weight, module.weight)
    state[name + ".weight"] = weight.contiguous()
for name, value in packed.state_dict().items():  # what peers leave as it is must be what it was
    if name in state and value.shape == state[name].shape and not name.endswith("_proj.weight"):
        assert torch.allclose(value.float(), state[name].float(), rtol=0, atol=2**-24), name  # auto-round's loader turns all into f16

out.mkdir(parents=True)
if getattr(dense.config, "tie_word_embeddings", False):
    state.pop("lm_head.weight", None)
save_file({name: value.contiguous() for name, value in state.items()}, out / "model.safetensors", metadata={"format": "pt"})
for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
    if (source / name).exists():
        shutil.copy(source / name, out / name)
print(f"{out}: {replaced} weights replaced")
