"""llmc quantize on grids that are not evenly spaced, codebooks, and outliers: what is stored, what comes back."""

import json
import re
import struct
import subprocess
import sys

import support
from support import Case, covers, ids, llama, read_safetensors, tiny, treatments

E2M1 = sorted({sign * x for x in (0, 0.5, 1, 1.5, 2, 3, 4, 6) for sign in (1, -1)})
TENSOR = "model.layers.0.mlp.gate_proj.weight"


class Grids(Case):
    def quantize(self, *flags, name="out", model=None):
        return self.json("quantize", model or llama("BF16", intermediate_size=64), "-o", self.dir / name, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 1, *flags)

    def dense(self, name="out"):
        """The values of an artifact, by way of llmc export."""
        self.ok("export", self.dir / name, "--dense", "-o", self.dir / f"{name}-dense")
        return read_safetensors(self.dir / f"{name}-dense")[0]

    @covers("quantize", "--preset")
    def test_what_compressed_tensors_has_is_stored_in_its_formats(self):
        for preset, scheme, format_name, parts in [
            ("FP8A16", "FP8A16-channel", "float-quantized", {"weight": "F8_E4M3", "weight_scale": "BF16"}),
            ("MXFP8A16", "MXFP8A16-g32", "mxfp8-quantized", {"weight": "F8_E4M3", "weight_scale": "U8"}),
            ("MXFP4A16", "MXFP4A16-g32", "mxfp4-pack-quantized", {"weight_packed": "U8", "weight_scale": "U8"}),
            ("NVFP4A16", "NVFP4A16-g16", "nvfp4-pack-quantized", {"weight_packed": "U8", "weight_scale": "F8_E4M3", "weight_global_scale": "F32"}),
        ]:
            with self.subTest(preset):
                report = self.quantize("--preset", preset, name=preset)
                self.assertEqual(treatments(report)[TENSOR], scheme)
                self.assertEqual(report["artifact"]["container"], "compressed-tensors")
                config = json.loads((self.dir / preset / "config.json").read_text())["quantization_config"]
                self.assertEqual(config["format"], format_name)
                self.assertEqual(config["config_groups"]["group_0"]["weights"]["type"], "float")
                stored, _ = read_safetensors(self.dir / preset)
                module = TENSOR.removesuffix("weight")
                self.assertEqual({name.removeprefix(module): t.dtype for name, t in stored.items() if name.startswith(module)}, parts)

    def test_every_value_of_mxfp4_is_a_level_times_a_power_of_two(self):
        model = llama("BF16", intermediate_size=64)
        self.quantize("--preset", "MXFP4A16", model=model)
        source = read_safetensors(model)[0][TENSOR].rows()
        for row, original in zip(self.dense()[TENSOR].rows(), source):
            widest = max(map(abs, original))  # one group of 32
            scale = 1.0
            while widest > 7 * scale:
                scale *= 2
            while widest <= 3.5 * scale:
                scale /= 2
            for value, x in zip(row, original):
                self.assertIn(value / scale, E2M1)
                self.assertEqual(abs(value - x), min(abs(level * scale - x) for level in E2M1))

    @covers("quantize", "--codebook")
    def test_a_codebook_shares_as_many_values_as_it_says(self):
        report = self.quantize("--codebook", 5)
        self.assertEqual(treatments(report)[TENSOR], "codebook5-tensor")
        self.assertEqual(report["artifact"]["container"], "llmc-packed")
        self.assertLessEqual(len(set(self.dense()[TENSOR].values())), 5)
        report = self.quantize("--codebook", 16, "--granularity", "channel", name="rows")
        self.assertEqual(treatments(report)[TENSOR], "codebook16-channel")
        for row in self.dense("rows")[TENSOR].rows():
            self.assertLessEqual(len(set(row)), 16)

    @covers("quantize", "--keep-outliers")
    def test_outliers_come_back_as_they_were(self):
        model = llama("BF16", intermediate_size=64)
        source = read_safetensors(model)[0][TENSOR].values()
        report = self.quantize("--bits", 3, "--group-size", 32, "--keep-outliers", "2%", model=model)
        self.assertEqual(treatments(report)[TENSOR], "W3A16-g32-symmetric, 2 % outliers")
        self.assertEqual(report["artifact"]["container"], "llmc-packed")
        kept = sorted(range(len(source)), key=lambda i: (-abs(source[i]), i))[: len(source) * 2 // 100]
        values = self.dense()[TENSOR].values()
        for i in kept:
            self.assertEqual(values[i], source[i])
        plain = self.quantize("--bits", 3, "--group-size", 32, "--format", "packed", name="plain", model=model)
        find = lambda r: next(t for t in r["tensors"] if t["name"] == TENSOR)
        self.assertGreater(find(report)["sqnr_db"], find(plain)["sqnr_db"])
        self.assertGreater(find(report)["bytes"], find(plain)["bytes"])
        self.assertEqual(find(report)["codec"], "packed-int+outliers")

    def read_as_documented(self, name):
        """An artifact's values by the reader of docs/packed-format.md, compared with those of llmc export."""
        page = (support.SOURCE / "docs/packed-format.md").read_text(encoding="utf-8")
        script, values = self.dir / "reader.py", self.dir / f"{name}-values"
        script.write_text(re.search(r"```python\n(.*?)```", page, re.S).group(1) + """
    for name, values in read_packed(sys.argv[1]).items():
        open(sys.argv[2] + "/" + name, "wb").write(np.ascontiguousarray(values, "<f4").tobytes())
""", encoding="utf-8")
        values.mkdir()
        done = subprocess.run([sys.executable, script, self.dir / name / "model.safetensors", values], capture_output=True, text=True)
        if "No module named 'numpy'" in done.stderr:
            self.skipTest("the reader needs NumPy")
        self.assertEqual(done.returncode, 0, done.stderr)
        for tensor, found in self.dense(name).items():
            raw = (values / tensor).read_bytes()
            self.assertEqual(list(struct.unpack(f"<{len(raw) // 4}f", raw)), list(found.values()), tensor)

    def test_the_reader_in_the_documentation_reads_it_all(self):
        for number, flags in enumerate([["--preset", "FP8_E5M2A16"], ["--preset", "NF4-g32", "--keep-outliers", "1%"], ["--preset", "NVFP4A16", "--format", "packed"], ["--preset", "MXFP4A16", "--format", "packed"],
                                        ["--preset", "FP8A16-tensor", "--format", "packed"], ["--codebook", 12, "--group-size", 16], ["--bits", 3, "--group-size", 16, "--scheme", "linear", "--keep-outliers", "3%"]]):
            with self.subTest(flags):
                self.quantize(*flags, name=f"packed{number}")
                self.read_as_documented(f"packed{number}")

    def test_the_reader_in_the_documentation_reads_what_is_sparse(self):
        """Each way to store positions, over floats (of a model whose file is transposed, too) and over codes."""
        some, two_of_four, few, blocks = "sparsity: 0.55", "pattern: '2:4'", "sparsity: 0.9", "sparsity: 0.5, pattern: 'block:4x8'"
        runs = [(model, sparsity, "") for model in (llama("BF16"), tiny("gpt2-untied")) for sparsity in (some, two_of_four, few, blocks)]
        runs += [(llama("BF16"), sparsity, "W3A16-g16-linear") for sparsity in (some, two_of_four, few, blocks)] + [(tiny("gpt2-untied"), "pattern: '1:4'", "W4A16-channel"), (llama("BF16"), some, "codebook8"), (llama("BF16"), few, "W3A16-g16, keep_outliers: 0.02")]
        seen = set()
        for number, (model, sparsity, scheme) in enumerate(runs):
            with self.subTest(model=model.name, sparsity=sparsity, scheme=scheme):
                recipe = self.dir / f"sparse{number}.yaml"
                recipe.write_text(f"version: 1\nsteps:\n- {{pass: prune.magnitude, {sparsity}}}\n" + (f"- {{pass: quantize.rtn, scheme: {scheme}}}\n" if scheme else ""))
                data = ids() if model == llama("BF16") else model / "input_ids.npy"
                report = self.json("compress", model, "-o", self.dir / f"sparse{number}", "--recipe", recipe, "--eval-data", data, "--eval-seqlen", 8, "--max-windows", 1)
                for tensor in report["tensors"]:
                    seen.add(tensor["codec"])
                    if tensor["candidates"]:
                        self.assertEqual((min(tensor["candidates"].values()), tensor["candidates"][tensor["codec"]]), (tensor["bytes"], tensor["bytes"]))
                self.read_as_documented(f"sparse{number}")
        self.assertLessEqual({way + payload for way in ("bitmask", "gaps", "n-of-m", "blocks") for payload in ("", "+packed-codes")}, seen)

    def test_impossible_grids_are_refused(self):
        model = llama("BF16", intermediate_size=64)
        for flags, words in [
            (["--bits", 1], ["--bits: expected 2 to 8, found 1"]),
            (["--codebook", 1], ["expected 2 to 256 centroids, found 1"]),
            (["--codebook", 16, "--bits", 4], ["give one of --bits, --preset and --codebook"]),
            (["--codebook", 16, "--scheme", "linear"], ["codebook16-tensor", "makes sense only on an integer grid"]),
            (["--preset", "NVFP4A16", "--group-size", 32], ["NVFP4A16", "groups of 16 and nothing else"]),
            (["--preset", "NF4-g7"], ["not a multiple of the group size 7"]),
            (["--preset", "FP7"], ["'FP7' is not understood", "MXFP4A16"]),
            (["--preset", "NF4-g32", "--format", "hf"], ["compressed-tensors has no such grid"]),
            (["--bits", 4, "--group-size", 32, "--keep-outliers", "1%", "--format", "hf"], ["keeps outliers in 16 bits"]),
            (["--bits", 4, "--group-size", 32, "--keep-outliers", "60%"], ["keep_outliers: expected a share from 0 to 0.5"]),
            (["--preset", "W8A8", "--keep-outliers", "1%"], ["keep_outliers makes sense only with inputs in 16 bits"]),
        ]:
            with self.subTest(flags):
                self.refused(2, words, "quantize", model, "-o", self.dir / "refused", "--eval-data", ids(), "--eval-seqlen", 8, *flags)

    def test_pruned_weights_stay_zeros_in_a_codebook(self):
        recipe = self.dir / "recipe.yaml"
        recipe.write_text("version: 1\nsteps:\n- {pass: prune.magnitude, sparsity: 0.5}\n- {pass: quantize.rtn, scheme: codebook8}\n")
        report = self.json("compress", llama("BF16", intermediate_size=64), "-o", self.dir / "out", "--recipe", recipe, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 1)
        self.assertEqual(next(t for t in report["tensors"] if t["name"] == TENSOR)["codec"], "bitmask+packed-int")
        values = self.dense()[TENSOR].values()
        self.assertGreaterEqual(sum(x == 0 for x in values) / len(values), 0.5)


if __name__ == "__main__":
    support.main()
