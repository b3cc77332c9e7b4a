#!/usr/bin/env python3
"""Loads what llmc writes in Hugging Face transformers and compares the logits.

    python test_compressed_tensors.py --llmc BUILD/llmc --model DIR --work TMP

For every quantization setting: `llmc quantize`, then transformers with compressed-tensors reads the output in
float32 without a missing or unexpected tensor, and its logits and perplexity are those of `llmc evaluate`.
Pruned models and packed containers are read by plain transformers after `llmc export --dense`.

Exit code: 0 all agree, 1 something differs, 77 the peers are not installed.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

try:
    import compressed_tensors  # noqa: F401 (transformers loads it by name)
    import numpy as np
    import torch
    import transformers
    from tokenizers import Tokenizer
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LARGEST_LOGIT_ERROR = 1e-3
LARGEST_PERPLEXITY_ERROR = 1e-4  # relative
WINDOW = 512
# Inputs that are rounded to codes: the library computes with the floats that codes mean, llmc with integers, and both with
# f32 norms and attention in another order. Values 1e-7 apart can lie on two sides of the border between two codes, and
# a step of difference moves further values across theirs. (The reader's symmetric dynamic scale is max/127.5, which puts the
# largest value of every token on a border.) So the mean difference is held to a share of what rounding the inputs changes
# at all: 0.67 to 0.79 for dynamic inputs when written, where 1.4 lies between two roundings that have nothing in common.
LARGEST_SHARE_OF_ROUNDING = 1.0
# With a linear or static grid no value is on a border to begin with, so the first token, whose path is short, sees none of it:
# 1e-5 when written. This is what tells one formula from another.
LARGEST_FIRST_TOKEN_ERROR = 1e-3
# Which values cross depends on the processor's last bits, so a token's log-probability moves by some mean|Δ| either way and the
# mean of T tokens by mean|Δ|/√T: 0.002 to 0.003 here, of which the logarithm of the perplexity is held to so many.
LARGEST_ROUNDED_DEVIATIONS = 4  # up to 2.6 when written

QUANTIZED = {
    "int8-channel": ["--bits", "8", "--granularity", "channel"],
    "int4-g32": ["--bits", "4", "--group-size", "32"],
    "int4-g32-linear": ["--bits", "4", "--group-size", "32", "--scheme", "linear"],
    "int3-g32": ["--bits", "3", "--group-size", "32"],
    "int4-g32-shards": ["--bits", "4", "--group-size", "32", "--shard-size", "1MB"],
    "mixed": ["--bits", "4", "--group-size", "32", "--tensor-type", "down_proj=W8A16"],
    "tied-embedding-int8": ["--bits", "3", "--group-size", "32", "--scheme", "linear", "--token-embedding-type", "W8A16"],
    "tensor-granularity": ["--bits", "5", "--granularity", "tensor", "--scheme", "linear", "--exclude", "layers.0."],
    "fp8-channel": ["--preset", "FP8A16"],
    "fp8-tensor": ["--preset", "FP8A16-tensor"],
    "fp8-g32": ["--preset", "FP8A16-g32", "--observer", "mse"],
    "fp8-embedding": ["--preset", "FP8A16", "--token-embedding-type", "FP8A16"],
    "mxfp8": ["--preset", "MXFP8A16"],
    "mxfp4": ["--preset", "MXFP4A16"],
    "nvfp4": ["--preset", "NVFP4A16", "--observer", "mse"],
    "mixed-floats": ["--preset", "NVFP4A16", "--tensor-type", "down_proj=MXFP4A16", "--tensor-type", "o_proj=FP8A16", "--tensor-type", "up_proj=W4A16-g32"],
}
# compressed-tensors 0.19 decompresses these to bf16 whatever the model's type, and an f32 model then fails in its first
# product. Decompressed at load and widened they run; bf16 holds their products exactly.
BF16_FORMATS = {"mxfp4-pack-quantized", "mxfp8-quantized", "nvfp4-pack-quantized"}


ROUNDED_INPUTS = {
    "w8a8-dynamic": ["--preset", "W8A8"],
    "fp8-dynamic": ["--preset", "FP8A8"],
    "w8a8-dynamic-linear": ["--preset", "W8A8-dynamic-linear"],
    "w4a8-g32-dynamic-linear": ["--preset", "W4A8-g32-dynamic-linear"],
    "w8a8-linear-g32-dynamic-linear": ["--preset", "W8A8-linear-g32-dynamic-linear"],
}
STATIC_INPUTS = {  # (weights, symmetric)
    "w8a8-static": (["--preset", "W8A16"], True),
    "w8a8-static-linear": (["--preset", "W8A16"], False),
    "w4a8-g32-static-linear": (["--preset", "W4A16-g32-linear"], False),
}


class Failure(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Failure(message)


# ---------------------------------------------------------------- llmc


class Llmc:
    def __init__(self, binary):
        self.binary = binary

    def run(self, *arguments):
        """Standard output of a successful run."""
        command = [str(self.binary), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        require(done.returncode == 0, f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def make(self, command, model, out, ids, work, *options):
        """`llmc COMMAND model -o out`, judged on the ids alone: what it writes is compared here."""
        data = work / "evaluation.npy"
        np.save(data, ids.astype(np.uint16))
        self.run(command, model, "-o", out, "--eval-data", data, *options)

    def evaluate(self, model, ids, work):
        """(logits [tokens, vocabulary] of the first window, perplexity)."""
        data, logits = work / "ids.npy", work / "logits.npy"
        logits.unlink(missing_ok=True)
        np.save(data, ids.astype(np.uint16))
        report = json.loads(self.run("evaluate", model, "--data", data, "--logits", logits, "--json"))
        stored = np.load(logits)
        require(stored.dtype == np.float32 and stored.ndim == 2, f"{logits}: {stored.dtype} {stored.shape}")
        perplexity = find_number(report, "perplexity")
        require(perplexity is not None, f"no perplexity in {json.dumps(report)[:1000]}")
        return stored, perplexity


def find_number(report, key):
    """The first number called `key` at any depth of a JSON report."""
    if isinstance(report, dict):
        if isinstance(report.get(key), (int, float)):
            return report[key]
        report = list(report.values())
    if isinstance(report, list):
        found = (find_number(value, key) for value in report)
        return next((value for value in found if value is not None), None)
    return None


# ---------------------------------------------------------------- transformers


def load(folder):
    """The model in float32; refuses tensors that are missing, unexpected or of another shape."""
    groups = read_config(folder).get("quantization_config", {}).get("config_groups", {}).values()
    options = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if BF16_FORMATS & {group["format"] for group in groups} else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
    )
    problems = {name: sorted(map(str, value))[:4] for name, value in info.items() if value}
    require(not problems, f"transformers loaded {folder} with {problems}")
    return (model.float() if options else model).eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0].numpy()


def perplexity_of(logits, ids):
    logits = torch.from_numpy(logits[:-1]).double()
    targets = torch.from_numpy(ids[1:].astype(np.int64))
    return math.exp(torch.nn.functional.cross_entropy(logits, targets).item())


def count_quantized(model):
    return sum(hasattr(module, "quantization_scheme") for module in model.modules())


def read_config(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def token_ids(model_folder):
    """One window of text, or of random ids where there is no tokenizer."""
    config = read_config(model_folder)
    window = min(WINDOW, config.get("max_position_embeddings") or config.get("n_positions") or WINDOW)  # BLOOM says none
    tokenizer_json = model_folder / "tokenizer.json"
    if not tokenizer_json.exists():
        return np.random.default_rng(5).integers(0, config["vocab_size"], window)
    cases = map(json.loads, (GOLDEN / "tokenizer/quill_cases.jsonl").read_text().splitlines())
    paragraphs = [case["text"] for case in cases if len(case["text"]) > 150 and case["text"].isascii()]
    ids = Tokenizer.from_file(str(tokenizer_json)).encode("\n".join(paragraphs)).ids
    require(len(ids) >= window, f"{len(ids)} tokens do not fill a window of {window}")
    return np.asarray(ids[:window])


# ---------------------------------------------------------------- cases


def compare(llmc, ours, theirs, ids, work):
    """llmc's evaluation of the folder `ours` against the transformers model `theirs`."""
    expected = logits_of(theirs, ids)
    logits, perplexity = llmc.evaluate(ours, ids, work)
    require(logits.shape == expected.shape, f"logits {logits.shape}, transformers {expected.shape}")
    error = float(np.abs(logits - expected).max())
    expected_perplexity = perplexity_of(expected, ids)
    summary = f"max|Δ| {error:.1e}, perplexity {perplexity:.6g} / {expected_perplexity:.6g}"
    require(error <= LARGEST_LOGIT_ERROR, summary)
    require(abs(perplexity / expected_perplexity - 1) <= LARGEST_PERPLEXITY_ERROR, summary)
    return expected, summary


def check_quantized(llmc, model, work, options):
    ids, out = token_ids(model), work / "quantized"
    llmc.make("quantize", model, out, ids, work, *options)
    method = read_config(out).get("quantization_config", {}).get("quant_method")
    require(method == "compressed-tensors", f"quant_method is {method}")
    theirs = load(out)
    require(count_quantized(theirs) > 0, "transformers found no quantized module")
    logits, summary = compare(llmc, out, theirs, ids, work)
    change = float(np.abs(logits - logits_of(load(model), ids)).max())
    require(change > LARGEST_LOGIT_ERROR, f"the logits are those of the original model (max|Δ| {change:.1e})")
    return summary


def compare_rounded(llmc, out, weights, ids, work, is_on_borders):
    """As compare, for inputs that are rounded; `weights` is the same folder with inputs as they are."""
    theirs = load(out)
    require(any(getattr(module, "quantization_scheme", None) and module.quantization_scheme.input_activations for module in theirs.modules()), "transformers rounds no input")
    expected, plain = logits_of(theirs, ids), logits_of(load(weights), ids)
    logits, perplexity = llmc.evaluate(out, ids, work)
    rounding, error = float(np.abs(expected - plain).mean()), float(np.abs(logits - expected).mean())
    first, expected_perplexity = float(np.abs(logits[0] - expected[0]).max()), perplexity_of(expected, ids)
    summary = f"mean|Δ| {error:.1e} of {rounding:.1e} that rounding does, first token {first:.1e}, perplexity {perplexity:.6g} / {expected_perplexity:.6g}"
    require(rounding > 1e-3, summary)
    require(error <= LARGEST_SHARE_OF_ROUNDING * rounding, summary)
    require(is_on_borders or first <= LARGEST_FIRST_TOKEN_ERROR, summary)
    require(abs(math.log(perplexity / expected_perplexity)) <= LARGEST_ROUNDED_DEVIATIONS * error / math.sqrt(len(ids) - 1), summary)
    return summary


def set_inputs(folder, inputs):
    """Writes `input_activations` into every config group."""
    config = read_config(folder)
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] = inputs
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def check_rounded_inputs(llmc, model, work, options):
    ids, out, weights = token_ids(model), work / "quantized", work / "weights"
    llmc.make("quantize", model, out, ids, work, *options)
    shutil.copytree(out, weights)
    set_inputs(weights, None)
    return compare_rounded(llmc, out, weights, ids, work, is_on_borders="linear" not in options[1].split("dynamic")[-1])


def check_static_inputs(llmc, model, work, options, symmetric):
    """Grids as a calibration by the library would leave them: per layer, from the inputs that the float model sees."""
    ids, out, weights = token_ids(model), work / "static", work / "weights"
    llmc.make("quantize", model, weights, ids, work, *options)
    shutil.copytree(weights, out)
    set_inputs(out, {"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": "tensor", "dynamic": False})
    tensors = load_file(weights / "model.safetensors")
    modules = {name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")}
    ranges, floats = {}, load(model)

    def observe(name):
        return lambda module, inputs: ranges.update({name: (min(float(inputs[0].min()), 0.0), max(float(inputs[0].max()), 0.0))})

    for name, module in floats.named_modules():
        if name in modules:
            module.register_forward_pre_hook(observe(name))
    logits_of(floats, ids)
    for name, (low, high) in ranges.items():
        scale = max(-low, high) / 127 if symmetric else (high - low) / 255
        tensors[name + ".input_scale"] = torch.tensor([scale], dtype=torch.float32)
        if not symmetric:
            tensors[name + ".input_zero_point"] = torch.tensor([round(-128 - low / scale)], dtype=torch.int8)
    require(set(ranges) == modules, f"inputs of {len(ranges)} modules of {len(modules)} were seen")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return compare_rounded(llmc, out, weights, ids, work, is_on_borders=False)


def check_pruned(llmc, model, work):
    ids, pruned, dense = token_ids(model), work / "pruned", work / "dense"
    llmc.make("prune", model, pruned, ids, work, "--sparsity", "0.5")
    require_refused(pruned)
    llmc.run("export", pruned, "--dense", "-o", dense)
    require("quantization_config" not in read_config(dense), "the dense export has a quantization_config")
    theirs = load(dense)
    zeros = [float((weight == 0).float().mean()) for name, weight in theirs.named_parameters() if "_proj." in name]
    require(max(zeros, default=0) > 0.4, "no weight of the dense export is sparse")
    return compare(llmc, pruned, theirs, ids, work)[1]


def require_refused(packed):
    """transformers must not run a packed artifact on weights that it made up."""
    try:
        AutoModelForCausalLM.from_pretrained(packed)
    except ValueError:
        return
    raise Failure(f"transformers loaded {packed}, which it cannot understand")


def check_pruned_as_dense(llmc, model, work, options):
    """An ordinary checkpoint that holds the zeros, straight from `llmc prune --format hf`."""
    ids, out = token_ids(model), work / "pruned"
    llmc.make("prune", model, out, ids, work, "--format", "hf", *options)
    require("quantization_config" not in read_config(out), "the checkpoint has a quantization_config")
    theirs = load(out)
    zeros = [float((weight == 0).float().mean()) for name, weight in theirs.named_parameters() if weight.ndim == 2 and ("_proj." in name or ".h." in name)]
    require(min(zeros, default=0) > 0.49, f"a weight has {min(zeros, default=0):.2f} zeros")
    logits, summary = compare(llmc, out, theirs, ids, work)
    change = float(np.abs(logits - logits_of(load(model), ids)).max())
    require(change > LARGEST_LOGIT_ERROR, f"the logits are those of the original model (max|Δ| {change:.1e})")
    return summary


def check_experts(llmc, model, work):
    """Codes of experts, which transformers unpacks to bf16 and joins, and the dense export, which it reads as it is."""
    ids, out, dense = token_ids(model), work / "quantized", work / "dense"
    llmc.make("quantize", model, out, ids, work, "--bits", "4", "--group-size", "16")
    llmc.run("export", out, "--dense", "-o", dense)
    exact, theirs = load(dense), load(out)
    require(count_quantized(theirs) > 0, "transformers found no quantized module")
    weights, unpacked = dict(exact.named_parameters()), dict(theirs.named_parameters())
    for name in (name for name in weights if ".experts." in name):
        error = float(((unpacked[name] - weights[name]).abs() / weights[name].abs().clamp(min=1e-6)).max().detach())
        require(error <= 2 ** -7, f"{name}: relative error {error:.1e}")  # scale and product in bf16, half a unit of 2^-8 each
    return compare(llmc, dense, exact, ids, work)[1]


def check_packed_gpt2(llmc, work):
    model, packed, dense = GOLDEN / "tiny/gpt2-tied", work / "packed", work / "dense"
    ids = token_ids(model)
    llmc.make("quantize", model, packed, ids, work, "--bits", "4", "--group-size", "32")
    require_refused(packed)
    llmc.run("export", packed, "--dense", "-o", dense)
    logits, summary = compare(llmc, packed, load(dense), ids, work)
    change = float(np.abs(logits - logits_of(load(model), ids)).max())
    require(change > LARGEST_LOGIT_ERROR, f"the logits are those of the original model (max|Δ| {change:.1e})")
    return summary


def run_cases(cases, folder):
    """Calls each with an empty folder of its name; 1 if any fails, 0 if none does."""
    failures = 0
    for name, check in cases.items():
        work = folder / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            print(f"ok      {name}: {check(work)}", flush=True)
        except Failure as failure:
            failures += 1
            print(f"FAILED  {name}: {failure}", flush=True)
        except Exception:
            failures += 1
            print(f"FAILED  {name}:\n{traceback.format_exc()}", flush=True)
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a Llama checkpoint, rows multiples of 32")
    parser.add_argument("--work", type=Path, required=True, help="a folder for outputs")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    llmc, model = Llmc(arguments.llmc.resolve()), arguments.model.resolve()
    cases = {name: lambda work, options=options: check_quantized(llmc, model, work, options)
             for name, options in QUANTIZED.items()}
    for name, options in ROUNDED_INPUTS.items():
        cases[name] = lambda work, options=options: check_rounded_inputs(llmc, model, work, options)
    for name, (options, symmetric) in STATIC_INPUTS.items():
        cases[name] = lambda work, options=options, symmetric=symmetric: check_static_inputs(llmc, model, work, options, symmetric)
    cases["pruned-dense"] = lambda work: check_pruned(llmc, model, work)
    cases["pruned-sparsegpt-2of4"] = lambda work: check_pruned_as_dense(llmc, model, work, ["--method", "sparsegpt", "--pattern", "2:4", "--reconstruct", "--nsamples", "4", "--seqlen", "128"])
    for name in ("qwen2-untied", "qwen2-tied", "mistral-window", "qwen3-untied", "phi3-part", "stablelm-bias", "stablelm-head-norms", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "opt", "opt-350m", "opt-narrow", "bloom", "stablelm-parallel"):
        cases[name] = lambda work, tiny=GOLDEN / "tiny" / name: check_quantized(llmc, tiny, work, ["--bits", "4", "--group-size", "16"])
    for name in ("mixtral", "qwen2-moe", "qwen3-moe"):
        cases[name] = lambda work, tiny=GOLDEN / "tiny" / name: check_experts(llmc, tiny, work)
    cases["pruned-gpt2"] = lambda work: check_pruned_as_dense(llmc, GOLDEN / "tiny/gpt2-tied", work, ["--pattern", "2:4"])
    cases["pruned-shards"] = lambda work: check_pruned_as_dense(llmc, model, work, ["--pattern", "2:4", "--shard-size", "3MB"])
    cases["gpt2-packed-dense"] = lambda work: check_packed_gpt2(llmc, work)

    return run_cases(cases, arguments.work.resolve())


if __name__ == "__main__":
    sys.exit(main())
