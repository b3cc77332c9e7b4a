"""Takes a synthetic Llama of a billion parameters through a calibrated method; prints peak memory, and kills and resumes it.

    python bench/large_model.py --llmc build/release/llmc --work /var/tmp/large [-- quantize --method gptq --bits 4 --group-size 128]
    python bench/large_model.py --llmc build/release/llmc --work /var/tmp/large -- prune --method sparsegpt --sparsity 0.5

Makes the model once under --work (hidden 2048, 17 layers, 1.04e9 parameters, bf16, random weights, the tokenizer of the
bundled sample model; 2.1 GB), then

    1. runs the command on it, in one piece, and measures seconds and peak resident memory;
    2. runs it again with --resume, sends SIGKILL at a random moment of the sweep, runs it to its end, and compares the
       artifact's files with those of the first run, byte by byte.

Exits with 1 when the memory is above --most-memory or the bytes differ. Python's standard library only.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_models" / "quill-7m"
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS = 2048, 8192, 17, 32, 8


def shapes(vocabulary):
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        for part, shape in {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}.items():
            yield name + part + ".weight", shape
        yield name + "input_layernorm.weight", (HIDDEN,)
        yield name + "post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)


def make_model(folder):
    """Weights are ±2^-7 to ±2^-5 in bf16, norms 1."""
    folder.mkdir(parents=True)
    config = json.loads((SAMPLE / "config.json").read_text())
    config.update(hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HIDDEN // HEADS, tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (SAMPLE / name).exists():
            shutil.copy(SAMPLE / name, folder / name)
    header, offset = {}, 0
    for name, shape in shapes(config["vocab_size"]):
        size = 2 * (shape[0] if len(shape) == 1 else shape[0] * shape[1])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    high = bytes(0xBC if value & 1 else 0x3C for value in range(256))
    noise = random.Random(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 2
            if "norm" in name:
                file.write(b"\x80\x3f" * count)
                continue
            values = bytearray(2 * count)
            values[0::2] = noise.randbytes(count)
            values[1::2] = noise.randbytes(count).translate(high)
            file.write(values)


def start(command, log):
    return subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)


def run(command, log_path):
    """Seconds and peak resident bytes."""
    began = time.monotonic()
    with open(log_path, "wb") as log:
        process = start(command, log)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))}: status {status}\n{log_path.read_text()[-3000:]}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.name not in ("report.json", "report.md", "llmc.json")}


def kill_in_the_middle(command, log_path, state):
    """SIGKILL while the sweep works on a random block."""
    at = random.randrange(1, LAYERS)
    with open(log_path, "wb") as log:
        process = start(command, log)
        while process.poll() is None:
            try:
                finished = json.loads((state / "step-1" / "state.json").read_text())["finished"]
            except (OSError, ValueError):
                finished = 0
            if finished >= at:
                time.sleep(random.uniform(0, 3))
                process.send_signal(signal.SIGKILL)
                process.wait()
                return f"block {finished} of {LAYERS}"
            time.sleep(0.2)
    sys.exit(f"it ended before it was killed\n{log_path.read_text()[-3000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp/llmc-large"))
    parser.add_argument("--most-memory", type=float, default=3.0, help="GiB")
    parser.add_argument("--skip-resume", action="store_true")
    parser.add_argument("--nsamples", type=int, default=32, help="of 512 tokens")
    parser.add_argument("command", nargs="*", default=["quantize", "--method", "gptq", "--bits", "4", "--group-size", "128"], help="of llmc, and its flags")
    options = parser.parse_args()
    model = options.work / "model"
    if not model.exists():
        make_model(model)
    name, *flags = options.command
    common = [options.llmc, name, model, *flags, "--nsamples", options.nsamples, "--seqlen", 512, "--max-windows", 1]
    outs = {name: options.work / name for name in ("whole", "resumed", "state")}
    for path in outs.values():
        shutil.rmtree(path, ignore_errors=True)

    seconds, peak = run([*common, "-o", outs["whole"]], options.work / "whole.log")
    print(f"in one piece: {seconds:.0f} s, {peak / 2**30:.2f} GiB peak, {sum(path.stat().st_size for path in outs['whole'].iterdir()) / 2**30:.2f} GiB written", flush=True)
    failed = peak > options.most_memory * 2**30
    if not options.skip_resume:
        resumed = [*common, "-o", outs["resumed"], "--resume", outs["state"]]
        print("killed at", kill_in_the_middle(resumed, options.work / "killed.log", outs["state"]), flush=True)
        seconds, peak = run(resumed, options.work / "resumed.log")
        same = hashes(outs["whole"]) == hashes(outs["resumed"])
        print(f"resumed: {seconds:.0f} s, {peak / 2**30:.2f} GiB peak, the same bytes: {'yes' if same else 'NO'}")
        failed |= not same
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
