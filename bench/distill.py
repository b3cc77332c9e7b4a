"""A student with half of quill-7m's layers, distilled and trained on the text alone, as bench/results/distill.csv.

    python3 bench/distill.py --llmc build/release/llmc [--seeds …]

The student starts from 4 of the 8 layers (prune.structured). Both trainings take the same steps over the same samples of the bundled
calibration text in the same order, which the seed makes; the first has the loss T² · KL(teacher ‖ student), T = 2, the second the
cross-entropy of the next token. Judged on all of the held-out text. Rows that the file has already are kept and not run again;
--fresh starts over. Python's standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from result_rows import ResultRows

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSSES = {"distilled": [], "text alone": ["--kl-weight", 0, "--ce-weight", 1]}
TRAINING = ["--steps", 120, "--batch", 4, "--seqlen", 256, "--lr", "5e-4"]
COLUMNS = ["model", "student", "seed", "loss", "perplexity", "reference_perplexity", "kl_mean", "top1_agreement"]


def measure(llmc, loss, seed, threads):
    with tempfile.TemporaryDirectory(prefix="llmc-distill-") as work:
        command = [llmc, "distill", ROOT / "sample_models" / "quill-7m", "--student-layers", 4, "-o", f"{work}/out", *TRAINING, *LOSSES[loss], "--seed", seed, "--max-windows", 0, "--threads", threads, "--json", "--quiet"]
        report = json.loads(subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {key: f"{report['quality'][key]:.6g}" for key in ("perplexity", "reference_perplexity", "kl_mean", "top1_agreement")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "distill.csv")
    options = parser.parse_args()
    table = ResultRows(options.csv, COLUMNS, ("seed", "loss"), options.fresh)
    for seed in options.seeds:
        for loss in LOSSES:
            if table.has(seed, loss):
                continue
            figures = measure(options.llmc, loss, seed, options.threads)
            table.add({"model": "quill-7m", "student": "4 of 8 layers", "seed": seed, "loss": loss, **figures})
            print(f"seed {seed}, {loss}: perplexity {figures['perplexity']} of {figures['reference_perplexity']}, KL {figures['kl_mean']}", file=sys.stderr)


if __name__ == "__main__":
    main()
