"""How artifacts and models are judged: windows, conventions, precision, seeds, gates, JUnit, and llmc evaluate."""

import array
import json
import math
import shutil
import xml.etree.ElementTree as ElementTree

import support
from support import COMPRESSING, covers, ids, llama, llama_config, llama_shapes, make_llama, quill, random_tensors, read_npy, tiny, without_clocks, write_checkpoint, write_ids, write_npy
from test_compress import RUNS, Compress


class Evaluation(Compress):
    """The flags that say on what and how to judge: the same ones for the three commands and for llmc evaluate."""

    def judged(self, *flags):
        """Each command's report (for evaluate: its result) with these flags."""
        for command in RUNS:
            yield command, self.json(*self.run_of(command, None, *flags, "--force"))
        yield "evaluate", self.json("evaluate", llama(), "--data", ids(), *[{"--eval-data": "--data", "--eval-seqlen": "--seqlen"}.get(f, f) if isinstance(f, str) else f for f in flags])

    @covers(COMPRESSING, "--eval-seqlen")
    @covers("evaluate", "--seqlen")
    def test_seqlen(self):
        for command, report in self.judged("--eval-seqlen", 16):
            with self.subTest(command):
                quality = report["quality"]
                self.assertEqual((quality["windows"], quality["scored_tokens"], quality["tokens"], quality["unused_tokens"]), (16, 16 * 15, 256, 0))
                self.assertIn("windows of 16 tokens", quality["convention"])
        for command, report in self.judged("--eval-seqlen", 60):
            self.assertEqual((report["quality"]["windows"], report["quality"]["unused_tokens"]), (4, 16), command)
        for command, report in self.judged():  # the model's context, being less than 512
            self.assertIn("windows of 64 tokens", report["quality"]["convention"])
        for value, words in ((65, ["windows of 65 tokens", "context is 64"]), (1, ["windows of 1 tokens", "at least 2"]), (0, ["seqlen"]), (-4, ["seqlen"]), ("many", ["seqlen", "many"])):
            self.refused(2, words, "evaluate", llama(), "--data", ids(), "--seqlen", value)
            self.refused(2, words, *self.run_of("quantize", None, "--eval-seqlen", value, name="no"))

    @covers(COMPRESSING + " evaluate", "--max-windows")
    def test_max_windows(self):
        for command, report in self.judged("--eval-seqlen", 4, "--max-windows", 3):
            with self.subTest(command):
                self.assertEqual((report["quality"]["windows"], report["quality"]["unused_tokens"]), (3, 256 - 12))
        defaults = {command: report["quality"]["windows"] for command, report in self.judged("--eval-seqlen", 4)}
        self.assertEqual(defaults, {"quantize": 32, "prune": 32, "compress": 32, "evaluate": 64})
        for command, report in self.judged("--eval-seqlen", 4, "--max-windows", 0):
            self.assertEqual(report["quality"]["windows"], 64, command)
        self.refused(2, ["--max-windows"], "evaluate", llama(), "--data", ids(), "--max-windows", -1)

    def test_windows_are_spread_over_the_text(self):
        tokens = list(array.array("H", ids().read_bytes()))
        chosen = write_npy(self.dir / "chosen.npy", [tokens[i * 32:i * 32 + 32] for i in (0, 2, 5)])  # ⌊i · 8 / 3⌋
        some = self.json("evaluate", llama(), "--data", ids(), "--seqlen", 32, "--max-windows", 3)["quality"]
        same = self.json("evaluate", llama(), "--data", chosen, "--seqlen", 32)["quality"]
        self.assertEqual(some["mean_nll"], same["mean_nll"])

    @covers(COMPRESSING + " evaluate", "--convention")
    def test_convention(self):
        half, full = dict(self.judged("--eval-seqlen", 16, "--convention", "second-half")), dict(self.judged("--eval-seqlen", 16, "--convention", "all"))
        for command in half:
            with self.subTest(command):
                self.assertEqual(half[command]["quality"]["scored_tokens"], 16 * 7)  # llama.cpp: targets 9 to 15 of 0 to 15
                self.assertIn("second half scored", half[command]["quality"]["convention"])
                self.assertIn("all but the first token scored", full[command]["quality"]["convention"])
                self.assertNotEqual(half[command]["quality"]["perplexity"], full[command]["quality"]["perplexity"])
        # all = first half + second half: the first half are the windows cut after 9 tokens
        tokens = list(array.array("H", ids().read_bytes()))
        first = self.json("evaluate", llama(), "--data", write_npy(self.dir / "first.npy", [tokens[i:i + 9] for i in range(0, 256, 16)]))["quality"]
        quality, rest = full["evaluate"]["quality"], half["evaluate"]["quality"]
        self.assertAlmostEqual(quality["mean_nll"] * quality["scored_tokens"], rest["mean_nll"] * rest["scored_tokens"] + first["mean_nll"] * first["scored_tokens"], delta=1e-3)  # f32 sums in another order
        for command in ("quantize", "evaluate"):
            args = self.run_of("quantize", name="no") if command == "quantize" else ["evaluate", llama(), "--data", ids()]
            self.refused(2, ["--convention", "all or second-half", "'half'"], *args, "--convention", "half")
            self.refused(2, ["windows of 2 tokens", "at least 3", "second-half"], *args, "--convention", "second-half", "--eval-seqlen" if command == "quantize" else "--seqlen", 2)

    @covers(COMPRESSING + " evaluate", "--stride")
    def test_stride(self):
        for command, report in self.judged("--eval-seqlen", 16, "--stride", 6, "--max-windows", 0):
            with self.subTest(command):
                quality = report["quality"]
                self.assertEqual((quality["windows"], quality["scored_tokens"], quality["unused_tokens"]), (41, 255, 0))  # from 0, 6, … 240
                self.assertIn("windows of 16 tokens, 6 tokens apart", quality["convention"])
        tokens = list(array.array("H", ids().read_bytes()))
        apart = self.json("evaluate", llama(), "--data", ids(), "--seqlen", 16, "--stride", 1)["quality"]
        self.assertEqual(apart["windows"], 241)
        whole = self.json("evaluate", llama(), "--data", write_npy(self.dir / "whole.npy", [tokens[:17]]), "--seqlen", 16, "--stride", 1)["quality"]
        first = self.json("evaluate", llama(), "--data", write_npy(self.dir / "first.npy", [tokens[:16]]))["quality"]
        last = self.json("evaluate", llama(), "--data", write_npy(self.dir / "last.npy", [tokens[1:17]]))["quality"]
        before = self.json("evaluate", llama(), "--data", write_npy(self.dir / "before.npy", [tokens[1:16]]))["quality"]
        self.assertAlmostEqual(whole["mean_nll"] * 16, first["mean_nll"] * 15 + last["mean_nll"] * 15 - before["mean_nll"] * 14, delta=1e-3)  # f32
        self.refused(2, ["16 tokens 17 apart"], "evaluate", llama(), "--data", ids(), "--seqlen", 16, "--stride", 17)
        self.refused(2, ["stride", "second-half"], "evaluate", llama(), "--data", ids(), "--stride", 4, "--convention", "second-half")
        self.refused(2, ["--stride"], *self.run_of("quantize", None, "--stride", 0, name="no"))

    @covers(COMPRESSING + " evaluate", "--precision")
    def test_precision(self):
        exact, rounded = dict(self.judged("--precision", "f32")), dict(self.judged("--precision", "bf16"))
        for command in exact:
            with self.subTest(command):
                self.assertLess(exact[command]["oracle"]["max_logit_difference"], 1e-4)
                self.assertGreater(rounded[command]["oracle"]["max_logit_difference"], 1e-3)  # bf16 keeps 8 bits
                self.assertLess(rounded[command]["oracle"]["max_logit_difference"], 0.2 * rounded[command]["oracle"]["max_logit"])  # and no less
                self.assertAlmostEqual(exact[command]["quality"]["mean_nll"], rounded[command]["quality"]["mean_nll"], delta=0.05)
                self.assertNotEqual(exact[command]["quality"]["mean_nll"], rounded[command]["quality"]["mean_nll"])
        self.assertEqual(rounded["evaluate"]["precision"], "bf16")
        self.refused(2, ["--precision", "f32 or bf16", "'fp8'"], "evaluate", llama(), "--data", ids(), "--precision", "fp8")
        self.refused(2, ["--precision", "'fp8'"], *self.run_of("prune", None, "--precision", "fp8", name="no"))

    @covers(COMPRESSING + " evaluate", "--kv-cache-bits")
    def test_kv_cache_bits(self):
        exact, eight, four = dict(self.judged()), dict(self.judged("--kv-cache-bits", 8)), dict(self.judged("--kv-cache-bits", 4))
        for command in exact:
            with self.subTest(command):
                self.assertEqual([reports[command]["quality"]["kv_cache_bits"] for reports in (exact, eight, four)], [None, 8, 4])
                self.assertEqual(len({reports[command]["quality"]["mean_nll"] for reports in (exact, eight, four)}), 3)
                self.assertLess(abs(eight[command]["quality"]["mean_nll"] - exact[command]["quality"]["mean_nll"]), 5e-3)  # 255 steps a span; 1.3e-3 when written
                self.assertIsNone(exact[command]["oracle"]["rounding_difference"])
                self.assertGreater(four[command]["oracle"]["rounding_difference"], 0)
        for command in RUNS:  # the original keeps its cache in floats
            self.assertEqual(len({reports[command]["quality"]["reference_perplexity"] for reports in (exact, eight, four)}), 1)
        beside_itself = [self.json("evaluate", llama(), "--reference", llama(), "--data", ids(), "--kv-cache-bits", bits)["quality"]["kl_mean"] for bits in (8, 4)]
        self.assertLess(0, beside_itself[0])
        self.assertLess(beside_itself[0], beside_itself[1])
        self.refused(2, ["--kv-cache-bits", "8 or 4", "found 6"], "evaluate", llama(), "--data", ids(), "--kv-cache-bits", 6)
        self.refused(2, ["--kv-cache-bits", "found 16"], *self.run_of("quantize", None, "--kv-cache-bits", 16, name="no"))

    @covers(COMPRESSING + " evaluate", "--seed")
    def test_seed_changes_the_oracle_sample_only(self):
        for command in RUNS:
            with self.subTest(command):
                reports = []
                for seed in (0, 0, 1, 2, 3):
                    name = f"{command}-{len(reports)}"
                    reports.append(without_clocks(self.json(*self.run_of(command, None, "--seed", seed, name=name))))
                    self.assertEqual(reports[-1]["recipe"].pop("seed"), seed)
                self.assertEqual(reports[0], reports[1])
                samples = {json.dumps(report.pop("oracle")) for report in reports}
                self.assertGreater(len(samples), 1)
                for report in reports:
                    self.assertEqual(report, reports[0])
                self.assertEqual(len({self.weights(f"{command}-{i}") for i in range(5)}), 1)
        found = [self.json("evaluate", llama(), "--data", ids(), "--seed", seed) for seed in (0, 1, 2, 3)]
        self.assertGreater(len({json.dumps(result.pop("oracle")) for result in found}), 1)
        for result in found:
            result["models"][0].pop("oracle")
        self.assertEqual(found, found[:1] * 4)
        self.refused(2, ["--seed", "-1"], *self.run_of("quantize", None, "--seed", -1, name="no"))
        self.refused(2, ["--seed", "-1"], "evaluate", llama(), "--data", ids(), "--seed", -1)

    @covers(COMPRESSING, "--eval-data")
    @covers("evaluate", "--data")
    def test_data(self):
        tokens = list(array.array("H", ids().read_bytes()))
        forms = [ids(), write_ids(self.dir / "ids.u32", tokens, "I"), write_npy(self.dir / "one.npy", [tokens]), write_npy(self.dir / "rows.npy", [tokens[i:i + 64] for i in range(0, 256, 64)])]
        found = {}
        for form in forms:
            found.setdefault("evaluate", []).append(self.json("evaluate", llama(), "--data", form)["quality"])
            for command in RUNS:
                found.setdefault(command, []).append(self.json(*self.run_of(command, name=f"{command}-{form.name}", data=form))["quality"])
        for command, qualities in found.items():
            self.assertEqual([q.pop("data") for q in qualities], [str(f) for f in forms], command)
            self.assertEqual(qualities, qualities[:1] * 4, command)
            self.assertIsNone(qualities[0]["bits_per_byte"])  # nothing is known about the text of token ids

    @covers(COMPRESSING, "--eval-data")
    @covers("evaluate", "--data")
    def test_bundled_text_is_the_default(self):
        """On the real sample model, which has a tokenizer."""
        report = self.json("quantize", quill(), "-o", self.dir / "out", "--bits", 8, "--max-windows", 1, "--eval-seqlen", 64)
        self.assertEqual((report["quality"]["data"], report["quality"]["windows"]), ("bundled text", 1))
        self.assertGreater(report["quality"]["tokens"], 10000)
        self.assertTrue(0 < report["quality"]["bits_per_byte"] < 8)
        again = self.json("evaluate", self.dir / "out", "--reference", quill(), "--max-windows", 1, "--seqlen", 64)
        self.assertEqual(again["quality"], report["quality"])
        (self.dir / "some.txt").write_text("The history of the city is not the history of its walls; it is that of the people within them.")
        text = self.json("evaluate", self.dir / "out", "--data", self.dir / "some.txt")["quality"]
        self.assertEqual((text["data"], text["windows"]), (str(self.dir / "some.txt"), 1))
        self.assertAlmostEqual(text["bits_per_byte"], text["mean_nll"] * text["scored_tokens"] / math.log(2) / 94, delta=0.05 * text["bits_per_byte"])  # 94 bytes; those of the first token are not scored


    def test_a_sentencepiece_model_is_a_tokenizer(self):
        model, text = self.dir / "model", self.dir / "some.txt"
        shutil.copytree(llama(vocab_size=1024), model)
        shutil.copy(support.SOURCE / "tests/golden/tokenizer/sentencepiece-bpe/tokenizer.model", model)
        text.write_text("The history of the city is not the history of its walls; it is that of the people within them.")
        quality = self.json("evaluate", model, "--data", text)["quality"]
        self.assertEqual(quality["windows"], 1)
        self.assertGreater(quality["bits_per_byte"], 0)
        self.ok("quantize", model, "-o", self.dir / "out", "--bits", 8, "--eval-data", text)
        self.assertEqual((self.dir / "out/tokenizer.model").read_bytes(), (model / "tokenizer.model").read_bytes())
        (model / "tokenizer.model").write_bytes(b"\x0a\x05ab")
        self.refused(3, ["tokenizer.model", "byte 2", "ends too soon"], "evaluate", model, "--data", text)


class Evaluate(Compress):
    def test_figures_are_those_of_the_logits(self):
        """Perplexity, accuracy, KL divergence and agreement, computed here from the logits that llmc writes."""
        data = write_npy(self.dir / "ids.npy", [list(array.array("H", ids().read_bytes()))[:48]])
        tokens = array.array("H", ids().read_bytes())[:48]
        self.ok("quantize", llama(), "-o", self.dir / "out", "--bits", 3, "--granularity", "channel", "--eval-data", ids())
        result = self.json("evaluate", self.dir / "out", "--reference", llama(), "--data", data, "--logits", self.dir / "out.npy")["quality"]
        alone = self.json("evaluate", llama(), "--data", data, "--logits", self.dir / "ref.npy")["quality"]
        rows = []
        for file in ("out.npy", "ref.npy"):
            shape, values = read_npy(self.dir / file)
            self.assertEqual(shape, [48, 64])
            rows.append([values[i * 64:i * 64 + 64] for i in range(47)])
        log_p = [[[x - max(row) - math.log(sum(math.exp(y - max(row)) for y in row)) for x in row] for row in side] for side in rows]
        kl = sorted(sum(math.exp(p) * (p - q) for p, q in zip(ref, out)) for out, ref in zip(*log_p))
        best = [[max(range(64), key=row.__getitem__) for row in side] for side in rows]
        nll, reference_nll = (-sum(row[t] for row, t in zip(side, tokens[1:])) / 47 for side in log_p)
        close = lambda name, value: self.assertAlmostEqual(result[name], value, delta=2e-5 * max(1, abs(value)), msg=name)  # logits are f32
        close("mean_nll", nll)
        close("perplexity", math.exp(nll))
        close("reference_perplexity", math.exp(reference_nll))
        close("perplexity_increase", math.exp(nll - reference_nll) - 1)
        close("perplexity_delta", math.exp(nll) - math.exp(reference_nll))
        close("kl_mean", sum(kl) / 47)
        close("kl_median", kl[23])
        close("kl_max", kl[-1])
        close("kl_p99", kl[45] + 0.54 * (kl[46] - kl[45]))  # 0.99 · 46 = 45.54
        self.assertEqual(result["top1_accuracy"], sum(b == t for b, t in zip(best[0], tokens[1:])) / 47)
        self.assertEqual(result["reference_top1_accuracy"], sum(b == t for b, t in zip(best[1], tokens[1:])) / 47)
        self.assertEqual(result["top1_agreement"], sum(a == b for a, b in zip(*best)) / 47)
        self.assertLess(result["top1_agreement"], 1)
        self.assertEqual(alone["perplexity"], result["reference_perplexity"])
        self.assertIsNone(result["perplexity_delta_standard_error"])  # one window has no spread
        self.assertNotIn("kl_mean", alone)

    @covers("evaluate", "--reference")
    def test_reference(self):
        same = self.json("evaluate", llama(), "--reference", llama(), "--data", ids())
        self.assertEqual([same["quality"][n] for n in ("kl_mean", "kl_max", "top1_agreement", "perplexity_increase", "perplexity_delta", "perplexity_delta_standard_error")], [0, 0, 1, 0, 0, 0])
        self.assertEqual(same["reference"], str(llama()))
        told = self.ok("evaluate", llama(), "--reference", make_llama(self.dir / "other", seed=2), "--data", ids()).out
        self.assertIn("KL divergence", told)
        self.assertNotIn("KL divergence", self.ok("evaluate", llama(), "--data", ids()).out)
        self.refused(3, ["vocabulary of 64", "has 80"], "evaluate", llama(), "--reference", make_llama(self.dir / "wide", vocab_size=80), "--data", ids())
        self.refused(3, ["absent", "not a directory"], "evaluate", llama(), "--reference", self.dir / "absent", "--data", ids())

    def test_windows_that_every_model_takes(self):
        """The shortest context of all models and references counts."""
        short = make_llama(self.dir / "short", max_position_embeddings=32)
        expected = self.json("evaluate", short, "--data", ids())["quality"]
        self.assertIn("windows of 32 tokens", expected["convention"])
        for args in ([llama(), short], [short, llama()], [llama(), "--reference", short], [short, "--reference", llama()]):
            found = self.json("evaluate", *args, "--data", ids())
            self.assertEqual({(m["quality"]["convention"], m["quality"]["perplexity"]) for m in found["models"]}, {(expected["convention"], expected["perplexity"])})
            self.refused(2, ["windows of 33 tokens", f"{short}'s context is 32"], "evaluate", *args, "--data", ids(), "--seqlen", 33)
        self.assertEqual(self.json("evaluate", llama(), short, "--data", ids(), "--seqlen", 32)["quality"]["windows"], 8)

    def test_other_tokenizers_are_told(self):
        """Models of as many tokens, whose ids mean others."""
        copies = {}
        for name in ("same", "other"):
            copies[name] = self.dir / name
            shutil.copytree(quill(), copies[name])
        tokenizer = json.loads((quill() / "tokenizer.json").read_text())
        vocab = tokenizer["model"]["vocab"]
        a, b = (token for token in vocab if vocab[token] in (1000, 2000))
        vocab[a], vocab[b] = vocab[b], vocab[a]
        (copies["other"] / "tokenizer.json").write_text(json.dumps(tokenizer))
        flags = ["--max-windows", 1, "--seqlen", 16]
        self.assertNotIn("stand for other text", self.ok("evaluate", quill(), copies["same"], "--reference", quill(), *flags).err)
        for args in ([quill(), copies["other"]], [quill(), "--reference", copies["other"]]):
            told = self.ok("evaluate", *args, *flags).err
            self.assertIn(f"{copies['other']}: 2 of {len(vocab)} token ids stand for other text than in {quill()}, such as 1000: ", told)
        result = self.json("evaluate", quill(), copies["other"], "--reference", copies["same"], *flags)
        self.assertEqual([model["other_tokens"] for model in result["models"]], [None, {"compared": len(vocab), "different": 2}])
        self.assertEqual(result["models"][0]["comparisons"][0]["other_tokens"], {"compared": len(vocab), "different": 0})
        self.ok("convert", quill(), "-o", self.dir / "q.gguf", "--type", "F16", "--max-windows", 1)
        self.assertNotIn("stand for other text", self.ok("evaluate", self.dir / "q.gguf", "--reference", quill(), *flags).err)

    @covers("evaluate", "--logits")
    def test_logits_are_those_of_transformers(self):
        for name in ("llama-gqa-tied", "gpt2-untied"):
            self.ok("evaluate", tiny(name), "--data", tiny(name) / "input_ids.npy", "--logits", self.dir / f"{name}.npy")
            shape, values = read_npy(self.dir / f"{name}.npy")
            expected_shape, expected = read_npy(tiny(name) / "logits.npy")
            self.assertEqual(shape, expected_shape[1:])
            self.assertLess(max(abs(x - y) for x, y in zip(values, expected)), 1e-4)  # tests/golden/README.md
        self.refused(4, ["absent", "does not exist"], "evaluate", tiny(name), "--data", tiny(name) / "input_ids.npy", "--logits", self.dir / "absent" / "x.npy")

    @covers("evaluate export inspect", "--ignore-config-field")
    def test_unknown_config_field(self):
        config = llama_config(flux_capacitor=1.21)
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config)))
        for command in (["evaluate", model, "--data", ids()], ["export", model, "--dense", "-o", self.dir / "out"], ["inspect", model]):
            self.refused(3, ['"flux_capacitor"', "--ignore-config-field flux_capacitor"], *command)
            self.assertNotIn("ignore-config-field", self.ok(*command, "--ignore-config-field", "flux_capacitor").err)

    def test_ignored_config_fields_that_need_no_ignoring(self):
        for command in (["evaluate", llama(), "--data", ids()], ["inspect", llama()], ["generate", llama(), "--prompt-ids", "5"], ["export", llama(), "--dense", "-o", self.dir / "out", "--force"], self.run_of("quantize")):
            command = [*command, "--force"] if command[0] == "quantize" else command
            self.assertIn("--ignore-config-field flux_capacitor: " + str(llama() / "config.json") + " has no such field", self.ok(*command, "--ignore-config-field", "flux_capacitor").err)
            self.assertIn("--ignore-config-field rope_theta: is understood, and not ignored", self.ok(*command, "--ignore-config-field", "rope_theta").err)
        config = llama_config(flux_capacitor=1.21)
        odd = write_checkpoint(self.dir / "odd", config, random_tensors(llama_shapes(config)))
        self.assertNotIn("ignore-config-field", self.ok("evaluate", odd, llama(), "--data", ids(), "--ignore-config-field", "flux_capacitor").err)

    @covers("evaluate", "--json")
    def test_json_and_table(self):
        result = self.json("evaluate", llama(), "--data", ids())
        told = self.ok("evaluate", llama(), "--data", ids()).out
        for text in (f"{result['quality']['perplexity']:.4f}", f"{result['quality']['top1_accuracy']:.4f}", "windows of 64 tokens, no overlap", "252 tokens scored of 256"):
            self.assertIn(text, told)
        self.assertEqual((result["model"], result["reference"], result["precision"]), (str(llama()), None, "f32"))
        self.assertIn("1 token scored of 2,", self.ok("evaluate", llama(), "--data", write_ids(self.dir / "two.u16", [5, 9])).out)

    @covers("evaluate", "--threads")
    def test_same_figures_for_any_number_of_threads(self):
        found = [self.json("evaluate", llama(), "--reference", llama("BF16"), "--data", ids(), "--threads", threads) for threads in (1, 2, 7)]
        self.assertEqual(found, found[:1] * 3)
        self.assertGreater(found[0]["quality"]["kl_mean"], 0)


class Gates(Compress):
    # flag, a limit that passes whatever happens, one that never does for the runs below
    LIMITS = {"--max-ppl-increase": ("100000%", "0"), "--max-kl": ("1000", "0"), "--min-top1-agreement": ("0", "1"), "--max-size": ("1GB", "1kB"), "--min-ratio": ("0.1", "50")}

    @covers(COMPRESSING, *LIMITS)
    def test_each_gate_passes_and_fails(self):
        data = self.greedy_text()
        for command in RUNS:
            for flag, (loose, tight) in self.LIMITS.items():
                with self.subTest(command=command, flag=flag):
                    name = flag[2:].replace("-", "_")
                    report = self.json(*self.run_of(command, None, "--force", flag, loose, data=data))
                    gate, = report["gates"]
                    self.assertEqual((gate["name"], gate["passed"], report["passed"]), (name, True, True))
                    missed = self.ok(*self.run_of(command, None, "--force", flag, tight, "--json", data=data), code=1)
                    gate, = json.loads(missed.out)["gates"]
                    self.assertEqual((gate["name"], gate["passed"], json.loads(missed.out)["passed"]), (name, False, False))
                    self.assertEqual(gate["direction"], "at_most" if flag.startswith("--max") else "at_least")
                    word = "over" if flag.startswith("--max") else "under"
                    self.assertRegex(missed.err.splitlines()[-1], rf"^llmc: gate {name} missed: [\d.e+-]+ is {word} [\d.e+-]+$")
                    self.assertEqual(json.loads((self.dir / "out" / "report.json").read_text())["gates"], [gate])  # the artifact is there, with the verdict

    def greedy_text(self):
        """What the original itself would say: text on which every change of its weights costs perplexity."""
        tokens = [5, 40, 11]
        for _ in range(24):
            self.ok("evaluate", llama(), "--data", write_ids(self.dir / "greedy.u16", tokens), "--logits", self.dir / "greedy.npy", "-q")
            last = read_npy(self.dir / "greedy.npy")[1][-64:]
            tokens.append(max(range(64), key=last.__getitem__))
        return write_ids(self.dir / "greedy.u16", tokens)

    def test_all_gates_at_once(self):
        flags = [f for flag, (loose, _) in self.LIMITS.items() for f in (flag, loose)]
        report = self.json(*self.run_of("quantize", None, *flags))
        self.assertEqual([(g["name"], g["passed"]) for g in report["gates"]], [(f[2:].replace("-", "_"), True) for f in self.LIMITS])
        flags[flags.index("--max-kl") + 1] = "0"
        flags[flags.index("--min-ratio") + 1] = "50"
        missed = self.ok(*self.run_of("quantize", None, "--force", *flags), code=1)
        self.assertRegex(missed.err.splitlines()[-1], r"^llmc: gate max_kl missed: [\d.e-]+ is over 0; gate min_ratio missed: [\d.]+ is under 50$")
        self.assertEqual(missed.out.count("MISSED"), 2)
        self.assertEqual(missed.out.count("passed"), 3)

    @covers(COMPRESSING, "--max-size", "--min-ratio")
    def test_limits_are_exact_and_have_units(self):
        report = self.json(*self.run_of("quantize", None))
        size, ratio = report["artifact"]["bytes"], report["ratio"]
        for flag, value, code in (("--max-size", size, 0), ("--max-size", size - 1, 1), ("--max-size", f"{size / 1000}kB", 0), ("--max-size", f"{(size - 1) / 1024}KiB", 1), ("--max-size", "0.05MB", 0), ("--max-size", "0.01MiB", 1),
                                  ("--min-ratio", repr(ratio), 0), ("--min-ratio", repr(ratio + 1e-9), 1), ("--max-kl", repr(report["quality"]["kl_mean"]), 0), ("--min-top1-agreement", f"{100 * report['quality']['top1_agreement'] - 0.01}%", 0), ("--min-top1-agreement", "100%", 1)):
            with self.subTest(flag=flag, value=value):
                self.ok(*self.run_of("quantize", None, "--force", flag, value), code=code)

    def test_wrong_limits(self):
        for flag, value in (("--max-kl", "low"), ("--max-kl", "nan"), ("--max-kl", "inf"), ("--max-kl", "-1"), ("--max-kl", "1%"), ("--max-kl", ""), ("--max-kl", "0.1 0.2"), ("--max-ppl-increase", "1 %"), ("--max-ppl-increase", "one"), ("--max-ppl-increase", "nan"), ("--max-ppl-increase", ""), ("--min-top1-agreement", "-1%"), ("--min-top1-agreement", "1.0x"),
                            ("--max-size", "40 MB"), ("--max-size", "40Mb"), ("--max-size", "MB"), ("--max-size", "-1"), ("--max-size", "1e30GB"), ("--max-size", ""), ("--min-ratio", "3x"), ("--min-ratio", "nan"), ("--min-ratio", "")):
            with self.subTest(flag=flag, value=value):
                self.refused(2, [flag], *self.run_of("quantize", None, flag, value))
        self.assert_nothing_left(self.dir, "two.yaml")

    def test_nan_never_passes(self):
        """A model whose logits overflow has no quality: no gate on quality passes, whatever its limit."""
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        tensors["model.norm.weight"] = support.floats("F32", [32], [3e38] * 32)
        model = write_checkpoint(self.dir / "model", config, tensors)
        for flag, limit in (("--max-ppl-increase", "1e300"), ("--max-kl", "1e300"), ("--min-top1-agreement", "0")):
            with self.subTest(flag):
                missed = self.ok(*self.run_of("quantize", model, flag, limit, "--json", "--force", "--junit", self.dir / "junit.xml"), code=1)
                report = json.loads(missed.out)
                self.assertEqual([gate["name"] for gate in report["gates"]], [flag[2:].replace("-", "_"), "finite_perplexity"])
                self.assertEqual([(gate["value"], gate["passed"]) for gate in report["gates"]], [(None, False)] * 2)
                self.assertIsNone(report["quality"]["perplexity"])
                self.assertIn(f"gate {flag[2:].replace('-', '_')} missed: it has no value", missed.err.splitlines()[-1])
                self.assertEqual(len(ElementTree.parse(self.dir / "junit.xml").findall(".//failure")), 2)
        for gates in ([], ["--max-size", "1GB"]):  # nobody asked for quality, but a broken model is never fine
            missed = self.ok(*self.run_of("quantize", model, *gates, "--force"), code=1)
            self.assertIn("gate finite_perplexity missed", missed.err.splitlines()[-1])

    @covers(COMPRESSING, "--junit")
    def test_junit(self):
        for command in RUNS:
            with self.subTest(command):
                name = f"{command} <a> & \"b\" 'c'"
                self.ok(*self.run_of(command, None, "--max-kl", "0", "--max-size", "1GB", "--min-ratio", "50", "--junit", self.dir / "junit.xml", name=name), code=1)
                root = ElementTree.parse(self.dir / "junit.xml").getroot()
                suite = root.find("testsuite")
                self.assertEqual((suite.get("tests"), suite.get("failures")), ("3", "2"))
                self.assertIn(name, suite.get("name"))
                cases = {case.get("name"): case.find("failure") for case in suite.findall("testcase")}
                self.assertEqual({n: f is not None for n, f in cases.items()}, {"max_kl": True, "max_size": False, "min_ratio": True})
                self.assertIn("is over 0", cases["max_kl"].get("message"))
                self.assertIn("is under 50", cases["min_ratio"].get("message"))
                self.ok(*self.run_of(command, None, "--max-size", "1GB", "--junit", self.dir / "junit.xml", "--force", name=name))  # written over
                self.assertEqual(ElementTree.parse(self.dir / "junit.xml").getroot().find("testsuite").get("failures"), "0")
        for name in ("\udcff", "\x01"):  # no UTF-8, and what XML cannot hold
            self.json(*self.run_of("quantize", None, "--max-size", "1GB", "--junit", self.dir / "junit.xml", name=name))
            self.assertTrue(ElementTree.parse(self.dir / "junit.xml").getroot().find("testsuite").get("name").endswith("?" if name == "\x01" else "\ufffd"))
        self.refused(4, ["absent", "does not exist"], *self.run_of("quantize", None, "--junit", self.dir / "absent" / "junit.xml", name="late"))
        self.assertFalse((self.dir / "late").exists())


if __name__ == "__main__":
    support.main()
