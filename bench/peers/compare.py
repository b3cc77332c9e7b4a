"""Compresses one model with llmc and with its peers, in one run: same data, same settings, same threads, same judge.

    python compare.py --llmc build/release/llmc --model sample_models/quill-7m --settings 4:128 3:64

Every tool gets the same rows of token ids (64 of 512 tokens, from the front of the calibration text) and quantizes the same
weights: linear layers of the blocks, symmetric, in groups. Per run it measures

    wall      seconds of the whole process: start, imports, loading, compressing, saving. llmc's includes its own judging
              of one window.
    own       seconds of the compression alone: llm-compressor's oneshot(), auto-round's quantize(), llmc's steps that generate,
              quantize and heal
    cpu       user and system seconds of the process; less disturbed than wall when the machine has other work
    memory    peak resident memory of the process; "own" until the compressed model was written: llmc's judging comes after that

and judges what was stored: `llmc evaluate ARTIFACT --reference MODEL` on the held-out text. A peer's artifact is loaded by
transformers and written as float32 first (to_dense.py); that is not timed. Runs of the tools alternate, so that a slow
minute hits all; the table has medians, and ratios to llmc's method that is named first.

Python's standard library only. The peers run in a Python of their own: LLMC_PEERS_PYTHON, or --venv, which is made from
requirements.txt when it is not there (about 1.5 GB). Exits with 77 when that cannot be done.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
METHODS = ("--method gptq --refinements 0 --drift-correction false", "--method gptq", "--method gptq --generate-samples 64 --heal")  # plain, default, best
PEERS = {"llm-compressor gptq": "llmcompressor_gptq.py", "auto-round": "auto_round_sign.py"}
COLUMNS = ["model", "bits", "group_size", "tool", "repeat", "wall_seconds", "own_seconds", "cpu_seconds", "peak_mb", "own_peak_mb", "kl_mean", "perplexity", "reference_perplexity", "top1_agreement", "load_average"]


def find_python(venv):
    python = os.environ.get("LLMC_PEERS_PYTHON")
    if not python:
        python = str(venv / "bin" / "python")
        if not pathlib.Path(python).exists():
            print(f"installing the peers into {venv}", file=sys.stderr)
            try:
                subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
                subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")], check=True)
            except (subprocess.CalledProcessError, OSError) as problem:
                shutil.rmtree(venv, ignore_errors=True)
                give_up(f"the peers could not be installed: {problem}")
    check = subprocess.run([python, "-c", "import torch, transformers, llmcompressor, auto_round"], capture_output=True, text=True)
    if check.returncode != 0:
        give_up(f"{python} lacks the peers (set LLMC_PEERS_PYTHON or use another --venv):\n{check.stderr.strip().splitlines()[-1]}")
    return python


def give_up(message):
    print("compare.py: " + message, file=sys.stderr)
    sys.exit(77)


def run_timed(command, log, threads):
    """Seconds, CPU seconds and peak resident MB of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as output:
        start = time.monotonic()
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=HERE)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = pathlib.Path(log).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{tail}")
    return {"wall_seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def write_npy(path, rows):
    header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        for row in rows:
            file.write(b"".join(token.to_bytes(4, "little") for token in row))


def tokenize(python, model, text, samples, seqlen):
    """The first samples · seqlen ids, by the library that the peers use."""
    code = "import json, sys; from tokenizers import Tokenizer; print(json.dumps(Tokenizer.from_file(sys.argv[1]).encode(open(sys.argv[2], encoding='utf-8').read(), add_special_tokens=False).ids))"
    ids = json.loads(subprocess.run([python, "-c", code, str(model / "tokenizer.json"), str(text)], check=True, capture_output=True, text=True).stdout)
    if len(ids) < samples * seqlen:
        sys.exit(f"compare.py: {text} has {len(ids)} tokens, {samples * seqlen} are needed")
    return [ids[i * seqlen:(i + 1) * seqlen] for i in range(samples)]


class Comparison:
    def __init__(self, options, python, model, work):
        self.options, self.python, self.model, self.work = options, python, model, work
        self.samples = tokenize(python, model, options.calibration, options.samples, options.seqlen)
        write_npy(work / "calibration.npy", self.samples)

    def run_llmc(self, method, bits, group, out):
        command = [self.options.llmc, "quantize", self.model, "-o", out, "--bits", bits, "--group-size", group, "--scheme", "symmetric", *method.split(), "--threads", self.options.threads, "--max-windows", 1]
        if "--method" in method:  # the rest is free of data
            command += ["--calibration", self.work / "calibration.npy", "--nsamples", self.options.samples, "--seqlen", self.options.seqlen]
        figures = run_timed(command, self.work / "log", self.options.threads)
        steps = json.loads((out / "report.json").read_text())["steps"]
        own_peak = next(step["peak_memory_bytes"] for step in steps if step["name"] == "write") / 2**20
        return {**figures, "own_peak_mb": own_peak, "own_seconds": sum(step["seconds"] for step in steps if step["name"].startswith(("generate", "quantize", "heal")))}, out

    def run_peer(self, script, bits, group, out):
        job = {"model": str(self.model), "samples": self.samples, "bits": bits, "group_size": group, "threads": self.options.threads, "iterations": self.options.iterations, "out": str(out), "result": str(self.work / "result.json")}
        (self.work / "job.json").write_text(json.dumps(job))
        figures = run_timed([self.python, HERE / script, self.work / "job.json"], self.work / "log", self.options.threads)
        figures["own_peak_mb"] = figures["peak_mb"]
        figures["own_seconds"] = json.loads((self.work / "result.json").read_text())["compress_seconds"]
        dense = out.with_name(out.name + "-dense")
        run_timed([self.python, HERE / "to_dense.py", self.model, out, dense], self.work / "log", self.options.threads)
        return figures, dense

    def judge(self, artifact):
        command = [self.options.llmc, "evaluate", artifact, "--reference", self.model, "--data", self.options.held_out, "--seqlen", self.options.seqlen, "--max-windows", self.options.windows, "--threads", self.options.threads, "--json"]
        result = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
        return {key: json.loads(result)["quality"][key] for key in ("kl_mean", "perplexity", "reference_perplexity", "top1_agreement")}

    def run(self, tool, bits, group, repeat):
        out = self.work / "artifact"
        if tool in PEERS:
            figures, artifact = self.run_peer(PEERS[tool], bits, group, out)
        else:
            figures, artifact = self.run_llmc(tool.removeprefix("llmc "), bits, group, out)
        row = {"model": self.model.name, "bits": bits, "group_size": group, "tool": tool, "repeat": repeat, **figures, **self.judge(artifact), "load_average": os.getloadavg()[0]}
        for path in (out, out.with_name(out.name + "-dense")):
            shutil.rmtree(path, ignore_errors=True)
        return row


def summarize(rows):
    first = next((row["tool"] for row in rows if row["tool"].startswith("llmc")), None)
    print(f"{'model':<10} {'scheme':<8} {'tool':<30} {'wall s':>8} {'own s':>8} {'cpu s':>8} {'MB':>7} {'own MB':>7} {'KL':>8} {'ppl':>8}   wall, own, memory, own memory and KL over those of {first}")
    settings = sorted({(row["model"], row["bits"], row["group_size"]) for row in rows})
    for model, bits, group in settings:
        medians = {}
        for row in rows:
            if (row["model"], row["bits"], row["group_size"]) == (model, bits, group):
                medians.setdefault(row["tool"], []).append(row)
        medians = {tool: {key: statistics.median(row[key] for row in found) for key in ("wall_seconds", "own_seconds", "cpu_seconds", "peak_mb", "own_peak_mb", "kl_mean", "perplexity")} for tool, found in medians.items()}
        for tool, m in medians.items():
            ratios = ", ".join(f"{m[key] / medians[first][key]:.2f}" for key in ("wall_seconds", "own_seconds", "peak_mb", "own_peak_mb", "kl_mean")) if first in medians else ""
            print(f"{model:<10} {f'{bits}b g{group}':<8} {tool:<30} {m['wall_seconds']:>8.1f} {m['own_seconds']:>8.1f} {m['cpu_seconds']:>8.1f} {m['peak_mb']:>7.0f} {m['own_peak_mb']:>7.0f} {m['kl_mean']:>8.4f} {m['perplexity']:>8.2f}   {ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--model", type=pathlib.Path, action="append", help="may be repeated; default: sample_models/quill-7m")
    parser.add_argument("--settings", nargs="+", default=["4:128", "3:64"], help="BITS:GROUP")
    parser.add_argument("--tools", nargs="+", default=[f"llmc {flags}" for flags in METHODS] + list(PEERS), help="a peer's name, or llmc and its flags; the first of llmc's is what ratios refer to")
    parser.add_argument("--calibration", type=pathlib.Path, default=ROOT / "calib" / "data" / "calibration.txt")
    parser.add_argument("--held-out", type=pathlib.Path, default=ROOT / "sample_models" / "quill-7m" / "held_out.txt")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--windows", type=int, default=0, help="to judge on; 0: all")
    parser.add_argument("--iterations", type=int, default=100, help="of auto-round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / "build" / "peers-venv")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "peers.csv")
    options = parser.parse_args()
    options.llmc, options.calibration, options.held_out = (path.resolve() for path in (options.llmc, options.calibration, options.held_out))
    python = find_python(options.venv.resolve())

    rows = []
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with open(options.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for model in options.model or [ROOT / "sample_models" / "quill-7m"]:
            with tempfile.TemporaryDirectory(prefix="llmc-peers-") as work:
                comparison = Comparison(options, python, model.resolve(), pathlib.Path(work))
                for bits, group in (map(int, setting.split(":")) for setting in options.settings):
                    for repeat in range(options.repeats):
                        for tool in options.tools:
                            row = comparison.run(tool, bits, group, repeat)
                            rows.append(row)
                            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
                            file.flush()
                            print(f"{row['model']} {bits}b g{group} {tool}: {row['wall_seconds']:.1f} s, KL {row['kl_mean']:.4f}", file=sys.stderr)
    summarize(rows)


if __name__ == "__main__":
    main()
