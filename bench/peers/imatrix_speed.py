"""Speed and memory of measuring an importance matrix beside llama.cpp on the CPU, in one run.

    python3 bench/peers/imatrix_speed.py [--llmc build/release/llmc] [--python PYTHON] [--model DIRECTORY ...] [--samples 32] [--repeats 3]

llmc's tokens per second are those of the difference of two runs of `llmc imatrix`, of 2 and 2 + 32 (--samples) samples of 512 tokens, so that
starting, reading the model and the text count for nothing. llama.cpp's are those of llama_decode over as many chunks of 512 tokens with
logits wanted of every position, which is what llama-imatrix runs, after a chunk that warms up; its adding up of squares, on one thread
between the products, is left out, so llama-imatrix itself is slower. It runs the model in F16 and in BF16; the better one counts.
The two take turns, --repeats times; the figures are the medians. Peak memory is the process's. "ratio" compares them by the clock, for a
machine that does nothing else; "processor_ratio" by the processor time of all threads, of which on a busy machine only the one with
--threads 1 is worth something, as llama.cpp's threads wait for each other by spinning.
"""

import argparse
import contextlib
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
SEQLEN = 512
COLUMNS = ["model", "threads", "llmc_tokens_per_second", "llama_cpp_f16_tokens_per_second", "llama_cpp_bf16_tokens_per_second", "ratio", "processor_ratio", "llmc_peak_bytes", "llama_cpp_peak_bytes", "load_average"]


def run_llmc(options, model, work):
    """Tokens per second by the clock and by processor time, and peak bytes."""
    seconds, peak = [], 0
    for samples in (2, 2 + options.samples):
        command = [options.llmc, "imatrix", model, "-o", work / "i.gguf", "--force", "--quiet", "--threads", options.threads, "--nsamples", samples, "--seqlen", SEQLEN, "--calibration", options.calibration]
        started = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit(f"llmc imatrix failed on {model}")
        seconds.append((time.perf_counter() - started, usage.ru_utime + usage.ru_stime))
        peak = max(peak, usage.ru_maxrss * 1024)
    return (*(options.samples * SEQLEN / (more - few) for few, more in zip(*seconds)), peak)


def run_llama_cpp(options, path):
    done = subprocess.run([options.python, __file__, "--as-llama-cpp", path, "--threads", str(options.threads), "--samples", str(options.samples)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def as_llama_cpp(path, threads, samples):
    import random

    import llama_cpp

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = SEQLEN
    options.n_threads = options.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, options)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    source, batch = random.Random(1), llama_cpp.llama_batch_init(SEQLEN, 0, 1)
    batch.n_tokens = SEQLEN
    for chunk in range(1 + samples):
        if chunk == 1:
            started = time.perf_counter(), time.process_time()
        for i in range(SEQLEN):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = source.randrange(vocabulary), i, 1, 1
            batch.seq_id[i][0] = 0
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit(f"llama.cpp does not run {path}")
        llama_cpp.llama_synchronize(context)
    seconds = [now - then for now, then in zip((time.perf_counter(), time.process_time()), started)]
    print(json.dumps([samples * SEQLEN / taken for taken in seconds] + [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def measure(options, model):
    with tempfile.TemporaryDirectory(prefix="llmc-imatrix-") as folder:
        work = pathlib.Path(folder)
        for kind in ("F16", "BF16"):
            subprocess.run([str(part) for part in (options.llmc, "convert", model, "-o", work / f"{kind}.gguf", "--type", kind, "--max-windows", 1, "--quiet")], stdout=subprocess.DEVNULL, check=True)
        ours, f16, bf16 = [], [], []
        for _ in range(options.repeats):
            ours.append(run_llmc(options, model, work))
            f16.append(run_llama_cpp(options, str(work / "F16.gguf")))
            bf16.append(run_llama_cpp(options, str(work / "BF16.gguf")))
    (rate, work_rate, peak), (rate16, work_rate16, peak16), (rate_bf, work_rate_bf, peak_bf) = ([statistics.median(run[i] for run in runs) for i in range(3)] for runs in (ours, f16, bf16))
    ratios = [f"{rate / max(rate16, rate_bf):.2f}", f"{work_rate / max(work_rate16, work_rate_bf):.2f}"]
    return [model.name, options.threads, f"{rate:.0f}", f"{rate16:.0f}", f"{rate_bf:.0f}", *ratios, int(peak), int(peak16 if rate16 > rate_bf else peak_bf), f"{os.getloadavg()[0]:.1f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--python", default=os.environ.get("LLMC_PEERS_PYTHON", sys.executable), help="a Python that has llama-cpp-python")
    parser.add_argument("--model", type=pathlib.Path, action="append", help="may be repeated; default: sample_models/quill-7m")
    parser.add_argument("--calibration", type=pathlib.Path, default=ROOT / "calib" / "data" / "calibration.txt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=pathlib.Path, help="where the figures go; default: stdout")
    parser.add_argument("--as-llama-cpp", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_llama_cpp:
        return as_llama_cpp(options.as_llama_cpp, options.threads, options.samples)
    rows = []
    for model in options.model or [ROOT / "sample_models" / "quill-7m"]:
        rows.append(measure(options, model))
    with open(options.csv, "w", newline="") if options.csv else contextlib.nullcontext(sys.stdout) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
