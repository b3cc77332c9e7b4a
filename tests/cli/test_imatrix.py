"""Importance matrices: llmc imatrix measures them, llmc quantize --imatrix rounds by them, those of llama.cpp too."""

import json
import struct

import support
from support import Case, covers, floats, ids, llama, llama_config, llama_shapes, quill, random_tensors, read_gguf, read_safetensors, tiny, treatments, write_checkpoint, write_gguf, write_ids

WIDE = {"hidden_size": 64, "intermediate_size": 96}
LINEAR = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
KINDS = {str: 8, int: 4, list: 9}


def typed(keys):
    """Keys as write_gguf takes them."""
    return {key: (KINDS[type(value)], (8, value) if isinstance(value, list) else value) for key, value in keys.items()}


def tensors_of(path):
    return read_gguf(path)[1]


def write_old(path, entries, calls, chunks=None, dataset="text.txt"):
    """A .dat file as llama.cpp's save_imatrix_legacy (tools/imatrix/imatrix.cpp) writes it, from sums by name and a count of tokens."""
    out = struct.pack("<i", len(entries))
    for name, (sums, count) in sorted(entries.items()):
        scaled = [support.f32(support.f32(value / count) * calls) for value in sums]
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(sums)) + struct.pack(f"<{len(sums)}f", *scaled)
    if chunks is not None:
        out += struct.pack("<ii", chunks, len(dataset)) + dataset.encode()
    path.write_bytes(out)
    return path


class Imatrix(Case):
    CALIBRATION = ["--nsamples", 4, "--seqlen", 64]  # all of ids()

    def measure(self, *flags, model=None, name="i.gguf", data=None, samples=CALIBRATION):
        return ["imatrix", model or llama(**WIDE), "-o", self.dir / name, "--calibration", data or ids(), *samples, *flags]

    def quantize(self, *flags, model=None, name="out.gguf", data=None):
        return ["quantize", model or llama(**WIDE), "-o", self.dir / name, "--type", "Q4_0", "--pure", "--eval-data", data or ids(), *flags]

    def entries(self, name="i.gguf"):
        """Sums and count by the weight's name."""
        tensors = tensors_of(self.dir / name)
        names = [tensor.removesuffix(".in_sum2") for tensor in tensors if tensor.endswith(".in_sum2")]
        return {weight: (list(tensors[weight + ".in_sum2"].values()), tensors[weight + ".counts"].values()[0]) for weight in names}


class Measuring(Imatrix):
    @covers("imatrix", "--output", "--calibration")
    def test_names_shapes_and_values(self):
        for model, head in ((llama(**WIDE), "token_embd.weight"), (llama("BF16", tie_word_embeddings=False, **WIDE), "output.weight")):
            with self.subTest(head):
                self.ok(*self.measure("--force", model=model))
                keys, tensors = read_gguf(self.dir / "i.gguf")
                self.assertEqual(keys, {"general.type": "imatrix", "imatrix.datasets": [str(ids())], "imatrix.chunk_count": 4, "imatrix.chunk_size": 64})
                weights = sorted([head] + [f"blk.{block}.{layer}.weight" for block in range(2) for layer in LINEAR])
                self.assertEqual(list(tensors), [weight + suffix for weight in weights for suffix in (".in_sum2", ".counts")])
                for weight in weights:
                    self.assertEqual((tensors[weight + ".in_sum2"].dtype, tensors[weight + ".in_sum2"].shape), ("F32", [96 if "ffn_down" in weight else 64]))
                    self.assertEqual((tensors[weight + ".counts"].shape, list(tensors[weight + ".counts"].values())), ([1], [256]))
                entries = self.entries()
                self.assertEqual(entries["blk.0.attn_q.weight"], entries["blk.0.attn_v.weight"])
                self.assertEqual(entries["blk.1.ffn_gate.weight"], entries["blk.1.ffn_up.weight"])
                self.assertNotEqual(entries["blk.0.attn_q.weight"], entries["blk.1.attn_q.weight"])
                # what the first block reads: the normed embedding of each token
                source = read_safetensors(model)[0]
                embedding, norm = source["model.embed_tokens.weight"].rows(), source["model.layers.0.input_layernorm.weight"].values()
                sums = [0.0] * 64
                for token in struct.unpack("<256H", ids().read_bytes()):
                    row = embedding[token]
                    scale = 1 / (sum(x * x for x in row) / 64 + 1e-5) ** 0.5
                    for c, x in enumerate(row):
                        sums[c] += (x * scale * norm[c]) ** 2
                for found, expected in zip(entries["blk.0.attn_k.weight"][0], sums, strict=True):
                    self.assertAlmostEqual(found, expected, delta=1e-4 * expected)  # inputs in f32

    def test_other_models(self):
        data = tiny("gpt2-tied") / "input_ids.npy"
        self.ok(*self.measure(model=tiny("gpt2-tied"), data=data, samples=["--nsamples", 2, "--seqlen", 16]))
        entries = self.entries()
        self.assertEqual(set(entries), {"token_embd.weight"} | {f"blk.{block}.{layer}.weight" for block in range(3) for layer in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")})
        self.assertEqual({count for _, count in entries.values()}, {32})
        # a GGUF file and an artifact are measured as they are
        self.ok("convert", llama(**WIDE), "-o", self.dir / "f32.gguf", "--type", "F32", "--eval-data", ids())
        self.ok(*self.measure(name="of-directory.gguf"))
        self.ok(*self.measure(model=self.dir / "f32.gguf", name="of-gguf.gguf"))
        self.assertEqual((self.dir / "of-directory.gguf").read_bytes(), (self.dir / "of-gguf.gguf").read_bytes())
        self.ok(*self.quantize(name="q4.gguf"))
        self.ok(*self.measure(model=self.dir / "q4.gguf", name="of-q4.gguf"))
        self.assertNotEqual(self.entries("of-q4.gguf")["blk.1.ffn_down.weight"], self.entries("of-directory.gguf")["blk.1.ffn_down.weight"])

    @covers("imatrix", "--threads")
    def test_same_bytes_for_any_number_of_threads(self):
        for threads in (1, 2, 7):
            self.ok(*self.measure("--threads", threads, name=f"{threads}.gguf"))
        self.assertEqual(len({(self.dir / f"{threads}.gguf").read_bytes() for threads in (1, 2, 7)}), 1)
        for value in (-1, "all"):
            self.refused(2, ["--threads", value], *self.measure("--threads", value, name="no.gguf"))

    @covers("imatrix", "--nsamples", "--seqlen", "--seed", "--calibration-packing", "--generate-samples")
    def test_samples(self):
        def measured(*samples):
            self.ok(*self.measure("--force", samples=samples))
            return self.entries()["blk.1.ffn_down.weight"]

        self.assertEqual(measured("--nsamples", 3, "--seqlen", 16)[1], 48)
        self.assertNotEqual(measured("--nsamples", 3, "--seqlen", 16, "--seed", 1), measured("--nsamples", 3, "--seqlen", 16, "--seed", 2))
        self.assertEqual(measured("--nsamples", 3, "--seqlen", 16, "--calibration-packing", "document")[1], 16)  # the file is one document
        self.assertEqual(measured("--nsamples", 3, "--seqlen", 16, "--generate-samples", 2)[1], 80)
        self.assertEqual(read_gguf(self.dir / "i.gguf")[0]["imatrix.datasets"], [str(ids()), "2 samples by the model"])
        self.refused(2, ["--seqlen", "context is 64"], *self.measure(samples=["--seqlen", 65], name="no.gguf"))
        self.refused(2, ["packing 'loose'"], *self.measure("--calibration-packing", "loose", name="no.gguf"))
        self.refused(2, ["--nsamples"], *self.measure(samples=["--nsamples", 0], name="no.gguf"))
        self.refused(2, ["--seed"], *self.measure("--seed", -1, name="no.gguf"))

    @covers("imatrix", "--calibration-precision", "--calibration-activations")
    def test_precision(self):
        found = {}
        for flags in ((), ("--calibration-precision", "f32"), ("--calibration-activations", "bf16")):
            self.ok(*self.measure(*flags, "--force"))
            found[flags] = self.entries()
        first, *others = found.values()
        for other in others:
            for name, (sums, _) in other.items():
                for a, b in zip(sums, first[name][0], strict=True):
                    self.assertAlmostEqual(a, b, delta=0.1 * max(first[name][0]))  # 8 bits of significand, over two blocks
            self.assertNotEqual(other["blk.1.ffn_down.weight"], first["blk.1.ffn_down.weight"])
        self.refused(2, ["--calibration-precision", "f8"], *self.measure("--calibration-precision", "f8", name="no.gguf"))
        self.refused(2, ["--calibration-activations", "f8"], *self.measure("--calibration-activations", "f8", name="no.gguf"))

    @covers("imatrix", "--calibration-field")
    def test_texts(self):
        (self.dir / "t.jsonl").write_text("".join(json.dumps({"body": "Call me Ishmael. Some years ago, never mind how long precisely. " * 4}) + "\n" for _ in range(2)))
        samples = ["--nsamples", 1, "--seqlen", 32]
        self.ok(*self.measure("--calibration-field", "body", model=quill(), data=self.dir / "t.jsonl", samples=samples))
        self.assertEqual({count for _, count in self.entries().values()}, {32})
        self.refused(3, ["t.jsonl", "text"], *self.measure(model=quill(), data=self.dir / "t.jsonl", samples=samples, name="no.gguf"))
        self.refused(3, ["tokenizer"], "imatrix", llama(), "-o", self.dir / "no.gguf")

    @covers("imatrix", "--force")
    def test_outputs(self):
        self.ok(*self.measure())
        before = (self.dir / "i.gguf").read_bytes()
        self.refused(4, ["already exists", "--force"], *self.measure("--seed", 3))
        self.assertEqual((self.dir / "i.gguf").read_bytes(), before)
        self.ok(*self.measure("--force", samples=["--nsamples", 2, "--seqlen", 8]))
        self.assertNotEqual((self.dir / "i.gguf").read_bytes(), before)
        self.refused(4, ["does not exist"], *self.measure(name="absent/i.gguf"))
        self.refused(2, ["i.dat", "ends in .gguf"], *self.measure(name="i.dat"))
        self.refused(3, ["absent.u16"], *self.measure(data=self.dir / "absent.u16", name="no.gguf"))
        self.ok("convert", llama(**WIDE), "-o", self.dir / "model.gguf", "--eval-data", ids())
        self.refused(2, ["choose another"], *self.measure("--force", model=self.dir / "model.gguf", name="model.gguf"))
        self.assert_nothing_left(self.dir, "i.gguf", "model.gguf", "model.report.json")

    @covers("imatrix", "--json")
    def test_what_it_says(self):
        said = self.json(*self.measure())
        self.assertEqual((said["imatrix"], said["source"]), ({"path": str(self.dir / "i.gguf"), "bytes": (self.dir / "i.gguf").stat().st_size, "entries": 15}, {"path": str(llama(**WIDE))}))
        self.assertEqual((said["calibration"]["tokens"], said["calibration"]["samples"], said["calibration"]["sources"][0]["name"]), (256, 4, str(ids())))
        self.assertIn("15 entries from 256 tokens in 4 samples", self.ok(*self.measure("--force")).out)

    @covers("imatrix", "--ignore-config-field")
    def test_ignored_config_fields(self):
        config = llama_config(new_field=1)
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config), "F32", 3))
        self.refused(3, ["new_field"], *self.measure(model=model))
        self.ok(*self.measure("--ignore-config-field", "new_field", model=model))


class Rounding(Imatrix):
    @covers("quantize", "--imatrix")
    def test_a_file_rounds_as_its_text_does(self):
        text = write_ids(self.dir / "text.u16", [i * i % 61 for i in range(200)])
        samples = ["--nsamples", 5, "--seqlen", 24]
        for model, data in ((llama(**WIDE), ids()), (llama("BF16", tie_word_embeddings=False, **WIDE), ids()), (tiny("gpt2-tied"), tiny("gpt2-tied") / "input_ids.npy")):
            with self.subTest(model.name):
                self.ok(*self.measure("--force", model=model, data=text, samples=samples))
                by_text = self.json(*self.quantize("--rounding", "weighted", "--calibration", text, *samples, "--force", model=model, data=data, name="text.gguf"))
                by_file = self.json(*self.quantize("--imatrix", self.dir / "i.gguf", "--force", model=model, data=data, name="file.gguf"))
                self.ok(*self.quantize("--imatrix", self.dir / "i.gguf", "--rounding", "weighted", "--threads", 1, "--force", model=model, data=data, name="again.gguf"))
                self.ok(*self.quantize("--force", model=model, data=data, name="search.gguf"))
                tensors, expected, again, searched = (tensors_of(self.dir / name) for name in ("file.gguf", "text.gguf", "again.gguf", "search.gguf"))
                self.assertEqual(tensors, expected)
                self.assertEqual(again, expected)
                for name, tensor in tensors.items():  # only what multiplies inputs is rounded by them
                    kept = tensor.dtype == "F32" or (name == "token_embd.weight" and "output.weight" in tensors)
                    self.assertEqual(tensor == searched[name], kept, name)
                self.assertEqual(treatments(by_file), treatments(by_text))
                step = next(step for step in by_file["steps"] if step["name"] == "quantize.gguf")["details"]
                self.assertEqual({key: step["imatrix"][key] for key in ("file", "entries", "datasets", "chunks", "chunk_size")}, {"file": str(self.dir / "i.gguf"), "entries": len(self.entries()), "datasets": [str(text)], "chunks": 5, "chunk_size": 24})
                self.assertEqual(sum("weighted_error" in layer for layer in step["layers"]), len(self.entries()))
                for layer in step["layers"]:
                    self.assertLess(0 if "weighted_error" not in layer else layer["weighted_error"], 0.02)  # 16 steps over 32 normal weights: 1/12 of (4 deviations / 16)² is 0.005 of their mean square
                self.assertIsNone(by_file["calibration"])

    def test_recipes(self):
        self.ok(*self.measure())
        recipe = self.dir / "r.yaml"

        def compress(name, **step):
            recipe.write_text(json.dumps({"version": 1, "format": "gguf", "gguf": {"type": "Q4_0", "pure": True}, "steps": [{"pass": "quantize.gguf", **step}]}))
            return ["compress", llama(**WIDE), "-o", self.dir / name, "--recipe", recipe, "--eval-data", ids()]

        report = self.json(*compress("recipe.gguf", imatrix=str(self.dir / "i.gguf")))
        self.assertEqual((report["recipe"]["steps"][0]["rounding"], "calibration" in report["recipe"]), ("weighted", False))
        self.ok(*self.quantize("--imatrix", self.dir / "i.gguf"))
        self.assertEqual(tensors_of(self.dir / "recipe.gguf"), tensors_of(self.dir / "out.gguf"))
        self.assertEqual(json.loads(read_gguf(self.dir / "out.gguf")[0]["llmc.recipe"])["steps"][0]["imatrix"], str(self.dir / "i.gguf"))
        self.refused(2, ["imatrix makes no sense with rounding compensated", "products of all pairs"], *compress("no.gguf", imatrix=str(self.dir / "i.gguf"), rounding="compensated"))
        self.refused(3, ["absent.gguf"], *compress("no.gguf", imatrix=str(self.dir / "absent.gguf")))

    def test_files_of_llama_cpp(self):
        """The old kind with the same means, and the new one as llama-imatrix leaves it: without the tied head's entry."""
        self.ok(*self.measure())
        self.ok(*self.quantize("--imatrix", self.dir / "i.gguf"))
        expected, entries = tensors_of(self.dir / "out.gguf"), self.entries()
        for name, chunks in (("whole.dat", 4), ("oldest.dat", None)):
            write_old(self.dir / name, entries, calls=4, chunks=chunks)  # 256 tokens in 4 calls: powers of two, so the means stay exact
            self.ok(*self.quantize("--imatrix", self.dir / name, "--force"))
            self.assertEqual(tensors_of(self.dir / "out.gguf"), expected)
        keys, tensors = read_gguf(self.dir / "i.gguf")
        blocks = {name: tensor for name, tensor in tensors.items() if name.startswith("blk.")}
        write_gguf(self.dir / "blocks.gguf", typed(keys), blocks)
        done = self.ok(*self.quantize("--imatrix", self.dir / "blocks.gguf", "--force", "--json"))
        self.assertIn("blocks.gguf: has no entry for the head, model.embed_tokens.weight", done.err)
        report = json.loads(done.out)
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], "Q4_0, search")
        found = tensors_of(self.dir / "out.gguf")
        self.ok(*self.quantize("--force"))
        searched = tensors_of(self.dir / "out.gguf")
        for name in expected:
            self.assertEqual(found[name], searched[name] if name == "token_embd.weight" else expected[name], name)

    def test_files_that_do_not_fit(self):
        self.ok(*self.measure())
        keys, tensors = read_gguf(self.dir / "i.gguf")

        def refused(words, changes, drop=(), metadata=None):
            kept = {name: tensor for name, tensor in (tensors | changes).items() if name not in drop}
            write_gguf(self.dir / "bad.gguf", typed(keys | (metadata or {})), kept)
            self.refused(3, ["bad.gguf", *words], *self.quantize("--imatrix", self.dir / "bad.gguf"))
            self.refused(3, ["bad.gguf", *words], *self.quantize("--imatrix", self.dir / "bad.gguf", "--dry-run"))

        def entry(name, *sums, count=4):
            return {name + ".in_sum2": floats("F32", [len(sums)], sums), name + ".counts": floats("F32", [1], [count])}

        down = "blk.1.ffn_down.weight"
        refused(["tensor model.layers.1.mlp.down_proj.weight", f"expected an entry {down}"], {}, drop=(down + ".in_sum2", down + ".counts"))
        refused([f"entry {down}: expected 96 columns", "found 95"], entry(down, *[1] * 95))
        refused(["entry blk.2.ffn_up.weight: the model has no linear weight of that name"], entry("blk.2.ffn_up.weight", 1))
        refused(["entry output.weight: the model has no linear weight"], entry("output.weight", *[1] * 64))
        refused([f"entry {down}", "counts is missing"], {}, drop=(down + ".counts",))
        refused([f"entry {down}: column 2", "found nan"], entry(down, 1, 2, float("nan")))
        refused([f"entry {down}: column 0", "found -1"], entry(down, -1))
        refused([f"entry {down}: count", "found 0"], entry(down, 1, count=0))
        refused(["general.type", "expected imatrix, found model"], {}, metadata={"general.type": "model"})
        refused(["imatrix.chunk_count"], {}, metadata={"imatrix.chunk_count": "many"})
        (self.dir / "text.txt").write_text("some text")
        self.refused(3, ["text.txt", "is no imatrix"], *self.quantize("--imatrix", self.dir / "text.txt"))
        self.refused(3, ["absent.gguf"], *self.quantize("--imatrix", self.dir / "absent.gguf"))
        half = (self.dir / "i.gguf").read_bytes()
        (self.dir / "half.gguf").write_bytes(half[:len(half) // 2])
        self.refused(3, ["half.gguf", "truncated"], *self.quantize("--imatrix", self.dir / "half.gguf"))
        self.assert_nothing_left(self.dir, "bad.gguf", "half.gguf", "i.gguf", "text.txt")

    def test_flags_that_contradict_a_file(self):
        self.ok(*self.measure())
        imatrix = ["--imatrix", self.dir / "i.gguf"]
        for flags, words in ((["--calibration", ids()], ["--calibration makes no sense with --imatrix", "calibration would measure"]), (["--nsamples", 3, "--rounding", "weighted"], ["--nsamples makes no sense with --imatrix"]),
                             (["--rounding", "compensated"], ["--imatrix makes no sense with --rounding compensated", "--calibration"]), (["--rounding", "search"], ["--imatrix makes no sense with --rounding search"]), (["--damping", 0.1], ["--damping", "--rounding weighted"])):
            with self.subTest(flags=flags):
                self.refused(2, words, *self.quantize(*imatrix, *flags))
        self.refused(2, ["--resume", "--rounding weighted"], *self.quantize("--rounding", "weighted", "--resume", self.dir / "state"))
        self.refused(2, ["--imatrix", "give --type"], "quantize", llama(**WIDE), "-o", self.dir / "out", "--bits", 4, *imatrix, "--eval-data", ids())
        self.assert_nothing_left(self.dir, "i.gguf")


if __name__ == "__main__":
    support.main()
