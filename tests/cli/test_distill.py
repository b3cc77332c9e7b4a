"""llmc distill: what the student is, what it is trained on and how, its report, and going on after Ctrl-C."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import support
from support import Case, covers, ids, llama, quill, read_safetensors, tiny, write_ids


class Runs(Case):
    def data(self, vocabulary=64, seed=5, count=3000, name="data.u16"):
        path = self.dir / name
        if not path.exists():
            rng = random.Random(seed)
            write_ids(path, [(i * i // 3) % vocabulary if rng.random() < 0.9 else rng.randrange(vocabulary) for i in range(count)])
        return path

    def run_of(self, *flags, name="out", model=None, steps=("--steps", 3), student=("--student-layers", 1)):
        return ["distill", model or llama(), "-o", self.dir / name, "--data", self.data(), "--seqlen", 24, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4, *student, *steps, *flags]

    def training(self, report):
        return next(step for step in report["steps"] if step["name"] == "distill")["details"]

    def weights(self, name="out"):
        return (self.dir / name / "model.safetensors").read_bytes()


class Students(Runs):
    @covers("distill", "--student-layers", "--student-ffn", "--steps", "--data", "--output", "--eval-data", "--json")
    def test_a_student_made_of_the_teacher(self):
        for flags, layers, ffn in ((("--student-layers", 1), 1, 48), (("--student-ffn", "50%"), 2, 24), (("--student-layers", 1, "--student-ffn", 32), 1, 32)):
            name = f"{layers}-{ffn}"
            report = self.json(*self.run_of(name=name, student=flags, steps=("--steps", 40, "--batch", 32, "--lr", "3e-3")))
            config = json.loads((self.dir / name / "config.json").read_text())
            self.assertEqual((config["num_hidden_layers"], config["intermediate_size"]), (layers, ffn))
            self.assertEqual([step["name"] for step in report["steps"]][1:3], ["prune.structured", "distill"])
            details = self.training(report)
            self.assertEqual(details["steps"], 40)
            self.assertLess(details["training"]["loss"][-1], 0.9 * details["training"]["loss"][0])
            self.assertTrue((self.dir / name / "training.svg").read_text().startswith("<svg"))
            self.assertEqual(report["calibration"]["samples"], 3000 // 24)  # all of the data
        self.refused(2, ["--student-layers", "fewer than the teacher's 2", "found 2"], *self.run_of(student=("--student-layers", 2)))
        self.refused(2, ["--student-ffn", "48"], *self.run_of(student=("--student-ffn", 48)))
        self.refused(2, ["--student", "either"], *self.run_of(student=()))
        self.refused(2, ["--student", "both"], *self.run_of("--student", tiny("llama-bf16")))

    @support.long_under_sanitizers
    @covers("distill", "--student", "--seed")
    def test_a_student_from_a_checkpoint_or_a_config(self):
        config = json.loads((llama() / "config.json").read_text())
        config.update(hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
        (self.dir / "config.json").write_text(json.dumps(config))
        training = ("--steps", 60, "--batch", 32, "--lr", "1e-2")
        reports = {name: self.json(*self.run_of(*flags, name=name, student=("--student", self.dir / "config.json"), steps=training)) for name, flags in (("a", ()), ("b", ("--seed", 1)), ("c", ()))}
        self.assertEqual(self.weights("a"), self.weights("c"))
        self.assertNotEqual(self.weights("a"), self.weights("b"))
        details = self.training(reports["a"])
        self.assertLess(details["training"]["loss"][-1], 0.8 * details["training"]["loss"][0])
        self.assertEqual(len({t["block"] for t in reports["a"]["tensors"]}), 4)
        # The trained student as the start of another training.
        again = self.json(*self.run_of(name="again", student=("--student", self.dir / "a"), steps=("--steps", 20, "--lr", "1e-3", "--batch", 32)))
        self.assertLess(self.training(again)["training"]["loss"][0], 1.1 * details["training"]["loss"][-1])
        self.refused(3, ["nowhere", "not found"], *self.run_of(student=("--student", self.dir / "nowhere")))
        config["vocab_size"] = 70
        (self.dir / "config.json").write_text(json.dumps(config))
        self.refused(2, ["vocabulary", "found 70"], *self.run_of(student=("--student", self.dir / "config.json")))
        self.assertFalse((self.dir / "out").exists())

    def test_a_student_of_a_shorter_context(self):
        """Teacher and student are judged on the same windows, which both must take."""
        config = json.loads((llama() / "config.json").read_text())
        (self.dir / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "max_position_embeddings": 16}))
        run = ["distill", llama(), "--student", self.dir / "config.json", "-o", self.dir / "out", "--data", self.data(), "--eval-data", ids(), "--steps", 2]
        for flags, words in (([], ["--eval-seqlen", "windows of 64 tokens", "is 16"]), (["--eval-seqlen", 17], ["windows of 17 tokens"]), (["--eval-seqlen", 16], ["--seqlen", "samples of 64 tokens", "is 16"]), (["--eval-seqlen", 16, "--seqlen", 17], ["samples of 17 tokens"])):
            self.refused(2, words, *run, *flags)
        self.ok(*run, "--eval-seqlen", 16, "--seqlen", 16)

    def test_recipes_are_checked(self):
        def recipe(*steps):
            path = self.dir / "recipe.yaml"
            path.write_text(f"version: 1\ncalibration: {{files: ['{self.data()}'], nsamples: 4, seqlen: 24}}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
            return ["compress", llama(), "-o", self.dir / "out", "--recipe", path, "--eval-data", ids(), "--eval-seqlen", 8]

        prune = "{pass: prune.magnitude, sparsity: 0.5}"
        self.refused(2, ["distill is the first step"], *recipe("{pass: distill, steps: 3}"))
        self.refused(2, ["expected it before the steps that quantize"], *recipe("{pass: quantize.rtn, scheme: W4A16-g16}", "{pass: distill, steps: 3}"))
        self.refused(2, ["student would undo"], *recipe(prune, f"{{pass: student, from: '{llama()}'}}", "{pass: distill, steps: 3}"))
        for field, words in (("steps: 0", ["steps", "found 0"]), ("steps: 3, rate: -1", ["rate", "-1"]), ("steps: 3, schedule: up", ["schedule", "cosine or linear or constant", "up"]), ("steps: 3, optimizer: lion", ["adamw or sgd", "lion"]), ("steps: 3, max_minutes: 1", ["both"]), ("batch: 3", ["neither"]), ("steps: 3, kl_weight: 0", ["nothing to learn"])):
            self.refused(2, words, *recipe(prune, f"{{pass: distill, {field}}}"))
        # What pruning set to zero stays so, and what is quantized later is the trained model.
        report = self.json(*recipe(prune, "{pass: distill, steps: 5}", "{pass: quantize.rtn, scheme: W4A16-g16}"))
        self.assertGreaterEqual(report["sparsity"], 0.5)
        self.assertEqual({t["treatment"] for t in report["tensors"] if "proj" in t["name"]}, {"50 % zeros + trained + W4A16-g16-symmetric"})


class Training(Runs):
    def loss_of(self, *flags, steps=("--steps", 30, "--batch", 32, "--lr", "3e-3")):
        return self.training(self.json(*self.run_of(*flags, "--force", steps=steps)))

    @covers("distill", "--temperature", "--kl-weight", "--ce-weight")
    def test_the_loss_is_what_was_asked_for(self):
        details = self.loss_of("--temperature", 3, "--kl-weight", 0.5, "--ce-weight", 0.25)
        curve = details["training"]
        for loss, kl, ce in zip(curve["loss"], curve["kl"], curve["cross_entropy"]):
            self.assertAlmostEqual(loss, 0.5 * 9 * kl + 0.25 * ce, places=9)
        text, teacher = self.loss_of("--kl-weight", 0, "--ce-weight", 1)["training"], self.loss_of()["training"]
        self.assertNotIn("kl", text)
        self.assertNotIn("cross_entropy", teacher)
        self.assertLess(text["cross_entropy"][-1], 0.95 * curve["cross_entropy"][0])
        self.refused(2, ["nothing to learn"], *self.run_of("--kl-weight", 0))
        self.refused(2, ["temperature", "expected 0.01 to 100"], *self.run_of("--temperature", 0))

    @support.long_under_sanitizers
    @covers("distill", "--hidden-weight")
    def test_hidden_states_are_matched(self):
        curve = self.loss_of("--hidden-weight", 2, "--ce-weight", 0.25)["training"]
        for loss, kl, ce, hidden in zip(curve["loss"], curve["kl"], curve["cross_entropy"], curve["hidden"]):
            self.assertAlmostEqual(loss, 4 * kl + 0.25 * ce + 2 * hidden, places=9)
        config = json.loads((llama() / "config.json").read_text())
        config.update(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
        (self.dir / "config.json").write_text(json.dumps(config))
        for student in (("--student-layers", 1), ("--student", self.dir / "config.json")):  # the teacher's width, and one that is projected
            run = lambda name, *flags: self.training(self.json(*self.run_of("--kl-weight", 0, "--hidden-weight", 1, *flags, name=name, student=student, steps=("--steps", 40, "--batch", 32, "--lr", "1e-2"))))["training"]
            first = run(f"{student[0]}-first", "--threads", 1)
            self.assertEqual(set(first), {"step", "loss", "hidden"})
            self.assertLess(first["hidden"][-1], 0.8 * first["hidden"][0])
            self.assertEqual(run(f"{student[0]}-second"), first)
            self.assertEqual(self.weights(f"{student[0]}-first"), self.weights(f"{student[0]}-second"))
        self.refused(2, ["hidden_weight", "cache_teacher"], *self.run_of("--hidden-weight", 1, "--cache-teacher"))

    @support.long_under_sanitizers
    @covers("distill", "--attention-weight")
    def test_attention_is_matched(self):
        curve = self.loss_of("--attention-weight", 3)["training"]
        for loss, kl, attention in zip(curve["loss"], curve["kl"], curve["attention"]):
            self.assertAlmostEqual(loss, 4 * kl + 3 * attention, places=9)
        config = json.loads((llama() / "config.json").read_text())
        config.update(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=6)
        (self.dir / "config.json").write_text(json.dumps(config))
        for student in (("--student-layers", 1), ("--student", self.dir / "config.json")):  # a block of the teacher's own, and others
            run = lambda name, *flags: self.training(self.json(*self.run_of("--kl-weight", 0, "--attention-weight", 1, *flags, name=name, student=student, steps=("--steps", 40, "--batch", 32, "--lr", "1e-2"))))["training"]
            first = run(f"{student[0]}-first", "--threads", 1)
            self.assertEqual(set(first), {"step", "loss", "attention"})
            if student[0] == "--student":
                self.assertLess(first["attention"][-1], 0.9 * first["attention"][0])
            self.assertEqual(run(f"{student[0]}-second"), first)
            self.assertEqual(self.weights(f"{student[0]}-first"), self.weights(f"{student[0]}-second"))
        config.update(num_attention_heads=2, num_key_value_heads=2)
        (self.dir / "config.json").write_text(json.dumps(config))
        self.refused(2, ["attention_weight", "2 heads", "4 heads"], *self.run_of("--attention-weight", 1, name="no", student=("--student", self.dir / "config.json")))
        self.refused(2, ["attention_weight", "cache_teacher"], *self.run_of("--attention-weight", 1, "--cache-teacher", name="no"))

    @covers("distill", "--lr", "--schedule", "--warmup", "--optimizer", "--weight-decay", "--clip")
    def test_each_setting_changes_the_training_and_is_in_the_recipe(self):
        plain = self.loss_of(steps=("--steps", 8))["training"]["loss"]
        for flag, value, field in (("--lr", 1e-3, "rate"), ("--schedule", "linear", "schedule"), ("--schedule", "constant", "schedule"), ("--warmup", 2, "warmup"), ("--optimizer", "sgd", "optimizer"), ("--weight-decay", 5, "weight_decay"), ("--clip", 0.001, "clip")):
            with self.subTest(flag=flag, value=value):
                steps = ("--steps", 8, "--warmup", 3) if flag == "--schedule" else ("--steps", 8)
                report = self.json(*self.run_of(flag, value, "--force", steps=steps))
                self.assertEqual(report["recipe"]["steps"][1][field], value)
                found = self.training(report)["training"]["loss"]
                self.assertEqual(found[0], plain[0])
                if flag != "--clip":  # Adam does not see the size of all gradients
                    self.assertNotEqual(found[-1], plain[-1])
                self.assertIn(f'{field}: ', (self.dir / "out" / "recipe.yaml").read_text())
        self.refused(2, ["schedule", "cosine or linear or constant"], *self.run_of("--schedule", "up"))

    @covers("distill", "--batch", "--accumulate", "--seqlen")
    def test_two_batches_in_a_step_are_one_of_their_size(self):
        whole, halves = self.loss_of(steps=("--steps", 6, "--batch", 16, "--training-precision", "f32")), self.loss_of(steps=("--steps", 6, "--batch", 8, "--accumulate", 2, "--training-precision", "f32"))
        self.assertEqual(whole["tokens"], 6 * 16 * 24)
        self.assertEqual(halves["tokens"], whole["tokens"])
        for x, y in zip(whole["training"]["loss"], halves["training"]["loss"]):
            self.assertAlmostEqual(x, y, places=5)  # sums in another order

    @covers("distill", "--training-precision", "--cache-teacher", "--generate-samples", "--threads", "--activation-checkpointing")
    def test_what_changes_the_bytes_and_what_does_not(self):
        runs = {"plain": (), "bf16": ("--training-precision", "bf16"), "f32": ("--training-precision", "f32"), "cached": ("--cache-teacher",), "checkpointed": ("--activation-checkpointing",), "one": ("--threads", 1), "five": ("--threads", 5), "more": ("--generate-samples", 4)}
        reports = {name: self.json(*self.run_of(*flags, name=name)) for name, flags in runs.items()}
        for name in ("bf16", "cached", "checkpointed", "one", "five"):
            self.assertEqual(self.weights(name), self.weights("plain"), name)
        for name in ("f32", "more"):
            self.assertNotEqual(self.weights(name), self.weights("plain"), name)
        self.assertEqual(reports["more"]["calibration"]["generated_samples"], 4)

    @support.long_under_sanitizers
    @covers("distill", "--data-field")
    def test_lines_of_json(self):
        lines = self.dir / "lines.jsonl"
        lines.write_text("".join(json.dumps({"story": f"It was the {i}th night, and the lamp was out again. " * 8}) + "\n" for i in range(20)))
        run = ["distill", quill(), "-o", self.dir / "text", "--student-layers", 1, "--data", lines, "--seqlen", 32, "--steps", 1, "--max-windows", 1, "--eval-seqlen", 16]
        self.assertEqual(self.training(self.json(*run, "--data-field", "story"))["steps"], 1)
        self.refused(3, ["lines.jsonl", "text"], *run, "--force")

    @covers("distill", "--max-minutes")
    def test_a_time_becomes_a_number_of_steps(self):
        report = self.json(*self.run_of(steps=("--max-minutes", 0.005)))
        steps = self.training(report)["steps"]
        self.assertGreater(steps, 0)
        recipe = (self.dir / "out" / "recipe.yaml").read_text()
        self.assertIn(f"steps: {steps}\n", recipe)
        self.assertNotIn("max_minutes", recipe)
        self.json("compress", llama(), "-o", self.dir / "again", "--recipe", self.dir / "out" / "recipe.yaml", "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 4)
        self.assertEqual(self.weights("again"), self.weights())
        self.refused(2, ["either --steps or --max-minutes"], *self.run_of("--max-minutes", 1))
        self.refused(2, ["either --steps or --max-minutes"], *self.run_of(steps=()))


class Bundles(Runs):
    def student(self):
        path = self.dir / "student"
        if not path.exists():
            self.json("prune", llama(), "-o", path, "--structured", "ffn=50%", "--importance", "magnitude", "--compensate", "false", "--eval-data", ids(), "--eval-seqlen", 8)
        return path

    def export(self, *flags, name="bundle", data=None):
        return self.json("export", llama(), "--for-distillation", "--student", self.student(), "-o", self.dir / name, "--data", data or self.data(), "--seqlen", 24, *flags)["manifest"]

    def from_bundle(self, *flags, bundle="bundle", name="out"):
        return ["distill", llama(), "--from-bundle", self.dir / bundle, "-o", self.dir / name, "--steps", 12, "--batch", 16, "--training-precision", "f32", "--eval-data", ids(), "--eval-seqlen", 8, *flags]

    @covers("distill", "--from-bundle")
    @covers("export", "--for-distillation", "--student", "--data", "--seqlen", "--top-k", "--temperature")
    def test_with_all_tokens_named_it_is_the_teacher_itself(self):
        manifest = self.export("--top-k", 64, "--temperature", 1.5)
        self.assertEqual((manifest["samples"], manifest["seqlen"], manifest["top"], manifest["temperature"]), (125, 24, 64, 1.5))
        self.assertEqual(sorted(os.listdir(self.dir / "bundle")), ["llmc.json", "manifest.json", "student", "targets.safetensors", "tokens.npy", "train.py"])
        kept = self.training(self.json(*self.from_bundle()))["training"]
        run = ["distill", llama(), "--student", self.student(), "-o", self.dir / "direct", "--data", self.data(), "--seqlen", 24, "--temperature", 1.5, "--steps", 12, "--batch", 16, "--training-precision", "f32", "--eval-data", ids(), "--eval-seqlen", 8]
        direct = self.training(self.json(*run))["training"]
        for x, y in zip(kept["kl"], direct["kl"]):
            self.assertAlmostEqual(x, y, delta=5e-3 * y)  # the bundle was made with bf16 products
        # Of fewer tokens the divergence is less: what happens inside the rest is not seen.
        self.export("--top-k", 4, "--temperature", 1.5, name="few")
        few = self.training(self.json(*self.from_bundle("--force", bundle="few")))["training"]
        self.assertLess(few["kl"][0], kept["kl"][0])
        self.assertLess(few["kl"][-1], few["kl"][0])
        self.assertIn("targets.safetensors", (self.dir / "out" / "recipe.yaml").read_text())

    @covers("export", "--nsamples", "--seed", "--data-field")
    def test_samples_are_drawn(self):
        tokens = {}
        for name, flags in (("a", ("--nsamples", 5)), ("b", ("--nsamples", 5, "--seed", 1)), ("c", ("--nsamples", 5))):
            self.assertEqual(self.export(*flags, name=name)["samples"], 5)
            tokens[name] = (self.dir / name / "tokens.npy").read_bytes()
        self.assertEqual(tokens["a"], tokens["c"])
        self.assertNotEqual(tokens["a"], tokens["b"])
        lines = self.dir / "lines.jsonl"
        lines.write_text("".join(json.dumps({"story": "The lamp was out again. " * 9}) + "\n" for _ in range(3)))
        self.json("export", quill(), "--for-distillation", "--student", quill(), "-o", self.dir / "text", "--data", lines, "--data-field", "story", "--seqlen", 16)

    def test_what_does_not_fit_is_refused(self):
        self.export()
        self.refused(2, ["not both"], "export", llama(), "--for-distillation", "--dense", "-o", self.dir / "no")
        self.refused(2, ["--student"], "export", llama(), "--for-distillation", "-o", self.dir / "no", "--data", self.data())
        self.refused(2, ["vocabulary"], "export", llama(), "--for-distillation", "--student", quill(), "-o", self.dir / "no", "--data", self.data(), "--seqlen", 24)
        self.refused(2, ["1 to 64", "65"], "export", llama(), "--for-distillation", "--student", self.student(), "-o", self.dir / "no", "--data", self.data(), "--seqlen", 24, "--top-k", 65)
        self.refused(4, ["bundle"], "export", llama(), "--for-distillation", "--student", self.student(), "-o", self.dir / "bundle", "--data", self.data(), "--seqlen", 24)
        for flag in ("--temperature", "--hidden-weight", "--attention-weight"):
            self.refused(2, [flag, "makes no sense with --from-bundle"], *self.from_bundle(flag, 3))
        self.refused(2, ["a kl_weight of 0"], *self.from_bundle("--kl-weight", 0, "--ce-weight", 1))
        self.refused(3, ["manifest.json"], *self.from_bundle(bundle="nowhere"))
        self.export("--nsamples", 7, name="other")
        shutil.copy(self.dir / "other" / "targets.safetensors", self.dir / "bundle" / "targets.safetensors")
        self.refused(2, ["targets.safetensors", "other samples"], *self.from_bundle())
        targets = (self.dir / "other" / "targets.safetensors").read_bytes()
        (self.dir / "other" / "targets.safetensors").write_bytes(targets[:-100])
        self.refused(3, ["targets.safetensors"], *self.from_bundle(bundle="other"))
        manifest = self.dir / "other" / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seqlen": 0}))
        self.refused(3, ["manifest.json", "seqlen: expected a number from 1, found 0"], *self.from_bundle(bundle="other"))


@support.long_under_sanitizers
class GoingOn(Runs):
    def interrupt(self, *flags):
        """Starts a long training and sends Ctrl-C once it is about to start; returns what it said."""
        command = [str(part) for part in [support.LLMC, *self.run_of(*flags, steps=("--steps", 300, "--batch", 16))]]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.set_blocking(process.stderr.fileno(), False)
        said = b""
        while said.count(b"check:") < 2 and process.poll() is None:  # the teacher is read again right before the training
            said += process.stderr.read() or b""
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = said.decode() + process.communicate(timeout=120)[1].decode()
        return process.returncode, said

    @covers("distill", "--resume")
    def test_an_interrupted_training_goes_on_to_the_same_bytes(self):
        long = ("--steps", 300, "--batch", 16)
        self.json(*self.run_of(name="whole", steps=long))
        for flags, folder in ((("--resume", self.dir / "state"), self.dir / "state"), ((), self.dir / "out-interrupted")):
            for attempt in range(20):  # until a signal meets the training and not what is before or behind it
                code, said = self.interrupt(*flags)
                if "training steps" in said:
                    break
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.dir / "out", ignore_errors=True)
            self.assertEqual(code, 130, said)
            self.assertRegex(said, r"interrupted after \d+ of 300 training steps; the same command with --resume .* goes on from there")
            self.assertIn(str(folder), said)
            self.assertFalse((self.dir / "out").exists())
            if flags:
                self.refused(2, ["rate"], *self.run_of("--resume", folder, "--lr", 1e-2, steps=long))
            report = self.json(*self.run_of("--resume", folder, steps=long))
            self.assertEqual(self.weights(), self.weights("whole"))
            self.assertEqual(self.training(report)["steps"], 300)
            shutil.rmtree(self.dir / "out")
            shutil.rmtree(folder)


class Common(Runs):
    @covers("distill", "--dry-run", "--force", "--format", "--untie", "--ignore-config-field", "--junit", "--eval-seqlen", "--max-windows", "--convention", "--stride", "--precision", "--kv-cache-bits")
    def test_the_flags_that_all_commands_that_compress_share(self):
        plan = self.json(*self.run_of("--dry-run"))
        self.assertIn("trained", {t["treatment"].split(" + ")[-1] for t in plan["tensors"]})
        self.assertFalse((self.dir / "out").exists())
        report = self.json(*self.run_of("--format", "packed", "--junit", self.dir / "gates.xml", "--max-kl", 1000))
        self.assertEqual(report["artifact"]["container"], "llmc-packed")
        self.assertIn("max_kl", (self.dir / "gates.xml").read_text())
        self.refused(4, ["out"], *self.run_of())
        quality = {}
        for flags in ((), ("--convention", "second-half"), ("--stride", 4), ("--precision", "bf16"), ("--kv-cache-bits", 4), ("--eval-seqlen", 12), ("--max-windows", 2)):
            args = self.run_of("--force")
            if flags and flags[0] in args:
                at = args.index(flags[0])
                args = args[:at] + args[at + 2:]
            quality[flags] = self.json(*args, *flags)["quality"]
        self.assertEqual(len({json.dumps(q) for q in quality.values()}), len(quality))
        untied = self.json(*self.run_of("--force", "--untie"))
        self.assertIn("output_head", {t["role"] for t in untied["tensors"]})
        odd = self.dir / "odd"
        shutil.copytree(llama(), odd)
        config = json.loads((odd / "config.json").read_text())
        (odd / "config.json").write_text(json.dumps({**config, "glow": 1}))
        self.refused(3, ["glow"], *self.run_of("--force", model=odd))
        self.json(*self.run_of("--force", "--ignore-config-field", "glow", model=odd))

    @covers("distill", "--max-ppl-increase", "--max-kl", "--min-top1-agreement", "--max-size", "--min-ratio")
    def test_gates(self):
        for flag, passed, missed in (("--max-ppl-increase", "100000%", "-0"), ("--max-kl", 1000, 0), ("--min-top1-agreement", 0, 1), ("--max-size", "1GB", "1kB"), ("--min-ratio", 1, 1000)):
            self.ok(*self.run_of(flag, passed, "--force"))
            if missed != "-0":
                self.ok(*self.run_of(flag, missed, "--force"), code=1)

    def test_progress_says_the_loss_and_the_rate(self):
        said = self.ok(*self.run_of()).err
        self.assertRegex(said, r"distill: 3/3 in [\d.]+ s  loss [\d.]+, \d+ tokens/s")


if __name__ == "__main__":
    support.main()
