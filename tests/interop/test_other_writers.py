#!/usr/bin/env python3
"""Reads compressed-tensors directories that llm-compressor wrote, and PyTorch files, and compares the logits with transformers'.

    python test_other_writers.py --llmc BUILD/llmc --tiny tests/golden/tiny --work TMP

Every directory is also rounded again with --allow-requantize, and refused without.
Exit code: 0 all agree, 1 something differs, 77 the peers are not installed.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import test_compressed_tensors as peers

try:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)


def weights(**changes):
    return {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16, **changes}


FP8_INPUTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
SCHEMES = {
    "int4-g16": weights(),
    "int4-g16-linear": weights(symmetric=False),
    "int8-channel": weights(num_bits=8, strategy="channel", group_size=None),
    "fp8-channel": weights(num_bits=8, type="float", strategy="channel", group_size=None),
    "fp8-dynamic": weights(num_bits=8, type="float", strategy="channel", group_size=None),
    "int4-fp8-dynamic": weights(),
}
INPUTS = {"fp8-dynamic": FP8_INPUTS, "int4-fp8-dynamic": FP8_INPUTS}


def check(llmc, model, work, scheme, shards, inputs=None):
    ids, out, data = peers.token_ids(model), work / "out", model / "input_ids.npy"
    floats = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    oneshot(model=floats, recipe=QuantizationModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": inputs}}, ignore=["lm_head"]))
    floats.save_pretrained(out, save_compressed=True, **({"max_shard_size": "20KB"} if shards else {}))
    peers.require((out / "model.safetensors.index.json").exists() == shards, "not cut as asked")
    method = peers.read_config(out)["quantization_config"]["quant_method"]
    peers.require(method == "compressed-tensors", f"quant_method is {method}")
    _, summary = peers.compare(llmc, out, peers.load(out), ids, work)
    again = ["quantize", out, "-o", work / "again", "--bits", "4", "--group-size", "16", "--eval-data", data]
    refused = subprocess.run([str(llmc.binary), *map(str, again)], capture_output=True, text=True, timeout=600)
    peers.require(refused.returncode == 3 and "--allow-requantize" in refused.stderr, f"quantized again without a question: {refused.stderr}")
    llmc.run(*again, "--allow-requantize")
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=Path, required=True)
    parser.add_argument("--tiny", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for outputs")
    arguments = parser.parse_args()
    peers.transformers.utils.logging.set_verbosity_error()
    llmc, model = peers.Llmc(arguments.llmc.resolve()), (arguments.tiny / "llama-mha-untied").resolve()
    cases = {name: lambda work, name=name, scheme=scheme: check(llmc, model, work, scheme, shards=False, inputs=INPUTS.get(name)) for name, scheme in SCHEMES.items()}
    cases["int4-g16-shards"] = lambda work: check(llmc, model, work, SCHEMES["int4-g16"], shards=True)
    for name in ("llama", "llama-sharded"):
        cases[f"pytorch-{name}"] = lambda work, folder=peers.GOLDEN / "pytorch" / name: peers.compare(llmc, folder, peers.load(folder), peers.token_ids(folder), work)[1]
    return peers.run_cases(cases, arguments.work.resolve())


if __name__ == "__main__":
    sys.exit(main())
