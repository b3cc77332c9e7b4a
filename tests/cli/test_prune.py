"""llmc prune: how many weights become zero, which ones, and that the others come back bit for bit."""

import json
import xml.etree.ElementTree

import support
from support import Case, covers, floats, ids, llama, llama_config, llama_shapes, random_tensors, read_header, read_safetensors, tiny, treatments, write_checkpoint
from test_quantize import LINEAR


class Prune(Case):
    def prune(self, model, *flags, name="out", data=None):
        return self.json("prune", model, "-o", self.dir / name, "--eval-data", data or ids(), "--eval-seqlen", 8, "--max-windows", 1, *flags)

    def dense(self, name="out"):
        """The tensors of the ordinary checkpoint that `llmc export --dense` makes."""
        self.ok("export", self.dir / name, "--dense", "-o", self.dir / (name + "-dense"))
        return read_safetensors(self.dir / (name + "-dense"))[0]

    def check_survivors(self, before, after, chosen):
        """Every tensor as it was, but for exact zeros in the chosen ones; returns their number per tensor."""
        self.assertEqual(set(before), set(after))
        zeros = {}
        for name, tensor in before.items():
            self.assertEqual((tensor.dtype, tensor.shape), (after[name].dtype, after[name].shape), name)
            if name not in chosen:
                self.assertEqual(tensor, after[name], name)
                continue
            gone = bytes(support.SIZES[tensor.dtype])
            pairs = list(zip(tensor.elements(), after[name].elements()))
            self.assertTrue(all(y in (x, gone) for x, y in pairs), name)
            zeros[name] = sum(y == gone for _, y in pairs)
        return zeros

    def check_smallest(self, before, after):
        """No weight that stayed is smaller than one that went."""
        gone = [abs(x) for x, y in zip(before, after) if y == 0]
        stayed = [abs(x) for x, y in zip(before, after) if y != 0]
        if gone and stayed:
            self.assertLessEqual(max(gone), min(stayed))


class Scopes(Prune):
    @covers("prune", "--sparsity", "--scope", "--output")
    def test_share_is_reached_exactly(self):
        for model in (llama(), llama("BF16"), llama("F16")):
            before, _ = read_safetensors(model)
            for scope in (None, "tensor", "row", "global"):
                for text, share in (("0.5", 0.5), ("30%", 0.3), ("0.999", 0.999)):
                    with self.subTest(model=model.name, scope=scope, sparsity=text):
                        name = f"{model.name}-{scope}-{text}"
                        report = self.prune(model, "--sparsity", text, *(["--scope", scope] if scope else []), name=name)
                        after = self.dense(name)
                        zeros = self.check_survivors(before, after, LINEAR)
                        weights = {n: support.count(before[n].shape) for n in LINEAR}
                        if scope == "row":
                            for n in LINEAR:
                                for old, new in zip(before[n].rows(), after[n].rows()):
                                    self.assertEqual(list(new).count(0), round(share * len(new)), n)
                                    self.check_smallest(old, new)
                        elif scope == "global":
                            self.assertEqual(sum(zeros.values()), round(share * sum(weights.values())))
                            self.check_smallest(*([x for n in LINEAR for x in tensors[n].values()] for tensors in (before, after)))
                            self.assertGreater(len({zeros[n] / weights[n] for n in LINEAR}), 3)  # not the same in each
                        else:
                            for n in LINEAR:
                                self.assertEqual(zeros[n], round(share * weights[n]), n)
                                self.check_smallest(before[n].values(), after[n].values())
                        reached = sum(zeros.values()) / sum(weights.values())
                        self.assertAlmostEqual(report["sparsity"], reached, places=12)
                        self.assertAlmostEqual(report["steps"][1]["details"]["sparsity_reached"], reached, places=12)
                        self.assertEqual(report["steps"][1]["details"]["sparsity_asked"], share)
                        self.assertEqual(report["artifact"]["container"], "llmc-packed")

    @covers("prune", "--pattern")
    def test_patterns(self):
        before, _ = read_safetensors(llama())
        for pattern, kept, block in (("2:4", 2, 4), ("1:4", 1, 4), ("3:4", 3, 4), ("4:8", 4, 8), ("1:2", 1, 2), ("5:16", 5, 16)):
            with self.subTest(pattern):
                report = self.prune(llama(), "--pattern", pattern, name=pattern.replace(":", "of"))
                after = self.dense(pattern.replace(":", "of"))
                self.check_survivors(before, after, LINEAR)
                for n in LINEAR:
                    old, new = before[n].values(), after[n].values()
                    for i in range(0, len(new), block):
                        self.assertEqual(list(new[i:i + block]).count(0), block - kept)
                        self.check_smallest(old[i:i + block], new[i:i + block])
                self.assertAlmostEqual(report["sparsity"], 1 - kept / block, places=12)
                self.assertEqual(treatments(report)[LINEAR[0]], f"{block - kept} zeros in {block}")
        self.prune(llama(), "--pattern", "2:4", "--sparsity", "0.5", name="both")  # they agree

    def test_blocks(self):
        before, _ = read_safetensors(llama())
        for pattern, scope in (("block:1x4", "tensor"), ("block:4x8", "row"), ("block:2x2", "global")):
            with self.subTest(pattern):
                rows, cols = map(int, pattern[6:].split("x"))
                name = pattern.replace(":", "-")
                report = self.prune(llama(), "--sparsity", "0.5", "--pattern", pattern, "--scope", scope, name=name)
                after = self.dense(name)
                self.check_survivors(before, after, LINEAR)
                for n in LINEAR:
                    lines = [list(row) for row in after[n].rows()]
                    counts = {sum(lines[r + i][c + j] == 0 for i in range(rows) for j in range(cols)) for r in range(0, len(lines), rows) for c in range(0, len(lines[0]), cols)}
                    self.assertEqual(counts, {0, rows * cols}, n)
                self.assertAlmostEqual(report["sparsity"], 0.5, places=12)
                self.assertIn(f"50 % zeros in blocks of {rows}x{cols}", treatments(report)[LINEAR[0]])

    def test_ties_are_cut_exactly(self):
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        same = "model.layers.0.mlp.up_proj.weight"
        tensors[same] = floats("F32", [48, 32], [0.5, -0.5] * 768)
        model = write_checkpoint(self.dir / "model", config, tensors)
        for scope in ("tensor", "row", "global"):
            with self.subTest(scope):
                self.prune(model, "--sparsity", "0.37", "--scope", scope, "--include", "up_proj|down_proj", name=scope)
                zeros = self.check_survivors(tensors, self.dense(scope), [n for n in LINEAR if "up_proj" in n or "down_proj" in n])
                expected = {"tensor": 4 * round(0.37 * 1536), "row": 2 * 48 * round(0.37 * 32) + 2 * 32 * round(0.37 * 48), "global": round(0.37 * 6144)}
                self.assertEqual(sum(zeros.values()), expected[scope])

    def test_gpt2_rows_are_those_of_the_logical_matrix(self):
        """The file holds [in, out]: four neighbours of a row lie in a column of the file."""
        model = tiny("gpt2-untied")
        before, _ = read_safetensors(model)
        self.prune(model, "--pattern", "2:4", data=model / "input_ids.npy")
        after = self.dense()
        chosen = [n for n in before if n.endswith("weight") and ("attn" in n or "mlp" in n)]
        self.check_survivors(before, after, chosen)
        for name in chosen:
            for column in zip(*after[name].rows()):
                for i in range(0, len(column), 4):
                    self.assertEqual(column[i:i + 4].count(0), 2, name)

    def test_what_makes_no_sense(self):
        for flags, words in (([], ["sparsity", "missing"]), (["--sparsity", "0"], ["sparsity", "found 0"]), (["--sparsity", "1"], ["sparsity", "found 1"]), (["--sparsity", "50"], ["less than 1", "found 50"]), (["--sparsity", "half"], ["--sparsity", "'half'"]), (["--sparsity", "-0.5"], ["--sparsity", "-0.5"]),
                             (["--sparsity", "0.5", "--scope", "layer"], ["scope 'layer'", "tensor, row or global"]), (["--pattern", "2:4", "--scope", "row"], ["scope", "2:4"]), (["--pattern", "2:4", "--sparsity", "0.3"], ["pattern 2:4 means sparsity 0.5", "found 0.3"]),
                             (["--pattern", "4:2"], ["'4:2'", "N:M"]), (["--pattern", "0:4"], ["'0:4'"]), (["--pattern", "2/4"], ["'2/4'"]), (["--pattern", "2:4x"], ["'2:4x'"]), (["--pattern", "4:5"], ["rows of 32", "not a multiple of 5"]), (["--pattern", "block:4x5", "--sparsity", "0.5"], ["32 rows of 32 do not divide into blocks of 4 x 5", "another pattern"]), (["--pattern", "block:4x8"], ["sparsity is missing"]), (["--pattern", "block:4"], ["'block:4'", "block:RxC"])):
            with self.subTest(flags=flags):
                self.refused(2, words, "prune", llama(), "-o", self.dir / "out", "--eval-data", ids(), *flags)
        self.assert_nothing_left(self.dir)

    @covers("prune", "--include", "--exclude")
    def test_include_and_exclude(self):
        before, _ = read_safetensors(llama())
        for number, (flags, chosen) in enumerate(((["--include", "mlp"], lambda n: "mlp" in n), (["--exclude", r"layers\.0\.", "--exclude", "v_proj"], lambda n: ".0." not in n and "v_proj" not in n))):
            with self.subTest(flags=flags):
                report = self.prune(llama(), "--sparsity", "0.5", *flags, name=str(number))
                expected = {n for n in LINEAR if chosen(n)}
                self.assertEqual({n for n, t in treatments(report).items() if t != "kept"}, expected)
                self.assertEqual(set(self.check_survivors(before, self.dense(str(number)), expected).values()), {support.count(before[n].shape) // 2 for n in expected})
        for flag in ("--include", "--exclude"):
            self.refused(2, ["'lm_head' matches none", "model.layers.0"], "prune", llama(), "-o", self.dir / "no", "--sparsity", "0.5", flag, "lm_head", "--eval-data", ids())

    def test_nothing_to_do(self):
        """A model that is sparser already."""
        self.prune(llama(), "--sparsity", "0.6")
        self.dense()
        self.refused(3, ["nothing to do", "zeros", "were asked for"], "prune", self.dir / "out-dense", "-o", self.dir / "no", "--sparsity", "0.5", "--eval-data", ids())
        self.refused(3, ["nothing to do"], "prune", self.dir / "out-dense", "-o", self.dir / "no", "--sparsity", "0.6", "--eval-data", ids())
        self.assertFalse((self.dir / "no").exists())
        report = self.prune(self.dir / "out-dense", "--sparsity", "0.7", name="more")
        self.assertAlmostEqual(report["sparsity"], 0.7, delta=1e-3)  # rounding to whole weights in each tensor


@support.long_under_sanitizers
class Calibrated(Prune):
    """--method wanda and sparsegpt, and --reconstruct: what they need calibration text for."""

    def run_of(self, *flags, name="out"):
        few = [] if "--nsamples" in flags else ["--nsamples", 4, "--seqlen", 64]
        return ["prune", support.quill(), "-o", self.dir / name, *few, "--max-windows", 2, *flags]

    @covers("prune", "--method", "--reconstruct", "--calibration", "--nsamples", "--seqlen")
    def test_the_order_is_the_papers(self):
        """Divergence from the original: magnitude > wanda > sparsegpt, and reconstruction lowers each."""
        kl = {}
        for flags in (["--method", "magnitude", "--reconstruct"], ["--method", "wanda"], ["--method", "wanda", "--reconstruct"], ["--method", "sparsegpt"], ["--method", "sparsegpt", "--reconstruct"]):
            report = self.json(*self.run_of("--pattern", "2:4", *flags, "--nsamples", 16, "--seqlen", 256, name="-".join(flags[1:])))
            kl[" ".join(flags[1:])] = report["quality"]["kl_mean"]
            details = report["steps"][1]["details"]
            self.assertEqual((details["sparsity_reached"], details["sparsity_asked"], len(details["layers"]), len(details["blocks"])), (0.5, 0.5, 56, 8))
            self.assertEqual(report["sparsity"], 0.5)
            for layer in details["layers"]:
                self.assertEqual((layer["sparsity"], layer["sparsity_asked"]), (0.5, 0.5))
            if flags[1:] != ["wanda"]:  # in the sum: with drift corrected, a layer's goal is another than its dense output
                self.assertLess(sum(layer["error"] for layer in details["layers"]), 0.9 * sum(layer["masked_error"] for layer in details["layers"]))
        kl["magnitude"] = self.json("prune", support.quill(), "-o", self.dir / "magnitude", "--pattern", "2:4", "--max-windows", 2)["quality"]["kl_mean"]
        self.assertGreater(kl["magnitude"], kl["wanda"])
        self.assertGreater(kl["wanda"], kl["sparsegpt"])
        for method in ("magnitude", "wanda", "sparsegpt"):
            self.assertGreater(kl[method], kl[method + " --reconstruct"])

    @covers("prune", "--method", "--scope")
    def test_gradients_rank_weights(self):
        """By fisher less is lost than by magnitude; the bytes are the same for any number of threads."""
        flags = ["--sparsity", "0.5", "--nsamples", 16, "--seqlen", 128]
        report = self.json(*self.run_of("--method", "fisher", *flags, name="fisher"))
        self.assertEqual(report["steps"][1]["details"]["sparsity_reached"], 0.5)
        by_size = self.json("prune", support.quill(), "-o", self.dir / "magnitude", "--sparsity", "0.5", "--scope", "row", "--max-windows", 2)["quality"]["kl_mean"]
        self.assertLess(report["quality"]["kl_mean"], 0.9 * by_size)
        shares = lambda report: {t["sparsity"] for t in report["tensors"] if t["treatment"] != "kept"}
        self.assertEqual(shares(report), {0.5})
        whole = self.json(*self.run_of("--method", "fisher", *flags, "--scope", "global", name="fisher-global"))
        self.assertEqual(whole["steps"][1]["details"]["sparsity_reached"], 0.5)
        self.assertGreater(len(shares(whole)), 8)  # each tensor has its own
        self.ok(*self.run_of("--method", "fisher", *flags, "--threads", 1, name="again"))
        self.assertEqual((self.dir / "again" / "model.safetensors").read_bytes(), (self.dir / "fisher" / "model.safetensors").read_bytes())
        self.assertEqual(self.json(*self.run_of("--method", "fisher", "--pattern", "2:4", *flags[2:], name="2of4"))["steps"][1]["details"]["sparsity_reached"], 0.5)
        for flag in (["--reconstruct"], ["--allocation", "owl"], ["--sensitivity"]):
            self.refused(2, ["prune.fisher", "layer by layer"], *self.run_of("--method", "fisher", *flags, *flag, name="no"))

    def test_share_and_pattern_are_reached_exactly(self):
        tensors, _ = read_safetensors(support.quill())
        for method in ("wanda", "sparsegpt"):
            for flags, zeros in ((["--sparsity", "0.3"], lambda n: round(0.3 * n)), (["--sparsity", "0.5", "--pattern", "block:8x4"], lambda n: n // 2)):
                with self.subTest(method=method, flags=flags):
                    name = method + flags[-1].replace(":", "-")
                    report = self.json(*self.run_of("--method", method, "--scope", "tensor", *flags, name=name))
                    after = self.dense(name)
                    pruned = [t for t in report["tensors"] if t["treatment"] != "kept"]
                    self.assertEqual(len(pruned), 56)
                    for tensor in pruned:
                        values = after[tensor["name"]].values()
                        self.assertEqual(sum(x == 0 for x in values), zeros(len(values)), tensor["name"])
                    for name, tensor in tensors.items():
                        if name not in {t["name"] for t in pruned}:
                            self.assertEqual(tensor, after[name], name)

    @covers("prune", "--calibration-field", "--calibration-packing", "--calibration-precision", "--calibration-activations")
    def test_what_is_calibrated_on(self):
        """The flags of quantize --method gptq: what they say is in the report, and what they change is in the weights."""
        lines = self.dir / "lines.jsonl"
        lines.write_text("".join(json.dumps({"story": f"Once upon a time there was a cat number {i} that liked to sleep in the warm sun all day long."}) + "\n" for i in range(40)))
        flags = ["--method", "wanda", "--sparsity", "0.5", "--nsamples", 8, "--seqlen", 16, "--calibration", lines, "--calibration-field", "story", "--calibration-packing", "document", "--calibration-precision", "f32"]
        report = self.json(*self.run_of(*flags, name="f32"))
        self.assertEqual([report["recipe"]["calibration"][key] for key in ("field", "packing", "precision", "activations", "nsamples", "seqlen")], ["story", "document", "f32", "f32", 8, 16])
        self.json(*self.run_of(*flags, "--calibration-activations", "bf16", name="bf16"))
        self.json(*self.run_of("--method", "wanda", "--sparsity", "0.5", name="bundled"))
        self.assertEqual(len({(self.dir / name / "model.safetensors").read_bytes() for name in ("f32", "bf16", "bundled")}), 3)

    @covers("prune", "--resume", "--max-memory")
    def test_same_bytes_for_any_number_of_threads_and_after_a_stop(self):
        flags = ["--method", "sparsegpt", "--sparsity", "0.5", "--reconstruct"]
        weights = lambda name: (self.dir / name / "model.safetensors").read_bytes()
        first = self.json(*self.run_of(*flags, "--threads", 1, "--resume", self.dir / "state", name="first"))
        again = self.json(*self.run_of(*flags, "--resume", self.dir / "state", name="again"))  # every block comes from the state
        self.json(*self.run_of(*flags, "--max-memory", "1MB", name="spilled"))
        self.json("compress", support.quill(), "-o", self.dir / "recipe", "--recipe", self.dir / "first" / "recipe.yaml", "--max-windows", 2)
        for name in ("again", "spilled", "recipe"):
            self.assertEqual(weights("first"), weights(name), name)
        self.assertEqual(first["steps"][1]["details"], again["steps"][1]["details"])
        self.refused(2, ["another run", "/recipe"], *self.run_of("--method", "wanda", "--sparsity", "0.5", "--resume", self.dir / "state", name="no"))

    @covers("prune", "--damping")
    def test_options_of_methods(self):
        for flags, words in ((["--method", "obs"], ["--method 'obs' is not known", "fisher, magnitude, sparsegpt, structured, wanda"]), (["--method", "wanda", "--damping", "0.1"], ["damping makes sense only with prune.sparsegpt or reconstruct"]), (["--method", "sparsegpt", "--damping", "2"], ["damping", "found 2"]),
                             (["--method", "sparsegpt", "--scope", "global"], ["scope global", "tensor or row"]), (["--reconstruct", "--scope", "global"], ["scope global"])):
            with self.subTest(flags=flags):
                self.refused(2, words, *self.run_of("--sparsity", "0.5", *flags))
        self.refused(2, ["--nsamples", "--method magnitude", "needs no calibration"], *self.run_of("--sparsity", "0.5"))

    def test_every_quantizer_leaves_zeros_at_zero(self):
        """Prune, then quantize by each method: what was pruned is 0 in the artifact, and the survivors take the room."""
        for number, step in enumerate(("quantize.gptq", "quantize.learned, iterations: 3", "quantize.gptq, channel_scales: awq", "quantize.rtn, keep_outliers: 0.01")):
            with self.subTest(step):
                recipe = self.dir / f"{number}.yaml"
                recipe.write_text("version: 1\ncalibration: {nsamples: 2, seqlen: 64}\nsteps:\n- {pass: prune.wanda, pattern: '2:4'}\n" + f"- {{pass: {step}, scheme: W4A16-g32}}\n")
                name = f"quantized{number}"
                report = self.json("compress", support.quill(), "-o", self.dir / name, "--recipe", recipe, "--max-windows", 1)
                for tensor in report["tensors"]:
                    if tensor["treatment"] != "kept":
                        self.assertLessEqual(tensor["bits_per_weight"], (0.75 if "outliers" not in step else 0.85) * 4.5, tensor["name"])
                        self.assertGreaterEqual(tensor["sparsity"], 0.5 if "outliers" not in step else 0.49)
                values = self.dense(name)["model.layers.3.mlp.gate_proj.weight"].values()
                self.assertTrue(all(sum(x == 0 for x in values[i:i + 4]) >= 2 for i in range(0, len(values), 4)))

    @covers("prune", "--allocation")
    def test_measured_allocation(self):
        """Blocks whose zeros cost more get fewer; the share of the whole is kept, the model is better for it, for any number of threads."""
        flags = ["--method", "wanda", "--sparsity", "0.6", "--nsamples", 8, "--seqlen", 128]
        uniform = self.json(*self.run_of(*flags, name="uniform"))
        report = self.json(*self.run_of(*flags, "--allocation", "measured", name="measured"))
        self.assertLess(report["quality"]["kl_mean"], uniform["quality"]["kl_mean"])
        details = report["steps"][1]["details"]
        self.assertAlmostEqual(details["sparsity_reached"], 0.6, delta=2e-3)  # each row rounds to whole weights
        asked = {}
        for layer in details["layers"]:
            asked.setdefault(layer["tensor"].split(".")[2], set()).add(layer["sparsity_asked"])
        self.assertEqual((len(asked), {len(shares) for shares in asked.values()}), (8, {1}))
        shares = [share for (share,) in asked.values()]
        self.assertAlmostEqual(sum(shares) / 8, 0.6)
        self.assertGreater(max(shares) - min(shares), 0.02)
        self.assertTrue(all(abs(share - 0.6) < 0.0801 for share in shares), shares)
        self.ok(*self.run_of(*flags, "--allocation", "measured", "--threads", 1, name="again"))
        self.assertEqual((self.dir / "measured" / "model.safetensors").read_bytes(), (self.dir / "again" / "model.safetensors").read_bytes())

    @covers("prune", "--allocation", "--sensitivity")
    def test_allocation_and_sensitivity(self):
        """Less of blocks with more outliers, the share of the whole kept; and what the scan found is shown."""
        flags = ["--method", "wanda", "--sparsity", "0.6", "--allocation", "owl", "--sensitivity"]
        told = self.ok(*self.run_of(*flags, name="told")).out
        details = self.json(*self.run_of(*flags, "--resume", self.dir / "state"))["steps"][1]["details"]
        self.assertAlmostEqual(details["sparsity_reached"], 0.6, delta=2e-3)  # each row rounds to whole weights
        scan = details["sensitivity"]
        self.assertEqual((scan["sparsities"], len(scan["layers"])), ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 56))
        asked = {layer["tensor"]: layer["sparsity_asked"] for layer in details["layers"]}
        for layer in scan["layers"]:
            self.assertEqual(layer["errors"], sorted(layer["errors"]))
        self.assertEqual([block["block"] for block in scan["blocks"]], list(range(8)))
        for block in scan["blocks"]:
            self.assertEqual(len(block["kl"]), 9)
            self.assertLess(block["kl"][0], block["kl"][8])
        plots = [(self.dir / name / "sensitivity.svg").read_bytes() for name in ("told", "out")]
        self.assertEqual(plots[0], plots[1])
        self.assertEqual(len([path for path in xml.etree.ElementTree.fromstring(plots[0]).iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]), 2 * 8)
        ranked = sorted(scan["layers"], key=lambda layer: layer["outlier_share"])
        self.assertEqual([asked[layer["tensor"]] for layer in ranked], sorted(asked.values(), reverse=True))
        self.assertAlmostEqual(max(asked.values()) - min(asked.values()), 0.16)
        self.assertRegex(told, r"relative output error +10 % +20 %")
        self.assertRegex(told, r"block 7 +0\.0")
        self.assertRegex(told, r"KL divergence +10 % +20 %")
        self.assertEqual((self.dir / "told" / "model.safetensors").read_bytes(), (self.dir / "out" / "model.safetensors").read_bytes())
        self.refused(2, ["allocation 'best'", "uniform, owl or measured"], *self.run_of("--method", "wanda", "--sparsity", "0.5", "--allocation", "best", name="no"))
        for flag in (["--allocation", "owl"], ["--allocation", "measured"], ["--sensitivity"]):
            self.refused(2, [flag[0].strip("-"), "pattern 2:4"], *self.run_of("--method", "wanda", "--pattern", "2:4", *flag, name="no"))

    def test_pruned_and_quantized_in_one_pass(self):
        """quantize.gptq with a sparsity: SparseGPT's joint pass, stored sparse, and better than rounding what magnitude left."""
        kl = {}
        for name, steps in (("joint", "- {pass: quantize.gptq, scheme: W4A16-g32, pattern: '2:4'}"), ("apart", "- {pass: prune.magnitude, pattern: '2:4'}\n- {pass: quantize.gptq, scheme: W4A16-g32}")):
            recipe = self.dir / f"{name}.yaml"
            recipe.write_text(f"version: 1\ncalibration: {{nsamples: 4, seqlen: 128}}\nsteps:\n{steps}\n")
            report = self.json("compress", support.quill(), "-o", self.dir / name, "--recipe", recipe, "--max-windows", 1)
            kl[name] = report["quality"]["kl_mean"]
            for tensor in report["tensors"]:
                if tensor["treatment"] != "kept":
                    self.assertGreaterEqual(tensor["sparsity"], 0.5)
                    self.assertEqual(tensor["codec"], "n-of-m+packed-codes")
        self.assertLess(kl["joint"], kl["apart"])
        recipe.write_text("version: 1\nsteps:\n- {pass: quantize.gptq, scheme: W4A16-g32, sparsity: 0.5, order: activation}\n")
        self.refused(2, "order is natural", "compress", support.quill(), "-o", self.dir / "no", "--recipe", recipe)

    def test_what_is_quantized_is_not_pruned(self):
        recipe = self.dir / "wrong.yaml"
        for method in ("magnitude", "wanda"):
            recipe.write_text(f"version: 1\nsteps:\n- {{pass: quantize.rtn, scheme: W4A16-g32}}\n- {{pass: prune.{method}, sparsity: 0.5}}\n")
            self.refused(2, ["already quantized", "prune before quantizing"], "compress", support.quill(), "-o", self.dir / "no", "--recipe", recipe, "--max-windows", 1)


class Sizes(Prune):
    def test_zeros_are_skipped_where_they_are_many(self):
        """The report says in which weights, and how long their products took; an ordinary checkpoint with these zeros runs the same way."""
        config = llama_config(hidden_size=128, intermediate_size=192, num_hidden_layers=1)
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config)))
        report = self.prune(model, "--sparsity", "0.95", "--exclude", "up_proj")
        products = report["sparse_products"]
        self.assertEqual((products["weights"], products["skipped"]), (7, 6))
        self.assertEqual([t["name"] for t in products["tensors"]], [n for n, t in treatments(report).items() if t != "kept"])
        for tensor in [products, *products["tensors"]]:
            self.assertGreater(tensor["ratio"], 0)
        self.assertAlmostEqual(products["dense_seconds"] / products["sparse_seconds"], products["ratio"])
        self.assertAlmostEqual(products["tensors"][0]["zeros"], 0.95, places=3)
        flags = ["--data", ids(), "--seqlen", 8, "--max-windows", 1]
        self.dense()
        packed, dense = (self.json("evaluate", self.dir / name, *flags, "--logits", self.dir / f"{name}.npy") for name in ("out", "out-dense"))
        self.assertEqual((self.dir / "out.npy").read_bytes(), (self.dir / "out-dense.npy").read_bytes())
        self.assertEqual((packed["sparse_products"]["skipped"], dense["sparse_products"]["skipped"]), (6, 6))
        told = self.ok("evaluate", self.dir / "out", *flags).out
        self.assertRegex(told, r"zeros skipped in 6 of 7 weights of the blocks: their products took [\d.]+ of the dense f32 time")
        self.assertIsNone(self.json("evaluate", model, *flags)["sparse_products"])
        self.assertIsNone(self.json("evaluate", self.dir / "out", *flags, "--precision", "bf16")["sparse_products"])

    @covers("prune", "--format")
    def test_packed_is_smaller_and_hf_holds_the_zeros(self):
        packed = self.prune(llama(), "--sparsity", "0.5", name="packed")
        named = self.prune(llama(), "--sparsity", "0.5", "--format", "packed", name="named")
        hf = self.prune(llama(), "--sparsity", "0.5", "--format", "hf", name="hf")
        weights = {n: support.count(t.shape) for n, t in read_safetensors(llama())[0].items()}
        pruned = {t["name"]: t for t in packed["tensors"] if t["codec"] == "bitmask"}
        self.assertEqual(set(pruned), set(LINEAR))
        for name, tensor in pruned.items():
            self.assertEqual(tensor["bytes"], weights[name] // 8 + 4 * (weights[name] // 2))  # a bit each, and half of the floats
        self.assertEqual(packed["artifact"]["dense_bytes"], 4 * sum(weights.values()))
        self.assertEqual(packed["artifact"]["bytes"], (self.dir / "packed" / "model.safetensors").stat().st_size)
        self.assertLess(packed["artifact"]["bytes"], 0.75 * packed["artifact"]["dense_bytes"])
        self.assertEqual(named["artifact"]["container"], "llmc-packed")
        self.assertEqual((self.dir / "named" / "model.safetensors").read_bytes(), (self.dir / "packed" / "model.safetensors").read_bytes())

        self.assertEqual((hf["artifact"]["container"], hf["artifact"]["dense_bytes"]), ("dense", None))
        self.assertGreater(hf["artifact"]["bytes"], packed["artifact"]["dense_bytes"])
        self.assertNotIn("quantization_config", json.loads((self.dir / "hf" / "config.json").read_text()))
        self.assertEqual(read_safetensors(self.dir / "hf")[0], self.dense("packed"))
        self.assertEqual(hf["quality"]["perplexity"], packed["quality"]["perplexity"])
        self.assertIn("is pruned", packed["notes"][0])

        told = self.ok("prune", llama(), "-o", self.dir / "told", "--sparsity", "0.5", "--eval-data", ids()).out
        self.assertRegex(told, r"zeros +50\.00 % of the treated weights; [\d.]+ kB as an ordinary checkpoint")  # both sizes
        self.assertRegex(told, r"weights +[\d.]+ kB → [\d.]+ kB")

    def test_cost_and_zeros_of_codecs_and_blocks(self):
        tensors = read_safetensors(llama())[0]
        weights, block = sum(support.count(t.shape) for t in tensors.values()), [n for n in LINEAR if ".0." in n]
        report = self.prune(llama(), "--sparsity", "0.5", "--include", r"layers\.0\.")
        zeros = sum(support.count(tensors[n].shape) // 2 for n in block)
        multiplied = sum(support.count(t.shape) for n, t in tensors.items() if len(t.shape) == 2)  # the embedding is the head too
        self.assertEqual(report["cost"]["before"], {"parameters": weights, "flops_per_token": 2 * multiplied, "bits_per_weight": 8 * report["source"]["bytes"] / weights})
        self.assertEqual(report["cost"]["after"], {"parameters": weights, "nonzero_parameters": weights - zeros, "flops_per_token": 2 * multiplied, "flops_per_token_without_zeros": 2 * (multiplied - zeros), "bits_per_weight": report["bits_per_weight"]})
        codecs = report["zeros_by_codec"]
        self.assertEqual({codec: (c["tensors"], c["zeros"]) for codec, c in codecs.items()}, {"bitmask": (len(block), zeros), "dense": (len(tensors) - len(block), 0)})
        self.assertEqual(sum(c["bytes"] for c in codecs.values()), sum(t["bytes"] for t in report["tensors"]))
        self.assertEqual([(b["tensors"], b["sparsity"]) for b in report["zeros_by_block"]], [(7, 0.5), (7, 0.0)])
        told = self.ok("prune", llama(), "-o", self.dir / "told", "--sparsity", "0.5", "--eval-data", ids()).out
        self.assertRegex(told, r"parameters \d+ → \d+, \d+ of them not zero\ncompute +[\d.]+ → [\d.]+ MFLOP per token with the weights, [\d.]+ without zeros")
        self.assertRegex(told, r"block 1 +7 +\d+ +50\.00 %")

    def test_little_sparsity_stays_dense(self):
        """Where a mask costs more than it saves, floats are stored as they are."""
        report = self.prune(llama(), "--sparsity", "0.01")
        self.assertEqual({t["codec"] for t in report["tensors"]}, {"dense"})
        zeros = self.check_survivors(read_safetensors(llama())[0], self.dense(), LINEAR)
        self.assertEqual(sum(zeros.values()), sum(round(0.01 * support.count(read_safetensors(llama())[0][n].shape)) for n in LINEAR))

    def test_gpt2_and_hf(self):
        model = tiny("gpt2-tied")
        report = self.prune(model, "--sparsity", "0.5", "--format", "hf", data=model / "input_ids.npy")
        self.assertEqual(report["artifact"]["container"], "dense")
        self.assertAlmostEqual(report["sparsity"], 0.5, places=12)

    def test_layout_is_the_documented_one(self):
        """The bitmask codec of docs/packed-format.md, read in plain Python."""
        self.prune(llama("BF16"), "--sparsity", "0.5")
        header, data = read_header(self.dir / "out" / "model.safetensors")
        rows = json.loads(header["__metadata__"]["llmc.tensors"])
        dense = self.dense()
        for name in LINEAR:
            self.assertEqual((rows[name]["codec"], rows[name]["dtype"], rows[name]["shape"]), ("bitmask", "BF16", dense[name].shape))
            mask, values = (data[slice(*header[name + part]["data_offsets"])] for part in (":mask", ":values"))
            position, elements = 0, []
            for i in range(support.count(rows[name]["shape"])):
                kept = mask[i // 8] >> i % 8 & 1
                elements.append(values[2 * position:2 * position + 2] if kept else b"\0\0")
                position += kept
            self.assertEqual(elements, dense[name].elements())
            self.assertEqual(2 * position, len(values))


if __name__ == "__main__":
    support.main()
