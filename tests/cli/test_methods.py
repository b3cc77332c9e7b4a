"""Every method of quantization on every architecture and every kind of grid: it works and pays, or it is refused by name."""

import functools
import itertools
import random

import support
from support import Case, ids, tiny, treatments, workshop, write_ids

MODELS = ("llama-gqa-tied", "gpt2-tied", "qwen2-untied")  # rows of 32, 64, 96 and 128
GRIDS = (
    "W4A16-g32-symmetric", "W3A16-g16-linear", "W4A16-channel-linear", "W8A16-tensor-symmetric", "W4A8-g32-symmetric-dynamic", "W8A8-channel-symmetric-static",
    "FP8A16-channel", "FP8_E5M2A16-tensor", "MXFP8A16-g32", "MXFP4A16-g32", "NVFP4A16-g16", "NF4-g16", "codebook16-tensor", "codebook5-channel", "codebook4-g32",
)
FINE = tuple(grid for grid in GRIDS if "W8" in grid or "FP8" in grid)  # 8 bits leave little to gain
COMBINATIONS = tuple(itertools.product(MODELS, GRIDS))


@functools.cache
def calibration():
    """Token ids that no run is judged on."""
    source = random.Random(5)
    return write_ids(workshop() / "calibration.u16", [source.randrange(64) for _ in range(800)])


class Methods(Case):
    def quantize(self, model, grid, method, *flags):
        """The report, once what every combination owes is checked."""
        calibrated = method != "rtn" or "--activation-weighted" in flags or grid.endswith("static")
        report = self.json("quantize", tiny(model), "-o", self.dir / "out", "--force", "--preset", grid, "--method", method, *(["--calibration", calibration(), "--nsamples", 4, "--seqlen", 24] if calibrated else []),
                           "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 2, *flags)
        self.assertTrue(report["passed"])
        matrices = [t for t in report["tensors"] if t["block"] is not None and len(t["shape"]) == 2]
        self.assertEqual({t["treatment"] for t in matrices}, {grid})
        return report, matrices, next(s["details"] for s in report["steps"] if s["name"].startswith("quantize."))

    @staticmethod
    def total(layers, key):
        return sum(layer[key] for layer in layers)

    def test_ranges_of_rtn(self):
        for model, grid in COMBINATIONS:
            with self.subTest(model=model, grid=grid):
                noise = {}
                for rule in ("minmax", "mse", "hqq"):
                    _, matrices, _ = self.quantize(model, grid, "rtn", "--observer", rule)
                    noise[rule] = [10 ** (-t["sqnr_db"] / 10) for t in matrices]
                for widest, least, fitted in zip(noise["minmax"], noise["mse"], noise["hqq"]):
                    self.assertLessEqual(least, widest * 1.0001)  # sums in f32 may order near equals differently
                    self.assertLessEqual(fitted, widest * 1.1)    # hqq goes by |error|^2.5, which values the largest weights more
                if grid[0] in "WN" and grid not in FINE:  # a codebook has no range, powers of two leave no choice
                    self.assertLess(sum(noise["mse"]), 0.99 * sum(noise["minmax"]))

    def test_activation_weighted_rtn(self):
        for model, grid in COMBINATIONS:
            with self.subTest(model=model, grid=grid):
                _, _, details = self.quantize(model, grid, "rtn", "--observer", "mse", "--activation-weighted", "true")
                for layer in details["layers"]:
                    self.assertLessEqual(layer["error"], layer["nearest_error"], layer["tensor"])

    def test_gptq(self):
        for model, grid in COMBINATIONS:
            with self.subTest(model=model, grid=grid):
                _, _, details = self.quantize(model, grid, "gptq", "--drift-correction", "false")  # with it the error is not against the original weights
                for layer in details["layers"]:
                    self.assertLessEqual(layer["error"], layer["nearest_error"] * 1.0001, layer["tensor"])
                self.assertLess(self.total(details["layers"], "error"), 0.9 * self.total(details["layers"], "nearest_error"))

    @support.long_under_sanitizers
    def test_awq(self):
        for model, grid in COMBINATIONS:
            with self.subTest(model=model, grid=grid):
                _, _, details = self.quantize(model, grid, "awq")
                self.assertGreater(len(details["channel_scales"]), 0)
                for site in details["channel_scales"]:
                    self.assertLessEqual(site["error_left"], 1)
                for layer in details["layers"]:
                    self.assertLessEqual(layer["error"], layer["nearest_error"], layer["tensor"])

    @support.long_under_sanitizers
    def test_learned(self):
        improved = 0
        for model, grid in COMBINATIONS:
            with self.subTest(model=model, grid=grid):
                _, _, details = self.quantize(model, grid, "learned", "--iterations", 100)  # a step moves a weight by 0.01 codes at most, and a quarter lies between it and another code
                for block in details["tuned"]:
                    self.assertLessEqual(block["error_after"], block["error_before"])
                if grid not in FINE:
                    improved += self.total(details["tuned"], "error_after") < self.total(details["tuned"], "error_before")
        coarse = sum(grid not in FINE for _, grid in COMBINATIONS)
        self.assertGreaterEqual(improved, coarse - 2)  # GPTQ's codes on powers of two may be the best that small steps find


if __name__ == "__main__":
    support.main()
