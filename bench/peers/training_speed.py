"""Speed and memory of training quill-7m (7.3 M parameters) beside PyTorch on the CPU: the same model, batch and optimizer in one run.

    python3 bench/peers/training_speed.py [--llmc build/release/llmc] [--python PYTHON] [--repeats 3]

A step is one batch of 4 × 512 tokens of the bundled text: forward, cross-entropy, backward, clipping and AdamW on f32 masters. llmc's
rate is from the difference of two runs of 2 and 2 + STEPS steps, so that reading and judging count for nothing; PyTorch's from as many
steps after two that warm up. PyTorch's bf16 is torch.autocast, which like llmc's leaves the weights in f32. The two take turns,
--repeats times; the file has the medians. Peak memory is that of the process while it trains. Run on a machine that does nothing else.
"""

import argparse
import csv
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "sample_models" / "quill-7m"
BATCH, SEQLEN, STEPS = 4, 512, 8
COLUMNS = ["precision", "threads", "llmc_tokens_per_second", "pytorch_tokens_per_second", "ratio", "llmc_peak_bytes", "pytorch_peak_bytes", "memory_ratio", "load_average"]


def train_llmc(llmc, precision, threads):
    def run(steps, work):
        command = [llmc, "distill", MODEL, "--student", MODEL, "-o", f"{work}/{steps}", "--kl-weight", 0, "--ce-weight", 1, "--steps", steps, "--batch", BATCH, "--seqlen", SEQLEN, "--training-precision", precision, "--max-windows", 1, "--threads", threads, "--json", "--quiet"]
        report = json.loads(subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout)
        return next(step for step in report["steps"] if step["name"] == "distill")

    with tempfile.TemporaryDirectory(prefix="llmc-speed-") as work:
        short, long = run(2, work), run(2 + STEPS, work)
    return (long["details"]["tokens"] - short["details"]["tokens"]) / (long["seconds"] - short["seconds"]), long["peak_memory_bytes"]


def train_pytorch(python, precision, threads):
    done = subprocess.run([python, __file__, "--as-pytorch", precision, "--threads", str(threads)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["tokens_per_second"], result["peak_bytes"]


def as_pytorch(precision, threads):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0)
    torch.manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (BATCH, SEQLEN))
    for step in range(2 + STEPS):
        if step == 2:
            started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - started
    print(json.dumps({"tokens_per_second": STEPS * BATCH * SEQLEN / seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--python", default=os.environ.get("LLMC_PEERS_PYTHON", sys.executable), help="a Python that has torch and transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "training_speed.csv")
    parser.add_argument("--as-pytorch", choices=["f32", "bf16"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_pytorch:
        return as_pytorch(options.as_pytorch, options.threads)
    rows = []
    for precision in ("f32", "bf16"):
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(train_llmc(options.llmc, precision, options.threads))
            theirs.append(train_pytorch(options.python, precision, options.threads))
        rate, peak = (statistics.median(run[i] for run in ours) for i in (0, 1))
        other_rate, other_peak = (statistics.median(run[i] for run in theirs) for i in (0, 1))
        rows.append([precision, options.threads, f"{rate:.0f}", f"{other_rate:.0f}", f"{rate / other_rate:.2f}", int(peak), int(other_peak), f"{peak / other_peak:.2f}", f"{os.getloadavg()[0]:.1f}"])
        print(dict(zip(COLUMNS, rows[-1])), file=sys.stderr)
    with open(options.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
