"""Perplexity, KL divergence and size after whole structures were removed, before and after compensation, as bench/results/structured.csv.

    python3 bench/structured.py --llmc build/release/llmc [--smollm2 DIR] [--shared ../shared/models] [--models …] [--methods …] [--settings …]

Models, data and rows as in bench/quality.py, which this is a setting of. Layers have one ranking, by block influence, which is in
the rows of "loss". Python's standard library only.
"""

import quality

SETTINGS = {name: [name.replace(" %", "%").replace(" ", "=")] for name in ("ffn 10 %", "ffn 20 %", "ffn 30 %", "heads 33 %", "heads 50 %", "hidden 12.5 %")}
SETTINGS |= {"1 layer": ["layers=1"], "2 layers": ["layers=2"], "ffn 20 %, heads 50 %, 1 layer": ["ffn=20%", "heads=50%", "layers=1"]}
METHODS = {"magnitude": ("magnitude", False), "activation": ("activation", False), "activation, compensated": ("activation", True), "taylor": ("taylor", False), "taylor, compensated": ("taylor", True), "loss": ("loss", False), "loss, compensated": ("loss", True)}
COLUMNS = ["model", "setting", "method", "parameters", "bytes", "perplexity", "reference_perplexity", "kl_mean", "top1_agreement", "scored_tokens", "note"]


def prune(setting, method, work):
    importance, compensates = METHODS[method]
    kinds = SETTINGS[setting]
    if all(kind.startswith("layers") for kind in kinds):
        if importance != "loss":
            return None
        importance = "block-influence"
    calibrates = compensates or importance != "magnitude" or any(kind.startswith("layers") for kind in kinds)
    return ["prune", *(part for kind in kinds for part in ("--structured", kind)), "--compensate", str(compensates).lower(), "--importance", importance], calibrates


if __name__ == "__main__":
    quality.make_table(__doc__, "structured", SETTINGS, METHODS, prune, COLUMNS)
