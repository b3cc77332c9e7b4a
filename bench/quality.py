"""Held-out perplexity and KL divergence of each method at each width, as bench/results/quality.csv.

    python3 bench/quality.py --llmc build/release/llmc [--smollm2 DIR] [--shared ../shared/models] [--models …] [--methods …] [--settings …]

Every figure is from the artifact on disk: llmc quantizes, writes, re-opens and judges it, and the figures are its report's.
Models that are not there are left out, and a line says so. SmolLM2 is made by bench/peers/smollm2.py. Quill and SmolLM2 are
calibrated on the bundled calibration text and judged on the bundled held-out text; the Llamas trained on TinyStories have one
file of token ids, of which llmc judges on the last 20 % and calibrates on the rest (methods that need no calibration are given
those 20 % alone). Same seed, same samples for all methods.
A run that llmc refuses (a group that does not divide a row) is a row with its reason. Rows that the file has already are
kept and not run again, so that the table can be made in pieces; --fresh starts over.

Python's standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from result_rows import ResultRows

ROOT = pathlib.Path(__file__).resolve().parent.parent
IDS = ROOT / "tests" / "golden" / "ids"
SETTINGS = {"4-bit g32": (4, 32), "4-bit g64": (4, 64), "4-bit g128": (4, 128), "3-bit g32": (3, 32), "3-bit g64": (3, 64), "2-bit g32": (2, 32)}
METHODS = {
    "rtn": [],
    "rtn, mse": ["--observer", "mse"],
    "rtn, mse weighted by activations": ["--observer", "mse", "--activation-weighted", "true"],
    "hqq": ["--observer", "hqq"],
    "gptq, plain": ["--method", "gptq", "--refinements", "0", "--drift-correction", "false"],
    "gptq": ["--method", "gptq"],
    "awq": ["--method", "awq"],
    "learned": ["--method", "learned"],
    "gptq, healed": ["--method", "gptq", "--heal"],
    "gptq with generated text, healed": ["--method", "gptq", "--generate-samples", "64", "--heal"],
}
DATA_FREE = ("rtn", "rtn, mse", "hqq")
COLUMNS = ["model", "setting", "method", "bits_per_weight", "perplexity", "reference_perplexity", "kl_mean", "top1_agreement", "scored_tokens", "note"]


def find_models(options):
    """Name → directory, token ids if texts cannot be used, windows to judge on (0: all)."""
    shared = options.shared
    models = {"quill-7m": (ROOT / "sample_models" / "quill-7m", None, 16), "SmolLM2-135M": (options.smollm2, None, 8)}
    for name, ids in (("babyllama-tok361", "babyllama-tok361"), ("TinyStories-656K", "TinyStories-656K"), ("stories260K", "stories260K"), ("llama2xs", "stories260K")):
        models[name] = (shared / name, IDS / f"{ids}.tinystories.npy", 0)
    found = {name: model for name, model in models.items() if name in (options.models or models)}
    for name, (path, _, _) in list(found.items()):
        if not path or not (path / "config.json").exists():
            print(f"{name}: {path} is not there; left out", file=sys.stderr)
            del found[name]
    return found


def write_end(ids, path):
    """The last fifth of the u16 token ids of a .npy file (NumPy's format, version 1), as llmc holds it out of a single file."""
    data = ids.read_bytes()
    start = 10 + int.from_bytes(data[8:10], "little")
    if data[:8] != b"\x93NUMPY\x01\x00" or b"'<u2'" not in data[:start]:
        sys.exit(f"{ids}: expected u16 token ids")
    values = data[start:]
    wanted = int(0.2 * (len(values) // 2))
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({wanted},), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    path.write_bytes(data[:8] + len(header).to_bytes(2, "little") + header.encode() + values[-2 * wanted:])


def quantize(setting, method, work):
    """The command and its flags; whether it calibrates."""
    bits, group = SETTINGS[setting]
    return ["quantize", "--bits", bits, "--group-size", group, "--scheme", "symmetric", *METHODS[method]], method not in DATA_FREE


def measure(options, model, make_command, setting, method):
    """The figures of the report, all that any table has a column for; or a note; or None where there is no such row."""
    path, ids, windows = model
    data = ["--eval-data", ids] if ids else []
    with tempfile.TemporaryDirectory(prefix="llmc-quality-") as work:
        made = make_command(setting, method, pathlib.Path(work))
        if not made:
            return None
        (command, *flags), calibrates = made
        if calibrates and command != "compress":
            flags += ["--nsamples", options.samples, *(["--calibration", data[1]] if data else [])]
        if not calibrates and data:
            data = ["--eval-data", f"{work}/end.npy"]
            write_end(ids, pathlib.Path(data[1]))
        whole = [options.llmc, command, path, "-o", f"{work}/out", *flags, *data, "--max-windows", windows, "--threads", options.threads, "--json", "--quiet"]
        run = subprocess.run([str(part) for part in whole], capture_output=True, text=True)
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines()
        return {"note": next((line for line in lines if line.startswith("  - ")), lines[-1]).strip().removeprefix("llmc: error: ").removeprefix("- ")}
    report = json.loads(run.stdout)
    return {"bits_per_weight": report["bits_per_weight"], "parameters": report["cost"]["after"]["parameters"], "bytes": report["artifact"]["bytes"], **{key: report["quality"][key] for key in ("perplexity", "reference_perplexity", "kl_mean", "top1_agreement", "scored_tokens")}}


def make_table(description, name, settings, methods, make_command, columns=COLUMNS):
    """Every setting by every method, as bench/results/NAME.csv; make_command(setting, method, work folder) as `quantize`, or None where there is no such row."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, default=ROOT / "build" / "release" / "llmc")
    parser.add_argument("--smollm2", type=pathlib.Path)
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    parser.add_argument("--settings", nargs="+", choices=settings, default=list(settings))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench" / "results" / f"{name}.csv")
    options = parser.parse_args()
    table = ResultRows(options.csv, columns, ("model", "setting", "method"), options.fresh)
    for name, model in find_models(options).items():
        for setting in options.settings:
            for method in options.methods:
                if table.has(name, setting, method):
                    continue
                figures = measure(options, model, make_command, setting, method)
                if not figures:
                    continue
                table.add({"model": name, "setting": setting, "method": method, **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in figures.items() if key in columns}})
                print(f"{name} {setting} {method}: " + (figures.get("note") or f"KL {figures['kl_mean']:.4f}, perplexity {figures['perplexity']:.3f} of {figures['reference_perplexity']:.3f}"), file=sys.stderr)


if __name__ == "__main__":
    make_table(__doc__, "quality", SETTINGS, METHODS, quantize)
