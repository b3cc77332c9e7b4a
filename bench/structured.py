"""Perplexity, KL divergence and size after whole structures were removed, before and after compensation, as bench/results/structured.csv.

    python3 bench/structured.py --llmc build/release/llmc [--settings …] [--methods …]

quill-7m, calibrated on 64 samples of the bundled text and judged on 16 windows of the held-out one, as in bench/pruning.py. Rows
that the file has already are kept and not run again; --fresh starts over. Python's standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from result_rows import ResultRows

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = {"ffn 10 %": ["ffn=10%"], "ffn 20 %": ["ffn=20%"], "ffn 30 %": ["ffn=30%"], "heads 50 %": ["heads=50%"], "hidden 12.5 %": ["hidden=12.5%"], "1 layer": ["layers=1"], "2 layers": ["layers=2"], "ffn 20 %, heads 50 %, 1 layer": ["ffn=20%", "heads=50%", "layers=1"]}
METHODS = {"magnitude": ("magnitude", False), "activation": ("activation", False), "activation, compensated": ("activation", True), "loss": ("loss", False), "loss, compensated": ("loss", True)}
COLUMNS = ["model", "setting", "method", "parameters", "bytes", "perplexity", "reference_perplexity", "kl_mean", "top1_agreement"]


def measure(llmc, setting, method, threads):
    importance, compensates = METHODS[method]
    kinds = SETTINGS[setting]
    ranks_layers_only = all(kind.startswith("layers") for kind in kinds)
    flags = [part for kind in kinds for part in ("--structured", kind)] + ["--compensate", str(compensates).lower(), "--importance", "block-influence" if ranks_layers_only else importance]
    calibrates = compensates or importance != "magnitude" or any(kind.startswith("layers") for kind in kinds)
    with tempfile.TemporaryDirectory(prefix="llmc-structured-") as work:
        command = [llmc, "prune", ROOT / "sample_models" / "quill-7m", "-o", f"{work}/out", *flags, *(["--nsamples", 64] if calibrates else []), "--max-windows", 16, "--threads", threads, "--json", "--quiet"]
        report = json.loads(subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout)
    return {"parameters": report["steps"][1]["details"]["parameters"]["after"], "bytes": report["artifact"]["bytes"], **{key: f"{report['quality'][key]:.6g}" for key in ("perplexity", "reference_perplexity", "kl_mean", "top1_agreement")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "structured.csv")
    options = parser.parse_args()
    table = ResultRows(options.csv, COLUMNS, ("setting", "method"), options.fresh)
    for setting in options.settings:
        ranks_layers_only = setting in ("1 layer", "2 layers")
        for method in options.methods:
            if table.has(setting, method) or ranks_layers_only and not method.startswith("loss"):  # layers have one ranking
                continue
            figures = measure(options.llmc, setting, method, options.threads)
            table.add({"model": "quill-7m", "setting": setting, "method": method, **figures})
            print(f"{setting}, {method}: KL {figures['kl_mean']}, perplexity {figures['perplexity']} of {figures['reference_perplexity']}", file=sys.stderr)


if __name__ == "__main__":
    main()
