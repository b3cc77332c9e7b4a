"""Held-out perplexity and KL divergence of each way to prune at each sparsity, as bench/results/pruning.csv.

    python3 bench/pruning.py --llmc build/release/llmc [--smollm2 DIR] [--shared ../shared/models] [--models …] [--methods …] [--settings …]

Models, data and rows as in bench/quality.py, which this is a setting of. "50 %, 4-bit g32" prunes and then quantizes by GPTQ; "60 %, owl" spreads the zeros by `--allocation`.
Python's standard library only.
"""

import json

import quality

SHARES = {"30 %": {"sparsity": 0.3}, "50 %": {"sparsity": 0.5}, "60 %": {"sparsity": 0.6}, "2:4": {"pattern": "2:4"}}
SHARES |= {f"60 %, {name}": {"sparsity": 0.6, "allocation": name} for name in ("owl", "measured")}
SETTINGS = {**{name: (share, None) for name, share in SHARES.items()}, **{f"{name}, 4-bit g32": (SHARES[name], "W4A16-g32") for name in ("50 %", "60 %", "2:4")}}
METHODS = {"magnitude": ("magnitude", False), "wanda": ("wanda", False), "sparsegpt": ("sparsegpt", False), "sparsegpt, reconstruct": ("sparsegpt", True)}
SAMPLES = 64


def prune(setting, method, work):
    share, scheme = SETTINGS[setting]
    name, reconstructs = METHODS[method]
    if not scheme:
        return ["prune", "--method", name, *(["--reconstruct"] if reconstructs else []), *(part for key, value in share.items() for part in (f"--{key}", value))], name != "magnitude" or "allocation" in share
    recipe = work / "recipe.yaml"
    steps = [{"pass": f"prune.{name}", **share, **({"reconstruct": True} if reconstructs else {})}, {"pass": "quantize.gptq", "scheme": scheme}]
    recipe.write_text(json.dumps({"version": 1, "calibration": {"nsamples": SAMPLES}, "steps": steps}))
    return ["compress", "--recipe", recipe], True


if __name__ == "__main__":
    quality.make_table(__doc__, "pruning", SETTINGS, METHODS, prune)
