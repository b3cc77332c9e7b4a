"""Speed and memory of evaluation beside PyTorch (transformers) on the CPU, in one run.

    python3 bench/peers/evaluate_speed.py [--llmc build/release/llmc] [--bench build/dev/bench/bench_evaluate_speed] [--python PYTHON] [--windows 16] [--repeats 3]

Of a Llama of 254 million parameters (bench/llama_250m.json, random weights, bf16 in the file; --model takes another directory), in f32 and in bf16, both
with --threads threads on windows of 512 random tokens.

llmc's tokens per second are those of the difference of two runs of `llmc evaluate`, of 2 and 2 + 16 (--windows) windows, so that starting, reading
the model and the oracle count for nothing; scores of every token are in it. transformers' are those of a forward pass with logits for all positions,
in inference mode, after one that warms up, of 1, 4 and 8 windows at once: the best counts. The two take turns, --repeats times; figures are medians.
"ratio" compares them by the clock, for a machine that does nothing else; "processor_ratio" by the processor time of all threads.
Loading: seconds until the logits of eight tokens are there (of Python without its imports), and the process's peak memory; of llmc with checks of
every value, by bench_evaluate_speed, in f32 in both rows.
"""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import random
import re
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SEQLEN, VOCABULARY = 512, 32000
COLUMNS = ["precision", "threads", "llmc_tokens_per_second", "transformers_tokens_per_second", "ratio", "processor_ratio", "llmc_first_logits_seconds", "transformers_first_logits_seconds",
           "llmc_peak_bytes", "transformers_peak_bytes", "load_average"]


def make_model(folder):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_json_file(str(ROOT / "bench" / "llama_250m.json"))).to(torch.bfloat16).save_pretrained(folder)


def run_llmc(options, model, precision, work):
    """Tokens per second by the clock and by processor time."""
    seconds = []
    for windows in (2, 2 + options.windows):
        tokens = work / f"{windows}.u16"
        source = random.Random(1)
        tokens.write_bytes(struct.pack(f"<{windows * SEQLEN}H", *(source.randrange(VOCABULARY) for _ in range(windows * SEQLEN))))
        command = [options.llmc, "evaluate", model, "--data", tokens, "--seqlen", SEQLEN, "--precision", precision, "--threads", options.threads, "--quiet"]
        started = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit("llmc evaluate failed")
        seconds.append((time.perf_counter() - started, usage.ru_utime + usage.ru_stime))
    return [options.windows * SEQLEN / (more - few) for few, more in zip(*seconds)]


def load_with_llmc(options, model):
    """Seconds to the first logits, and peak bytes."""
    answer = subprocess.run([str(options.bench), str(model), str(options.threads), "1", "0"], stdout=subprocess.PIPE, text=True, check=True).stdout
    clock, megabytes = re.search(r"\(([\d.]+) by the clock\), (\d+) MB", answer).groups()
    return float(clock), int(megabytes) << 20


def run_transformers(options, model, precision):
    """Tokens per second by the clock and by processor time, seconds to the first logits, and peak bytes."""
    command = [options.python, __file__, "--as-transformers", model, "--precision", precision, "--threads", options.threads, "--windows", options.windows]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def as_transformers(path, precision, threads, windows):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    tokens = torch.randint(0, VOCABULARY, (8, SEQLEN), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        started = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32 if precision == "f32" else torch.bfloat16).eval()
        model(tokens[:1, :8])
        first = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        speeds = []
        for batch in (1, 4, 8):
            model(tokens[:batch])
            began = time.perf_counter(), time.process_time()
            calls = max(1, windows // batch // 2)
            for _ in range(calls):
                model(tokens[:batch])
            speeds.append([calls * batch * SEQLEN / (now - then) for now, then in zip((time.perf_counter(), time.process_time()), began)])
    print(json.dumps([max(speed[i] for speed in speeds) for i in range(2)] + [first, peak]))


def measure(options, model, precision, work):
    ours, loads, theirs = [], [], []
    for _ in range(options.repeats):
        ours.append(run_llmc(options, model, precision, work))
        loads.append(load_with_llmc(options, model))
        theirs.append(run_transformers(options, model, precision))
    (clock, processor), (first, peak), (their_clock, their_processor, their_first, their_peak) = ([statistics.median(column) for column in zip(*runs)] for runs in (ours, loads, theirs))
    return [precision, options.threads, f"{clock:.0f}", f"{their_clock:.0f}", f"{clock / their_clock:.2f}", f"{processor / their_processor:.2f}", f"{first:.2f}", f"{their_first:.2f}", int(peak), int(their_peak), f"{os.getloadavg()[0]:.1f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build" / "dev" / "bench" / "bench_evaluate_speed")
    parser.add_argument("--python", default=os.environ.get("LLMC_PEERS_PYTHON", sys.executable), help="a Python that has torch and transformers")
    parser.add_argument("--model", type=pathlib.Path, help="a directory; its vocabulary has at least 32000 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=pathlib.Path, help="where the figures go; default: stdout")
    parser.add_argument("--as-transformers", help=argparse.SUPPRESS)
    parser.add_argument("--make-model", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make_model:
        return make_model(options.make_model)
    if options.as_transformers:
        return as_transformers(options.as_transformers, options.precision, options.threads, options.windows)
    with tempfile.TemporaryDirectory(prefix="llmc-evaluate-") as folder:
        work = pathlib.Path(folder)
        model = options.model or work / "model"
        if not options.model:
            subprocess.run([options.python, __file__, "--make-model", str(model)], stderr=subprocess.DEVNULL, check=True)
        rows = [measure(options, model, precision, work) for precision in ("f32", "bf16")]
    with open(options.csv, "w", newline="") if options.csv else contextlib.nullcontext(sys.stdout) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
