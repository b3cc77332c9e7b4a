"""Quantization on calibration text: methods, their options, the calibration data, spilled activations, resuming."""

import json
import math
import random
import signal
import subprocess
import time

import support
from support import Case, covers, ids, llama, llama_config, llama_shapes, random_tensors, read_safetensors, tiny, treatments, write_checkpoint, write_ids

MODELS = ("llama-gqa-tied", "llama-bias", "llama-bf16", "gpt2-tied", "qwen2-untied", "mistral-window", "qwen3-untied", "phi3-part", "stablelm", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "opt", "bloom", "stablelm-parallel", "falcon", "falcon-groups", "falcon-refined")
SITES = {"gpt2-tied": 3, "gpt-neox": 3, "bloom": 3, "olmo2": 2, "stablelm-parallel": 2, "falcon": 1, "falcon-groups": 3, "falcon-refined": 3}  # where channels may be scaled, of each block; else 4


class Calibrated(Case):
    def calibration(self, vocabulary=64, name="calibration.u16", seed=5):
        """Token ids that are no evaluation data."""
        path = self.dir / name
        if not path.exists():
            rng = random.Random(seed)
            write_ids(path, [rng.randrange(vocabulary) for _ in range(2000)])
        return path

    def run_of(self, *flags, model=None, name="out", method="gptq", bits=3):
        return ["quantize", model or llama(), "-o", self.dir / name, "--bits", bits, "--group-size", 16, "--method", method, "--calibration", self.calibration(), "--nsamples", 8, "--seqlen", 24,
                "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4, *flags]

    def step(self, report):
        return next(s for s in report["steps"] if s["name"].startswith("quantize."))["details"]

    def codes(self, name="out"):
        return (self.dir / name / "model.safetensors").read_bytes()


class Methods(Calibrated):
    @covers("quantize", "--method")
    def test_compensation_beats_rounding_to_nearest(self):
        report = self.json(*self.run_of("--drift-correction", "false"))  # with it the error is not against the original weights
        layers = self.step(report)["layers"]
        self.assertEqual(len(layers), 14)
        for layer in layers:
            self.assertLess(layer["error"], layer["nearest_error"], layer["tensor"])
        self.assertEqual(len(self.step(report)["blocks"]), 2)
        self.assertEqual(report["recipe"]["steps"][0]["pass"], "quantize.gptq")
        self.refused(2, ["--method 'gtpq'", "did you mean", "gptq", "rtn"], *self.run_of(method="gtpq"))

    def test_forms_without_gradients_go_with_what_needs_none(self):
        for name, field in (("stablelm-head-norms", "qk_layernorm"), ("opt-350m", "do_layer_norm_before"), ("opt-narrow", "word_embed_proj_dim")):
            model = tiny(name)
            data = ["--calibration", model / "input_ids.npy", "--nsamples", 4, "--seqlen", 8, "--eval-data", model / "input_ids.npy", "--force"]
            out = [model, "-o", self.dir / "out"]
            with self.subTest(name):
                for method in ("awq", "gptq"):
                    self.assertTrue(self.json("quantize", *out, "--bits", 4, "--granularity", "channel", "--method", method, *data)["passed"])
                self.assertGreaterEqual(self.json("prune", *out, "--sparsity", 0.5, "--method", "sparsegpt", *data)["sparsity"], 0.5)
                self.json("prune", *out, "--structured", "layers=0,", "--structured", "ffn=25%", *data)
                refused = ["field \"" + field, "no gradient"]
                self.refused(2, ["quantize.learned", *refused], "quantize", *out, "--bits", 4, "--granularity", "channel", "--method", "learned", *data)
                self.refused(2, ["prune.fisher", *refused], "prune", *out, "--sparsity", 0.5, "--method", "fisher", *data)
                self.refused(2, ["heal", *refused], "prune", *out, "--sparsity", 0.5, "--method", "wanda", "--heal", *data)
                self.refused(2, ["heads", "no field for the size of a head"], "prune", *out, "--structured", "heads=2", *data)
                if name != "stablelm-head-norms":
                    self.refused(2, ["transform.rotate", "rotate values only"], "quantize", *out, "--bits", 4, "--granularity", "channel", "--rotate", "residual", *data[6:])
        head = ["--bits", 4, "--granularity", "channel", "--method", "gptq", "--output-tensor-type", "W8A16"]
        self.assertEqual(treatments(self.json("quantize", *out, *head, *data))["lm_head.weight"], "W8A16-channel-symmetric")
        for student, words in ((["--student-layers", 1], ['distill: field "word_embed_proj_dim"', "no gradient"]), (["--student", tiny("opt") / "config.json"], ["teacher", "matrices between embeddings and hidden states"])):
            self.refused(2, words, "distill", model, "-o", self.dir / "student", *student, "--steps", 1, "--data", model / "input_ids.npy", "--seqlen", 8, "--eval-data", model / "input_ids.npy", "--eval-seqlen", 8)

    def test_every_method_on_every_architecture(self):
        for name in MODELS:
            data = tiny(name) / "input_ids.npy"
            for method, flags in (("rtn", ["--observer", "mse", "--activation-weighted", "true"]), ("awq", []), ("gptq", []), ("learned", ["--iterations", 20])):
                with self.subTest(f"{name} {method}"):
                    report = self.json("quantize", tiny(name), "-o", self.dir / f"{name}-{method}", "--bits", 4, "--granularity", "channel", "--method", method, *flags, "--calibration", data, "--nsamples", 4, "--seqlen", 8, "--eval-data", data)
                    self.assertTrue(report["passed"])
                    if method != "learned":  # which looks at blocks, not layers
                        self.assertTrue(all(layer["error"] <= layer["nearest_error"] * 1.001 for layer in self.step(report)["layers"]))

    @covers("quantize", "--damping", "--order", "--refinements", "--drift-correction", "--activation-weighted")
    def test_options_of_methods(self):
        self.json(*self.run_of())
        for flags, key, value in ((["--damping", 0.5], "damping", 0.5), (["--order", "natural"], "order", "natural"), (["--refinements", 0], "refinements", 0), (["--drift-correction", "false"], "drift_correction", False)):
            with self.subTest(flags):
                name = key
                report = self.json(*self.run_of(*flags, name=name))
                self.assertEqual(report["recipe"]["steps"][0][key], value)
                self.assertNotEqual(self.codes(name), self.codes())
                self.refused(2, [key, "--method rtn"], *self.run_of(*flags, method="rtn", name="no"))
        error = lambda r: sum(layer["error"] for layer in self.step(r)["layers"])
        exact = lambda rounds: error(self.json(*self.run_of("--drift-correction", "false", "--refinements", rounds, name=f"refined-{rounds}")))
        self.assertLess(exact(5), exact(0))
        for layer in self.step(self.json(*self.run_of("--damping", 0.5, name="damped")))["layers"]:
            self.assertEqual(layer["damping"], 0.5)
        self.refused(2, ["damping", "0 to 1"], *self.run_of("--damping", 2, name="no"))
        self.refused(2, ["order", "natural"], *self.run_of("--order", "random", name="no"))

        mse = ["--observer", "mse"]
        nearest = self.json(*self.run_of(*mse, "--activation-weighted", "true", method="rtn", name="weighted"))
        for layer in self.step(nearest)["layers"]:
            self.assertLessEqual(layer["error"], layer["nearest_error"] * 1.2)
        self.assertLess(sum(x["error"] for x in self.step(nearest)["layers"]), sum(x["nearest_error"] for x in self.step(nearest)["layers"]))
        self.refused(2, ["activation_weighted", "observer mse"], *self.run_of("--activation-weighted", "true", method="rtn", name="no"))

    @covers("quantize", "--iterations", "--batch")
    def test_learned_rounding(self):
        report = self.json(*self.run_of("--iterations", 40, "--batch", 3, method="learned"))
        tuned = self.step(report)["tuned"]
        self.assertEqual([block["block"] for block in tuned], [0, 1])
        for block in tuned:
            self.assertLessEqual(block["error_after"], block["error_before"])
        self.assertLess(tuned[0]["error_after"], tuned[0]["error_before"])
        self.assertEqual(report["recipe"]["steps"][0]["iterations"], 40)
        self.json(*self.run_of("--iterations", 1, "--batch", 3, method="learned", name="one"))
        self.json(*self.run_of("--iterations", 40, "--batch", 1, method="learned", name="single"))
        self.assertEqual(len({self.codes(), self.codes("one"), self.codes("single")}), 3)
        for threads in (1, 7):
            self.json(*self.run_of("--iterations", 40, "--batch", 3, "--threads", threads, method="learned", name=f"threads-{threads}"))
            self.assertEqual(self.codes(f"threads-{threads}"), self.codes())
        self.refused(2, ["iterations", "--method gptq"], *self.run_of("--iterations", 4, name="no"))

    @covers("quantize", "--keep-first", "--keep-last")
    def test_blocks_that_stay(self):
        for flags, kept in ((["--keep-first", 1], "model.layers.0."), (["--keep-last", 1], "model.layers.1.")):
            report = self.json(*self.run_of(*flags, name=flags[0]))
            for tensor, treatment in treatments(report).items():
                self.assertEqual(treatment == "kept", tensor.startswith(kept) or "norm" in tensor or "embed" in tensor or "lm_head" in tensor, tensor)
        self.refused(2, ["keep_first 2", "keep_last 1", "2 blocks"], *self.run_of("--keep-first", 2, "--keep-last", 1, name="no"))

    @covers("quantize", "--input-observer", "--input-percentile")
    def test_static_inputs(self):
        static = ["quantize", llama(), "--preset", "W8A8-static", "--calibration", self.calibration(), "--nsamples", 8, "--seqlen", 24, "--eval-data", ids()]
        report = self.json(*static, "-o", self.dir / "out")
        self.assertEqual(report["recipe"]["steps"][0]["input_observer"], "mse")
        stored, _ = read_safetensors(self.dir / "out")
        plain = stored["model.layers.0.mlp.down_proj.input_scale"].values()[0]
        self.assertGreater(plain, 0)
        self.json(*static, "-o", self.dir / "clipped", "--input-observer", "percentile", "--input-percentile", 90)
        clipped = read_safetensors(self.dir / "clipped")[0]["model.layers.0.mlp.down_proj.input_scale"].values()[0]
        self.assertLess(clipped, plain)
        self.refused(2, ["input_percentile", "percentile"], *static, "-o", self.dir / "no", "--input-percentile", 90)
        self.refused(2, ["observer 'middle'", "minmax"], *static, "-o", self.dir / "no", "--input-observer", "middle")
        self.refused(2, ["input_observer", "static"], *self.run_of("--input-observer", "mse", name="no"))


class ChannelScales(Calibrated):
    def spread_inputs(self):
        """A Llama whose norms differ much from channel to channel, as those of trained models do."""
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        rng = random.Random(3)
        for name, tensor in tensors.items():
            if "layernorm" in name:
                tensors[name] = support.floats("F32", tensor.shape, [math.exp(1.5 * rng.gauss(0, 1)) for _ in tensor.values()])
        write_checkpoint(self.dir / "spread", config, tensors)
        return self.dir / "spread"

    @covers("quantize", "--channel-scales", "--smoothing")
    def test_awq_beats_rounding_to_nearest(self):
        model = self.spread_inputs()
        report = self.json(*self.run_of(model=model, method="awq"))
        step = report["recipe"]["steps"][0]
        self.assertEqual((step["pass"], step["channel_scales"], step["observer"]), ("quantize.awq", "awq", "mse"))
        sites = self.step(report)["channel_scales"]
        self.assertEqual([site["site"] for site in sites[:4]], ["block 0: attention_norm → query, key, value", "block 0: value → attention_output", "block 0: ffn_norm → ffn_gate, ffn_up", "block 0: ffn_up → ffn_down"])
        self.assertEqual(len(sites), 8)
        for site in sites:
            self.assertLessEqual(site["error_left"], 1)
        self.assertLess(min(site["error_left"] for site in sites), 0.9)
        weighted = self.json(*self.run_of("--observer", "mse", "--activation-weighted", "true", model=model, method="rtn", name="weighted"))
        scaled = self.json(*self.run_of("--channel-scales", "awq", model=model, method="rtn", name="scaled"))  # min-max, as in the search
        plain = self.json("quantize", model, "-o", self.dir / "plain", "--bits", 3, "--group-size", 16, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4)
        self.assertLess(scaled["quality"]["kl_mean"], plain["quality"]["kl_mean"])
        moved = {t["name"] for t in report["tensors"] if t["moved"]}
        self.assertIn("model.layers.0.input_layernorm.weight", moved)
        self.assertNotIn("model.norm.weight", moved)

        none = self.json(*self.run_of("--channel-scales", "none", model=model, method="awq", name="none"))
        self.assertEqual(self.codes("none"), self.codes("weighted"))
        self.assertNotIn("channel_scales", self.step(none))
        for method in ("gptq", "rtn"):
            smooth = self.json(*self.run_of("--channel-scales", "smoothquant", "--smoothing", 0.25, model=model, method=method, name=method))
            self.assertEqual((smooth["recipe"]["steps"][0]["channel_scales"], smooth["recipe"]["steps"][0]["smoothing"]), ("smoothquant", 0.25))
            self.assertGreater(self.step(smooth)["channel_scales"][0]["most_scale"], 1)
        self.refused(2, ["channel scales 'owq'", "none, awq or smoothquant"], *self.run_of("--channel-scales", "owq", name="no"))
        self.refused(2, ["smoothing", "channel_scales smoothquant"], *self.run_of("--smoothing", 0.5, name="no"))
        self.refused(2, ["smoothing", "0 to 1", "found 2"], *self.run_of("--channel-scales", "smoothquant", "--smoothing", 2, name="no"))

    def test_every_architecture_and_the_same_bytes(self):
        for name in MODELS:
            with self.subTest(name):
                data = tiny(name) / "input_ids.npy"
                flags = ["--bits", 4, "--granularity", "channel", "--method", "awq", "--calibration", data, "--nsamples", 4, "--seqlen", 8, "--eval-data", data]
                report = self.json("quantize", tiny(name), "-o", self.dir / name, *flags, "--threads", 1)
                self.assertEqual(len(self.step(report)["channel_scales"]), SITES.get(name, 4) * (1 + max(t["block"] or 0 for t in report["tensors"])))
                self.json("quantize", tiny(name), "-o", self.dir / (name + "-3"), *flags, "--threads", 3)
                self.assertEqual(self.codes(name), self.codes(name + "-3"))
                self.json("compress", tiny(name), "-o", self.dir / (name + "-again"), "--recipe", self.dir / name / "recipe.yaml", "--eval-data", data)
                self.assertEqual(self.codes(name), self.codes(name + "-again"))

    def test_smoothing_helps_static_inputs(self):
        model = self.spread_inputs()
        static = ["quantize", model, "--preset", "W8A8-static", "--calibration", self.calibration(), "--nsamples", 8, "--seqlen", 24, "--eval-data", ids()]
        plain = self.json(*static, "-o", self.dir / "plain")
        smooth = self.json(*static, "-o", self.dir / "smooth", "--channel-scales", "smoothquant")
        self.assertLess(smooth["quality"]["kl_mean"], plain["quality"]["kl_mean"])

    def test_what_was_moved_is_known_after_a_kill(self):
        state = self.dir / "state"
        flags = self.run_of(method="awq")
        whole = self.json(*flags)
        first = self.json(*self.run_of("--resume", state, method="awq", name="first"))
        again = self.json(*self.run_of("--resume", state, method="awq", name="again"))  # every block comes from the state
        self.assertEqual(self.codes("again"), self.codes())
        for report in (first, again):
            self.assertEqual([t["moved"] for t in report["tensors"]], [t["moved"] for t in whole["tensors"]])
            self.assertEqual(self.step(report)["channel_scales"], self.step(whole)["channel_scales"])


class Data(Calibrated):
    @covers("quantize", "--calibration", "--nsamples", "--seqlen")
    def test_what_is_calibrated_on(self):
        report = self.json(*self.run_of())
        said = report["calibration"]
        self.assertEqual(said["sources"][0]["name"], str(self.calibration()))
        self.assertEqual(report["recipe"]["calibration"]["nsamples"], 8)
        self.assertEqual(report["recipe"]["calibration"]["seqlen"], 24)
        self.assertEqual(said["overlap"]["shared"], 0)
        other = self.calibration(name="other.u16", seed=6)
        self.json(*self.run_of("--calibration", other, name="other"))
        self.assertNotEqual(self.codes("other"), self.codes())
        self.refused(3, "nothing.u16", *self.run_of("--calibration", self.dir / "nothing.u16", name="no"))
        self.refused(2, ["--seqlen", "context"], "quantize", llama(), "-o", self.dir / "no", "--bits", 4, "--granularity", "channel", "--method", "gptq", "--calibration", other, "--seqlen", 100000, "--eval-data", ids())
        for flag in (["--calibration", other], ["--nsamples", 4], ["--seqlen", 8]):
            self.refused(2, [flag[0], "--method rtn"], "quantize", llama(), "-o", self.dir / "no", "--bits", 4, "--granularity", "channel", *flag)
        self.assertFalse((self.dir / "no").exists())

    @covers("quantize", "--calibration-packing", "--calibration-precision", "--calibration-activations")
    def test_how_it_is_calibrated(self):
        self.json(*self.run_of())
        for flags, key in ((["--calibration-packing", "document"], "packing"), (["--calibration-precision", "f32"], "precision"), (["--calibration-activations", "bf16"], "activations")):
            with self.subTest(flags):
                report = self.json(*self.run_of(*flags, name=key))
                self.assertEqual(report["recipe"]["calibration"][key], flags[1])
                self.assertNotEqual(self.codes(key), self.codes())
                self.refused(2, "'both'", *self.run_of(flags[0], "both", name="no"))

    @covers("quantize", "--calibration-field")
    def test_field_of_json_lines(self):
        lines = self.dir / "text.jsonl"
        lines.write_text("".join(json.dumps({"body": f"The story number {i} is about a small boat on the sea and {i} fish."}) + "\n" for i in range(60)))
        flags = ["quantize", support.quill(), "-o", self.dir / "out", "--bits", 4, "--calibration", lines, "--nsamples", 2, "--seqlen", 16, "--method", "gptq", "--max-windows", 1, "--include", r"layers\.0\.self_attn\.o_proj"]
        report = self.json(*flags, "--calibration-field", "body")
        self.assertEqual(report["calibration"]["sources"][0]["documents"], 60)
        self.refused(3, ["text.jsonl", "text"], *flags, "--force")

    def test_the_bundled_text_is_the_default(self):
        report = self.json("quantize", support.quill(), "-o", self.dir / "out", "--bits", 4, "--nsamples", 2, "--seqlen", 16, "--method", "gptq", "--max-windows", 1, "--include", r"layers\.0\.self_attn\.o_proj")
        self.assertEqual(report["calibration"]["overlap"]["shared"], 0)

    def test_a_recipe_runs_again_to_the_same_bytes(self):
        self.json(*self.run_of("--refinements", 1))
        recipe = self.dir / "out" / "recipe.yaml"
        self.json("compress", llama(), "-o", self.dir / "again", "--recipe", recipe, "--eval-data", ids())
        self.assertEqual(self.codes("again"), self.codes())
        for threads in (1, 2, 7):
            self.json(*self.run_of("--refinements", 1, "--threads", threads, name=f"threads-{threads}"))
            self.assertEqual(self.codes(f"threads-{threads}"), self.codes())
        plain = self.dir / "plain.yaml"
        plain.write_text("version: 1\ncalibration:\n  nsamples: 3\nsteps:\n  - pass: quantize.rtn\n    scheme: W8A16\n")
        self.refused(2, ["calibration", "no step needs it"], "compress", llama(), "-o", self.dir / "no", "--recipe", plain)


class State(Calibrated):
    @covers("quantize compress", "--max-memory")
    def test_spilled_activations_give_the_same_bytes(self):
        self.json(*self.run_of())
        self.json(*self.run_of("--max-memory", "1MB", name="spilled"))
        self.assertEqual(self.codes("spilled"), self.codes())
        self.json("compress", llama(), "-o", self.dir / "recipe", "--recipe", self.dir / "out" / "recipe.yaml", "--eval-data", ids(), "--max-memory", "1MB")
        self.assertEqual(self.codes("recipe"), self.codes())
        plain = self.dir / "plain.json"
        plain.write_text(json.dumps({"version": 1, "steps": [{"pass": "quantize.rtn", "scheme": "W8A16"}]}))
        for flag in (["--max-memory", "1MB"], ["--resume", self.dir / "state"]):
            self.refused(2, [flag[0], "no step"], "compress", llama(), "-o", self.dir / "no", "--recipe", plain, *flag)
        plain.unlink()
        self.assertEqual(sorted(p.name for p in self.dir.iterdir()), ["calibration.u16", "out", "recipe", "spilled"])
        self.refused(2, ["--max-memory", "--method rtn"], "quantize", llama(), "-o", self.dir / "no", "--bits", 4, "--granularity", "channel", "--max-memory", "1MB")

    @support.long_under_sanitizers
    @covers("quantize compress", "--resume")
    def test_a_killed_run_goes_on_to_the_same_bytes(self):
        """On quill, which takes long enough to be killed between blocks."""
        flags = lambda name: ["quantize", support.quill(), "-o", self.dir / name, "--bits", 3, "--group-size", 64, "--method", "gptq", "--nsamples", 8, "--seqlen", 128, "--max-windows", 1]
        self.json(*flags("out"))
        state = self.dir / "state"
        kills = 0
        for blocks in (1, 3, 6):
            process = subprocess.Popen([str(support.LLMC), *map(str, flags("resumed")), "--resume", str(state)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None:
                file = state / "step-1" / "state.json"
                if file.exists() and json.loads(file.read_text())["finished"] >= blocks:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            process.wait()
        self.assertGreaterEqual(kills, 1)
        self.assertFalse((self.dir / "resumed").exists())
        report = self.json(*flags("resumed"), "--resume", state)
        self.assertEqual(self.codes("resumed"), self.codes())
        self.assertEqual(len(self.step(report)["layers"]), 56)
        self.assertEqual(len(self.step(report)["blocks"]), 8)
        # The state belongs to this run alone.
        self.refused(2, ["another run", "/recipe"], *flags("no"), "--damping", 0.1, "--resume", state)
        self.refused(2, ["--resume", "--method rtn"], "quantize", llama(), "-o", self.dir / "no", "--bits", 4, "--granularity", "channel", "--resume", state)
        other = self.dir / "other" / "step-1"
        other.mkdir(parents=True)
        (other / "letter.txt").write_text("mine")
        self.refused(2, ["letter.txt", "empty directory"], *flags("no"), "--resume", self.dir / "other")
        (state / "step-1" / "block-2.safetensors").write_bytes(b"cut")
        self.refused(3, "block-2.safetensors", *flags("no"), "--resume", state)
        self.json("compress", support.quill(), "-o", self.dir / "recipe", "--recipe", self.dir / "out" / "recipe.yaml", "--max-windows", 1, "--resume", self.dir / "recipe-state")
        self.assertEqual(self.codes("recipe"), self.codes())


if __name__ == "__main__":
    support.main()
