"""What healing gets back of the perplexity that pruning and rounding cost, as bench/results/healing.csv.

    python3 bench/healing.py --llmc build/release/llmc [--settings …]

quill-7m, trained on 200 samples of 512 tokens of the bundled calibration text and judged on all of the held-out one. `recovered` is
the share of the loss: (plain − healed) / (plain − reference). `cpu_seconds` is the processor time of the whole command that heals,
compression and judging included. Rows that the file has already are kept and not run again; --fresh starts over. Python's standard
library only.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

from result_rows import ResultRows

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAL = {"pass": "heal", "epochs": 2}
CODES = {"pass": "heal", "scope": "block", "code_rate": 0.02, "epochs": 2}
DISTILL = {"pass": "distill", "steps": 100, "batch": 4, "rate": 5e-4, "temperature": 1, "cache_teacher": True}
SETTINGS = {
    "pruned 50 %, magnitude": ([{"pass": "prune.magnitude", "sparsity": 0.5}], HEAL),
    "structured: 40 % of the channels (31 % of the blocks' weights), magnitude": ([{"pass": "prune.structured", "ffn": 0.4, "importance": "magnitude", "compensate": False}], DISTILL),
    "structured: 40 % of the channels (31 % of the blocks' weights), compensated": ([{"pass": "prune.structured", "ffn": 0.4}], DISTILL),
    "3 bits, rtn, groups of 64": ([{"pass": "quantize.rtn", "scheme": "W3A16-g64"}], HEAL),
    "3 bits, rtn, groups of 64, codes too": ([{"pass": "quantize.rtn", "scheme": "W3A16-g64"}], CODES, HEAL),
    "2 bits, rtn, groups of 32": ([{"pass": "quantize.rtn", "scheme": "W2A16-g32"}], HEAL),
    "2 bits, gptq, groups of 32": ([{"pass": "quantize.gptq", "scheme": "W2A16-g32"}], HEAL),
    "2 bits, gptq, groups of 32, codes too": ([{"pass": "quantize.gptq", "scheme": "W2A16-g32"}], CODES, HEAL),
}
COLUMNS = ["model", "setting", "training", "plain", "healed", "reference", "recovered", "kl_plain", "kl_healed", "cpu_seconds"]


def run(llmc, steps, threads):
    """The report's quality, and the processor seconds that it took."""
    with tempfile.TemporaryDirectory(prefix="llmc-healing-") as work:
        calibrates = any(step["pass"] in ("heal", "distill", "quantize.gptq") or step["pass"] == "prune.structured" and step.get("compensate", True) for step in steps)
        recipe = {"version": 1, "steps": steps, **({"calibration": {"nsamples": 200, "seqlen": 512}} if calibrates else {})}
        pathlib.Path(work, "recipe.json").write_text(json.dumps(recipe))
        command = [llmc, "compress", ROOT / "sample_models" / "quill-7m", "-o", f"{work}/out", "--recipe", f"{work}/recipe.json", "--max-windows", 0, "--threads", threads, "--json", "--quiet"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True).stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return report["quality"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / "healing.csv")
    options = parser.parse_args()
    table = ResultRows(options.csv, COLUMNS, ("setting",), options.fresh)
    for setting in options.settings:
        if table.has(setting):
            continue
        steps, *training = SETTINGS[setting]
        plain, _ = run(options.llmc, steps, options.threads)
        healed, seconds = run(options.llmc, [*steps, *training], options.threads)
        reference = plain["reference_perplexity"]
        recovered = (plain["perplexity"] - healed["perplexity"]) / (plain["perplexity"] - reference)
        table.add({"model": "quill-7m", "setting": setting, "training": " + ".join(" ".join([step["pass"], *([step["scope"]] if "scope" in step else [])]) for step in training), "plain": f"{plain['perplexity']:.6g}", "healed": f"{healed['perplexity']:.6g}", "reference": f"{reference:.6g}", "recovered": f"{recovered:.3f}", "kl_plain": f"{plain['kl_mean']:.6g}", "kl_healed": f"{healed['kl_mean']:.6g}", "cpu_seconds": f"{seconds:.0f}"})
        print(f"{setting}: perplexity {table.rows[-1]['plain']} → {table.rows[-1]['healed']} of {table.rows[-1]['reference']}, {table.rows[-1]['recovered']} recovered in {table.rows[-1]['cpu_seconds']} s", file=sys.stderr)


if __name__ == "__main__":
    main()
