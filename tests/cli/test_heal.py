"""Healing: --heal and the recipe step, and calibration samples that the model writes itself."""

import random

import support
from support import Case, covers, ids, llama, quill, read_safetensors, tiny, write_ids

MODELS = ("llama-gqa-tied", "gpt2-tied")


class Runs(Case):
    def calibration(self, vocabulary=64, seed=5):
        path = self.dir / "calibration.u16"
        if not path.exists():
            rng = random.Random(seed)
            write_ids(path, [rng.randrange(vocabulary) for _ in range(3000)])
        return path

    def tiny_run(self, verb, *flags, name="out", model=None):
        return [verb, model or llama(), "-o", self.dir / name, "--calibration", self.calibration(), "--nsamples", 32, "--seqlen", 24, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4, *flags]

    def heal_details(self, report):
        return next(step for step in report["steps"] if step["name"] == "heal")["details"]


class Healing(Runs):
    @covers("quantize", "--heal", "--heal-epochs")
    def test_training_brings_the_loss_down_and_keeps_the_codes(self):
        for model in MODELS:
            with self.subTest(model):
                flags = ["--bits", 3, "--group-size", 16, "--method", "gptq"]
                self.json(*self.tiny_run("quantize", *flags, "--format", "packed", model=tiny(model), name=f"{model}-plain"))
                report = self.json(*self.tiny_run("quantize", *flags, "--heal", "--heal-epochs", 6, "--format", "packed", model=tiny(model), name=f"{model}-healed"))
                details = self.heal_details(report)
                self.assertEqual(len(details["loss"]), 6)
                self.assertLess(details["loss"][-1], 0.97 * details["loss"][0])
                self.assertGreater(details["trained"]["scales"], 0)
                self.assertEqual(details["trained"]["pruned_weights"], 0)
                plain, healed = (read_safetensors(self.dir / f"{model}-{kind}")[0] for kind in ("plain", "healed"))
                self.assertEqual(plain.keys(), healed.keys())
                changed = {name for name in plain if plain[name] != healed[name]}
                self.assertTrue(any("norm" in name or "ln_" in name for name in changed), changed)
                self.assertTrue(any("scale" in name for name in changed), changed)
                self.assertFalse([name for name in changed if "code" in name or "packed" in name or "embed" in name or "wte" in name], changed)
        self.refused(2, ["--heal-epochs", "--heal"], *self.tiny_run("quantize", "--bits", 4, "--method", "gptq", "--heal-epochs", 2, name="x"))

    @covers("prune", "--heal", "--heal-epochs")
    def test_pruned_weights_learn_and_zeros_stay(self):
        report = self.json(*self.tiny_run("prune", "--sparsity", 0.5, "--heal", "--heal-epochs", 6))
        details = self.heal_details(report)
        self.assertLess(details["loss"][-1], 0.9 * details["loss"][0])
        self.assertGreater(details["trained"]["pruned_weights"], 0)
        self.assertAlmostEqual(report["sparsity"], 0.5, places=2)
        self.refused(2, ["--heal-epochs", "--heal"], *self.tiny_run("prune", "--sparsity", 0.5, "--method", "wanda", "--heal-epochs", 2, name="x"))

    def test_what_is_trained_is_what_is_written(self):
        """The artifact's divergence on the calibration text is the loss of the last, smallest step, biases of weights left alone included."""
        data = self.dir / "all.u16"
        source = random.Random(3)
        write_ids(data, [source.randrange(64) for _ in range(4 * 24)])
        recipe = self.dir / "recipe.yaml"
        for model, exclude in (("llama-gqa-tied", "down_proj"), ("gpt2-tied", "c_attn|mlp.c_fc"), ("llama-bias", "q_proj|o_proj"), ("qwen2-untied", "k_proj"), ("qwen3-untied", "q_proj"), ("phi3-part", "qkv_proj"), ("olmo2", "q_proj"), ("gemma2", "q_proj"), ("gpt-neox", "dense_4h_to_h"), ("opt", "fc1"), ("bloom", "dense_4h_to_h"), ("falcon", "dense_4h_to_h")):
            with self.subTest(model):
                recipe.write_text(f"version: 1\ncalibration: {{files: ['{data}'], nsamples: 4, seqlen: 24, precision: f32}}\nsteps:\n  - {{pass: quantize.rtn, scheme: W3A16-g16, exclude: ['{exclude}']}}\n  - {{pass: heal, epochs: 30, norm_rate: 0.05, scale_rate: 0.01}}\n")
                loss = self.heal_details(self.json("compress", tiny(model), "-o", self.dir / model, "--recipe", recipe, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 2))["loss"]
                self.assertLess(loss[-1], 0.8 * loss[0])
                judged = self.json("evaluate", self.dir / model, "--reference", tiny(model), "--data", data, "--seqlen", 24)
                self.assertLess(abs(judged["quality"]["kl_mean"] / loss[-1] - 1), 0.1)  # which leaves out each window's last position

    def test_codes_learn_when_asked_to(self):
        recipe = self.dir / "recipe.yaml"
        loss, codes = {}, {}
        for rate in (0, 0.1):
            recipe.write_text(f"version: 1\ncalibration: {{files: ['{self.calibration()}'], nsamples: 8, seqlen: 24, precision: f32}}\nsteps:\n  - {{pass: quantize.rtn, scheme: W2A16-g16}}\n  - {{pass: heal, epochs: 20, batch: 8, norm_rate: 0, scale_rate: 0, code_rate: {rate}}}\n")
            details = self.heal_details(self.json("compress", llama(), "-o", self.dir / f"out{rate}", "--recipe", recipe, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 2))
            loss[rate], codes[rate] = details["loss"], details["trained"]["codes"]
        recipe.write_text(recipe.read_text().replace("code_rate: 0.1", "code_rate: 0.05, code_rank: 4"))
        details = self.heal_details(self.json("compress", llama(), "-o", self.dir / "thin", "--recipe", recipe, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 2))
        self.assertLess(details["loss"][-1], 0.9 * details["loss"][0])
        self.assertLess(details["trained"]["codes"], 0.7 * codes[0.1])
        self.assertGreater(details["trained"]["codes"], 0)
        self.assertEqual(codes[0], 0)
        self.assertGreater(codes[0.1], 1000)
        self.assertAlmostEqual(loss[0][-1], loss[0][0], places=3)
        self.assertLess(loss[0.1][-1], 0.8 * loss[0.1][0])

    def test_the_same_bytes_for_any_number_of_threads(self):
        made = []
        for threads in (1, 2, 5):
            self.json(*self.tiny_run("quantize", "--bits", 4, "--group-size", 16, "--heal", "--threads", threads, name=f"t{threads}"))
            made.append((self.dir / f"t{threads}" / "model.safetensors").read_bytes())
        self.assertEqual(made[0], made[1])
        self.assertEqual(made[0], made[2])
        recipe = self.dir / "recipe.yaml"
        for name, more in (("kept", ""), ("checkpointed", ", activation_checkpointing: true")):
            recipe.write_text(f"version: 1\ncalibration: {{files: ['{self.calibration()}'], nsamples: 8, seqlen: 24}}\nsteps:\n  - {{pass: quantize.rtn, scheme: W3A16-g16}}\n  - {{pass: heal{more}}}\n")
            self.json("compress", llama(), "-o", self.dir / name, "--recipe", recipe, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 2)
        self.assertEqual((self.dir / "kept" / "model.safetensors").read_bytes(), (self.dir / "checkpointed" / "model.safetensors").read_bytes())

    @support.long_under_sanitizers
    def test_on_the_sample_model_held_out_text_gains(self):
        flags = ["--bits", 3, "--group-size", 128, "--max-windows", 3]
        plain = self.json("quantize", quill(), "-o", self.dir / "plain", *flags)
        healed = self.json("quantize", quill(), "-o", self.dir / "healed", *flags, "--heal", "--heal-epochs", 3, "--nsamples", 24, "--seqlen", 128)
        self.assertLess(healed["quality"]["kl_mean"], 0.9 * plain["quality"]["kl_mean"])

    @covers("quantize prune", "--heal-scope")
    def test_block_by_block(self):
        """Every block's output comes nearer to the original's, and so does the model; codes and zeros stay, as do tensors outside of blocks."""
        for model in ("llama-gqa-tied", "gpt2-tied", "phi3-part", "olmo2", "falcon"):
            for verb, flags in (("quantize", ["--bits", 3, "--group-size", 8, "--format", "packed"]), ("prune", ["--sparsity", 0.5])):
                with self.subTest(model=model, verb=verb):
                    plain = self.json(*self.tiny_run(verb, model=tiny(model), name=f"{model}-{verb}-plain")[:4], *flags, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4)
                    report = self.json(*self.tiny_run(verb, *flags, "--heal", "--heal-scope", "block", "--heal-epochs", 10, model=tiny(model), name=f"{model}-{verb}"))
                    details = self.heal_details(report)
                    self.assertEqual(details["steps"], 80)
                    for block in details["blocks"]:
                        self.assertLess(block["error_after"], block["error_before"])
                    self.assertLess(details["blocks"][-1]["error_after"], 0.95 * details["blocks"][-1]["error_before"])
                    self.assertLess(report["quality"]["kl_mean"], plain["quality"]["kl_mean"])
                    before, after = (read_safetensors(self.dir / f"{model}-{verb}{end}")[0] for end in ("-plain", ""))
                    changed = {name for name in before if before[name] != after.get(name)}
                    self.assertTrue(changed)
                    self.assertFalse([name for name in changed if "code" in name or "mask" in name or "embed" in name or "wte" in name or name in ("model.norm.weight", "transformer.ln_f.weight")], changed)
                    self.assertEqual(report["sparsity"], plain["sparsity"])

    def test_block_by_block_goes_on_where_it_was(self):
        flags = ["--bits", 3, "--group-size", 8, "--heal", "--heal-scope", "block"]
        whole = self.json(*self.tiny_run("quantize", *flags, "--threads", 1, name="whole"))
        again = [self.json(*self.tiny_run("quantize", *flags, "--threads", 2, "--resume", self.dir / "state", name=name)) for name in ("first", "second")]
        for name in ("first", "second"):
            self.assertEqual((self.dir / name / "model.safetensors").read_bytes(), (self.dir / "whole" / "model.safetensors").read_bytes())
        for report in again:
            self.assertEqual(self.heal_details(report), self.heal_details(whole))
        self.refused(2, ["--heal-scope", "--heal"], *self.tiny_run("quantize", "--bits", 4, "--method", "gptq", "--heal-scope", "block", name="x"))

    def test_recipes_are_checked(self):
        def recipe(*steps):
            path = self.dir / "recipe.yaml"
            path.write_text(f"version: 1\ncalibration: {{files: ['{self.calibration()}'], nsamples: 4, seqlen: 24}}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
            return ["compress", llama(), "-o", self.dir / "out", "--recipe", path, "--eval-data", ids()]

        self.refused(2, ["heal is the first step"], *recipe("{pass: heal}", "{pass: quantize.rtn, scheme: W4A16-g16}"))
        self.refused(2, ["epochs", "expected 1 to 1000000", "found 0"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, epochs: 0}"))
        self.refused(2, ["scale_rate", "expected 0 to 100", "-1"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, scale_rate: -1}"))
        self.refused(2, ["temperature", "expected 0.01 to 100", "found 0"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, temperature: 0}"))
        self.refused(2, ["code_rank is 4 but code_rate is 0"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, code_rank: 4}"))
        self.refused(2, ["scope 'layer'", "expected model or block"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, scope: layer}"))
        self.refused(2, ["temperature makes no sense with scope block"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, scope: block, temperature: 2}"))
        self.refused(2, ["activation_checkpointing makes no sense with scope block"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, scope: block, activation_checkpointing: true}"))
        self.refused(2, ["compared block by block"], *recipe("{pass: prune.structured, layers: 1}", "{pass: heal, scope: block}"))
        self.refused(3, ["rates"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: heal, rates: 1}"))


class GeneratedSamples(Runs):
    @covers("quantize prune", "--generate-samples")
    def test_the_model_writes_samples_of_its_own(self):
        made = {}
        for name, verb, flags in (("a", "quantize", ["--bits", 3, "--method", "gptq", "--group-size", 16]), ("b", "quantize", ["--bits", 3, "--method", "gptq", "--group-size", 16, "--generate-samples", 8]), ("c", "quantize", ["--bits", 3, "--method", "gptq", "--group-size", 16, "--generate-samples", 8, "--threads", 1]), ("p", "prune", ["--sparsity", 0.5, "--method", "wanda", "--generate-samples", 3])):
            report = self.json(*self.tiny_run(verb, *flags, name=name))
            made[name] = (self.dir / name / "model.safetensors").read_bytes()
            generated = flags[flags.index("--generate-samples") + 1] if "--generate-samples" in flags else 0
            self.assertEqual(report["calibration"]["generated_samples"], generated)
            self.assertEqual(report["calibration"]["samples"], 32 + generated)
        self.assertNotEqual(made["a"], made["b"])
        self.assertEqual(made["b"], made["c"])


if __name__ == "__main__":
    support.main()
