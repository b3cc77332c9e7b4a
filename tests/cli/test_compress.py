"""llmc compress, and what quantize, prune and compress share: recipes, artifacts, threads, dry runs, --force."""

import hashlib
import json
import math
import os
import shutil

import support
from support import COMPRESSING, Case, covers, ids, llama, llama_config, llama_shapes, make_llama, random_tensors, read_safetensors, tiny, treatments, without_clocks, write_checkpoint
from test_quantize import LINEAR

TWO_STEPS = """\
# pruned weights keep their zeros when they are quantized
version: 1
steps:
  - pass: prune.magnitude
    sparsity: 0.5
    scope: row
  - pass: quantize.rtn
    scheme: W4A16-g16
"""

# One run of each of the commands that write an artifact.
RUNS = {"quantize": ["--bits", 4, "--group-size", 16], "prune": ["--sparsity", "0.5"], "compress": ["--recipe", "two.yaml"]}


class Compress(Case):
    def setUp(self):
        super().setUp()
        self.write("two.yaml", TWO_STEPS)

    def write(self, name, text):
        (self.dir / name).write_text(text)
        return self.dir / name

    def run_of(self, command, model=None, *flags, name="out", data=None):
        own = [self.dir / f if f == "two.yaml" else f for f in RUNS[command]]
        return [command, model or llama(), "-o", self.dir / name, "--eval-data", data or ids(), *own, *flags]

    def compress(self, recipe, *flags, model=None, name="out"):
        return self.json("compress", model or llama(), "-o", self.dir / name, "--recipe", self.write(name + ".yaml", recipe), "--eval-data", ids(), *flags)

    def weights(self, name="out"):
        return (self.dir / name / "model.safetensors").read_bytes()


class Recipes(Compress):
    @covers("compress", "--recipe", "--output")
    def test_prune_then_quantize(self):
        report = self.compress(TWO_STEPS)
        self.assertEqual([s["name"] for s in report["steps"]][1:3], ["prune.magnitude", "quantize.rtn"])
        self.assertEqual({t for n, t in treatments(report).items() if n in LINEAR}, {"50 % zeros per row + W4A16-g16-symmetric"})
        self.assertEqual({t["codec"] for t in report["tensors"] if t["name"] in LINEAR}, {"n-of-m+packed-codes"})
        self.assertGreaterEqual(report["sparsity"], 0.5)
        self.assertLess(report["sparsity"], 0.6)  # few of the larger half round to zero
        self.assertEqual(report["artifact"]["container"], "llmc-packed")

        quantized = self.json(*self.run_of("quantize", name="quantized"))
        size = [{t["name"]: t["bytes"] for t in r["tensors"]} for r in (report, quantized)]
        for name in LINEAR:
            self.assertLess(size[0][name], size[1][name], name)  # about 1 + 2 bits a weight instead of 4

        # exported: the zeros of a pruned model where it has them, on the grid of 4 bits elsewhere
        self.json(*self.run_of("prune", None, "--scope", "row", name="pruned"))
        for name in ("out", "pruned"):
            self.ok("export", self.dir / name, "--dense", "-o", self.dir / (name + "-dense"))
        both, pruned = (read_safetensors(self.dir / (name + "-dense"))[0] for name in ("out", "pruned"))
        for name in LINEAR:
            for x, y in zip(both[name].rows(), pruned[name].rows()):
                self.assertTrue(all(a == 0 for a, b in zip(x, y) if b == 0), name)
                self.assertLessEqual(max(len(set(x[i:i + 16])) for i in range(0, len(x), 16)), 16)
        again = self.json("evaluate", self.dir / "out", "--reference", llama(), "--data", ids())
        self.assertEqual(again["quality"], report["quality"])

    def test_two_steps_of_one_pass(self):
        report = self.compress("version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16, include: [mlp]}\n  - {pass: quantize.rtn, scheme: W4A16-g16, include: [self_attn]}\n")
        self.assertEqual({"mlp": {t for n, t in treatments(report).items() if "mlp" in n}, "attn": {t for n, t in treatments(report).items() if "self_attn" in n}}, {"mlp": {"W8A16-channel-symmetric"}, "attn": {"W4A16-g16-symmetric"}})
        self.assertEqual([s["details"]["tensors"] for s in report["steps"][1:3]], [6, 8])

    def test_quantize_then_prune_is_refused(self):
        recipe = self.write("r.yaml", "version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16}\n  - {pass: prune.magnitude, sparsity: 0.5}\n")
        self.refused(2, ["already quantized", "prune before quantizing", LINEAR[0]], "compress", llama(), "-o", self.dir / "out", "--recipe", recipe, "--eval-data", ids())
        recipe = self.write("r.yaml", "version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16}\n  - {pass: quantize.rtn, scheme: W4A16-g16}\n")
        self.refused(2, ["already quantized", LINEAR[-1]], "compress", llama(), "-o", self.dir / "out", "--recipe", recipe, "--eval-data", ids())
        self.assert_nothing_left(self.dir, "r.yaml", "two.yaml")

    def test_recipe_of_an_artifact_gives_the_same_bytes(self):
        extra = {"quantize": ["--scheme", "linear", "--observer", "percentile", "--percentile", "99.25", "--exclude", r"layers\.0\.", "--include", "proj", "--tensor-type", "down=W8A16-tensor", "--tensor-type", "'q_proj': \"#\"|k_proj=keep", "--token-embedding-type", "W8A16", "--seed", 5],
                 "prune": ["--scope", "global", "--include", "mlp", "--format", "hf"], "compress": []}
        for command in RUNS:
            with self.subTest(command):
                self.ok(*self.run_of(command, None, *extra[command], name=command))
                recipe = self.dir / command / "recipe.yaml"
                self.ok("compress", llama(), "-o", self.dir / (command + "-again"), "--recipe", recipe, "--eval-data", ids())
                for file in ("model.safetensors", "config.json", "recipe.yaml"):
                    self.assertEqual((self.dir / command / file).read_bytes(), (self.dir / (command + "-again") / file).read_bytes(), file)
                reports = [json.loads((self.dir / name / "report.json").read_text()) for name in (command, command + "-again")]
                self.assertEqual(*map(without_clocks, reports))
                self.assertEqual(json.loads((self.dir / command / "llmc.json").read_text())["recipe"], reports[0]["recipe"])

    def test_json_recipe_is_yaml_too(self):
        self.compress(json.dumps({"version": 1, "steps": [{"pass": "prune.magnitude", "sparsity": 0.5, "scope": "row"}, {"pass": "quantize.rtn", "scheme": "W4A16-g16"}]}), name="json")
        self.compress(TWO_STEPS, name="yaml")
        self.assertEqual(self.weights("json"), self.weights("yaml"))

    @covers("compress", "--seed", "--format")
    def test_flags_win_over_the_recipe(self):
        recipe = "version: 1\nseed: 3\nformat: packed\nsteps: [{pass: quantize.rtn, scheme: W8A16}]\n"
        report = self.compress(recipe, name="recipe")
        self.assertEqual((report["recipe"]["seed"], report["recipe"]["format"], report["artifact"]["container"]), (3, "packed", "llmc-packed"))
        report = self.compress(recipe, "--seed", 4, "--format", "hf", name="flags")
        self.assertEqual((report["recipe"]["seed"], report["recipe"]["format"], report["artifact"]["container"]), (4, "hf", "compressed-tensors"))
        self.assertIn('seed: 4', (self.dir / "flags" / "recipe.yaml").read_text())
        self.assertEqual(self.compress(recipe, "--format", "auto", name="auto")["artifact"]["container"], "compressed-tensors")

    def test_wrong_recipes(self):
        step = "steps:\n  - {pass: quantize.rtn, scheme: W8A16}\n"
        for text, code, words in (("version: 1\n", 3, ["steps", "at least one"]), ("version: 1\nsteps: []\n", 3, ["steps", "at least one"]), (step, 3, ["version", "missing"]), ("version: 2\n" + step, 3, ["version", "expected 1", "found 2"]),
                                  ("version: '1'\n" + step, 3, ["version", "integer"]), ("version: 1\nfromat: hf\n" + step, 3, ['"fromat"', 'did you mean "format"']), ("version: 1\nseed: -1\n" + step, 3, ["seed", "-1"]),
                                  ("version: 1\nformat: onnx\n" + step, 2, ["onnx", "auto, hf, packed or gguf"]), ("version: 1\nformat: hf\ngguf: {type: F16}\n" + step, 3, ["gguf makes no sense with format hf"]), ("version: 1\nformat: gguf\ngguf: {type: Q8_0, leave_output_tensor: true, output_tensor_type: Q4_0}\n", 2, ["say different things"]), ("version: 1\nformat: gguf\ngguf: {tpye: F16}\n", 3, ['"tpye"', 'did you mean "type"']), ("version: 1\nformat: gguf\ngguf: {type: Q9_K}\n", 2, ["Q9_K"]), ("version: 1\nversion: 1\n" + step, 3, ['"version"', "twice"]),
                                  ("version: 1\nsteps:\n  - {pass: quantise.rtn, scheme: W8A16}\n", 3, ["step 1", '"quantise.rtn"', 'did you mean "quantize.rtn"']), ("version: 1\nsteps:\n  - {scheme: W8A16}\n", 3, ["step 1", "pass", "missing"]),
                                  ("version: 1\nsteps:\n  - {pass: quantize.rtn}\n", 3, ["scheme", "missing"]), ("version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16, obsever: mse}\n", 3, ["step 1", '"obsever"', 'did you mean "observer"']),
                                  ("version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: a lot}\n", 3, ["sparsity", "a number", "a lot"]), ("version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: .nan}\n", 3, ["sparsity", "nan"]), ("version: 1\nsteps:\n  - {pass: prune.magnitude, sparsity: 1.5}\n", 2, ["sparsity", "found 1.5"]),
                                  ("version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16, include: mlp}\n", 3, ["include", "a list of strings"]), ("version: [1\n", 3, ["not valid YAML"]), ("", 3, ["object"]), ("- 1\n", 3, ["object"]),
                                  ("version: 1\nsteps: " + "[" * 200 + "]" * 200, 3, ["levels"])):
            with self.subTest(text=text[:80]):
                self.refused(code, words, "compress", llama(), "-o", self.dir / "out", "--recipe", self.write("r.yaml", text), "--eval-data", ids())
        self.refused(3, ["absent.yaml", "No such file"], "compress", llama(), "-o", self.dir / "out", "--recipe", self.dir / "absent.yaml", "--eval-data", ids())
        self.assertFalse((self.dir / "out").exists())


class Artifacts(Compress):
    @covers(COMPRESSING, "--threads")
    def test_same_bytes_for_any_number_of_threads(self):
        for command in RUNS:
            for flags in ([], ["--format", "packed"]):
                with self.subTest(command=command, flags=flags):
                    found = []
                    for threads in (1, 2, 7):
                        name = f"{command}-{len(flags)}-{threads}"
                        report = self.json(*self.run_of(command, None, *flags, "--threads", threads, name=name))
                        files = {file: (self.dir / name / file).read_bytes() for file in sorted(os.listdir(self.dir / name)) if file != "report.json"}
                        found.append((files, without_clocks(report)))
                    self.assertEqual(found[0], found[1])
                    self.assertEqual(found[0], found[2])
        self.refused(2, ["--threads", "2000"], *self.run_of("prune", None, "--threads", 2000, name="no"))

    def test_provenance_and_carried_files(self):
        model = make_llama(self.dir / "model")
        for file in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"):
            (model / file).write_text(f"{{}} {file}")
        (model / "training_args.bin").write_text("not part of the model")
        for command in RUNS:
            with self.subTest(command):
                self.ok(*self.run_of(command, model, "--seed", 11, name=command))
                out = self.dir / command
                self.assertEqual(sorted(os.listdir(out)), sorted(["model.safetensors", "config.json", "llmc.json", "recipe.yaml", "report.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"]))
                for file in ("tokenizer_config.json", "LICENSE"):
                    self.assertEqual((out / file).read_bytes(), (model / file).read_bytes())
                made = json.loads((out / "llmc.json").read_text())
                self.assertEqual((made["command"], made["recipe"]["seed"], made["llmc_version"]), (command, 11, self.ok("--version").out.split()[1]))
                self.assertEqual(made["source_sha256"], {file: hashlib.sha256((model / file).read_bytes()).hexdigest() for file in ("config.json", "model.safetensors")})

    def test_config_is_carried_with_the_description_added(self):
        self.ok(*self.run_of("quantize"))
        config = json.loads((self.dir / "out" / "config.json").read_text())
        self.assertEqual(config.pop("quantization_config")["quant_method"], "compressed-tensors")
        self.assertEqual(config, json.loads((llama() / "config.json").read_text()))

    @covers(COMPRESSING, "--json")
    def test_json_is_the_report_and_has_the_names_scripts_use(self):
        for command in RUNS:
            with self.subTest(command):
                told = self.ok(*self.run_of(command, None, "--json", "--max-kl", 1000, name=command))
                report = json.loads(told.out)
                self.assertEqual(json.loads((self.dir / command / "report.json").read_text()), report)
                self.assertEqual(report["source"]["bytes"], (llama() / "model.safetensors").stat().st_size)
                self.assertEqual(report["artifact"]["bytes"], (self.dir / command / "model.safetensors").stat().st_size)
                self.assertEqual(report["ratio"], report["source"]["bytes"] / report["artifact"]["bytes"])
                weights = sum(support.count(t.shape) for t in read_safetensors(llama())[0].values())
                self.assertEqual(report["bits_per_weight"], 8 * report["artifact"]["bytes"] / weights)
                for name in ("perplexity", "reference_perplexity", "kl_mean", "top1_agreement"):
                    self.assertGreater(report["quality"][name], 0)
                self.assertLessEqual(report["quality"]["top1_agreement"], 1)
                self.assertEqual(report["gates"], [{"name": "max_kl", "direction": "at_most", "limit": 1000, "value": report["quality"]["kl_mean"], "passed": True}])
                self.assertEqual(sum(row["bytes"] for row in report["sizes"]), sum(t["bytes"] for t in report["tensors"]))
                self.assertEqual(report["source"]["path"], str(llama()))
                self.assertEqual(report["artifact"]["path"], str(self.dir / command))

    def test_table_says_what_the_report_says(self):
        told = self.ok(*self.run_of("quantize", None, "--max-kl", 1000)).out
        report = json.loads((self.dir / "out" / "report.json").read_text())
        for text in (f"{report['ratio']:.2f} times smaller", f"{report['bits_per_weight']:.3f} bits per weight", f"{report['quality']['perplexity']:.4f}", f"{report['quality']['reference_perplexity']:.4f}", f"{report['quality']['kl_mean']:.6f}", f"{report['quality']['top1_agreement']:.4f}",
                     "compressed-tensors", "max_kl", "passed", "token_embedding", "fast pass against the oracle", "±"):
            self.assertIn(text, told)

    def test_tensor_errors_are_those_of_the_artifact(self):
        report = self.json(*self.run_of("quantize"))
        self.ok("export", self.dir / "out", "--dense", "-o", self.dir / "dense")
        before, after = read_safetensors(llama())[0], read_safetensors(self.dir / "dense")[0]
        for tensor in report["tensors"]:
            pairs = list(zip(before[tensor["name"]].values(), after[tensor["name"]].values()))
            self.assertEqual(tensor["max_error"], max(abs(x - y) for x, y in pairs))
            noise = sum((x - y) ** 2 for x, y in pairs)
            if noise == 0:
                self.assertIsNone(tensor["sqnr_db"])  # nothing changed: infinite
                self.assertEqual(tensor["treatment"], "kept")
            else:
                self.assertAlmostEqual(tensor["sqnr_db"], 10 * math.log10(sum(x * x for x, _ in pairs) / noise), places=6)
            self.assertEqual(tensor["sparsity"], sum(y == 0 for _, y in pairs) / len(pairs))


class DryRuns(Compress):
    @covers(COMPRESSING, "--dry-run")
    def test_plan_and_nothing_else(self):
        for command in RUNS:
            with self.subTest(command):
                told = self.ok(*self.run_of(command, None, "--dry-run"))
                for name in read_safetensors(llama())[0]:
                    self.assertIn(name, told.out)
                plan = self.json(*self.run_of(command, None, "--dry-run"))
                self.assert_nothing_left(self.dir, "two.yaml")
                report = self.json(*self.run_of(command, name=command))
                self.assertEqual({t["name"]: t["treatment"] for t in plan["tensors"]}, treatments(report))
                self.assertEqual(plan["source"]["bytes"], report["source"]["bytes"])
                stored = sum(t["bytes"] for t in report["tensors"])
                self.assertLess(abs(plan["estimated_bytes"] - stored) / stored, 0.2, command)  # 16 bytes of shape a tensor, and masks, are not in the estimate
                shutil.rmtree(self.dir / command)

    def test_plan_refuses_what_the_run_would_refuse(self):
        self.refused(2, ["rows of 32", "group size 128"], "quantize", llama(), "-o", self.dir / "out", "--bits", 4, "--eval-data", ids(), "--dry-run")
        self.refused(2, ["matches none"], *self.run_of("prune", None, "--include", "nothing", "--dry-run"))
        self.refused(3, ["absent"], "quantize", self.dir / "absent", "-o", self.dir / "out", "--bits", 8, "--dry-run")

    def test_plan_leaves_an_earlier_artifact_alone(self):
        self.ok(*self.run_of("quantize"))
        before = {f: (self.dir / "out" / f).read_bytes() for f in os.listdir(self.dir / "out")}
        self.ok(*self.run_of("quantize", None, "--dry-run", "--force"))
        self.assertEqual(before, {f: (self.dir / "out" / f).read_bytes() for f in os.listdir(self.dir / "out")})


class Force(Compress):
    @covers(COMPRESSING, "--force")
    def test_only_artifacts_and_empty_folders_are_replaced(self):
        for command in RUNS:
            with self.subTest(command):
                name = command
                self.ok(*self.run_of(command, name=name))
                (self.dir / name / "llmc.json").write_text("{}")  # to see that it is replaced
                self.refused(4, ["already exists", "--force"], *self.run_of(command, name=name))
                self.assertEqual((self.dir / name / "llmc.json").read_text(), "{}")
                self.ok(*self.run_of(command, None, "--force", name=name))
                self.assertNotEqual((self.dir / name / "llmc.json").read_text(), "{}")

                empty = self.dir / f"{name}-empty"
                empty.mkdir()
                self.refused(4, ["already exists"], *self.run_of(command, name=empty.name))
                self.ok(*self.run_of(command, None, "--force", name=empty.name))
                self.assertTrue((empty / "report.json").exists())

                other = self.dir / f"{name}-other"
                other.mkdir()
                (other / "thesis.txt").write_text("the only copy")
                self.refused(4, ["--force replaces only an earlier llmc artifact", other], *self.run_of(command, None, "--force", name=other.name))
                self.assertEqual(os.listdir(other), ["thesis.txt"])
                self.assertEqual((other / "thesis.txt").read_text(), "the only copy")

                file = self.dir / f"{name}-file"
                file.write_text("a file")
                self.refused(4, ["--force replaces only"], *self.run_of(command, None, "--force", name=file.name))
                self.assertEqual(file.read_text(), "a file")
        self.assertEqual([n for n in os.listdir(self.dir) if n.startswith(".")], [])

    def test_force_without_an_earlier_output(self):
        self.ok(*self.run_of("quantize", None, "--force"))
        self.assertTrue((self.dir / "out" / "model.safetensors").exists())

    def test_a_link_is_not_followed(self):
        """A link at the target's place is neither replaced nor written through."""
        (self.dir / "real").mkdir()
        (self.dir / "out").symlink_to(self.dir / "real")
        self.refused(4, ["already exists"], *self.run_of("quantize"))
        self.assertEqual(os.listdir(self.dir / "real"), [])
        (self.dir / "loose").symlink_to(self.dir / "absent")
        self.refused(4, ["already exists"], *self.run_of("quantize", name="loose"))

    def test_a_trailing_slash_and_a_relative_path(self):
        self.ok("quantize", llama(), "-o", "out/", "--bits", 8, "--eval-data", ids(), cwd=self.dir)
        self.ok("prune", llama(), "-o", "./sub/../out2", "--sparsity", "0.5", "--eval-data", ids(), cwd=self.make("sub"))
        self.assertTrue((self.dir / "out" / "report.json").exists())
        self.assertTrue((self.dir / "out2" / "report.json").exists())

    def make(self, name):
        (self.dir / name).mkdir()
        return self.dir


class Config(Compress):
    @covers(COMPRESSING, "--ignore-config-field")
    def test_unknown_field_is_refused_by_name_until_it_is_waived(self):
        config = llama_config(flux_capacitor=1.21, warp=[9])
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config)))
        for command in RUNS:
            with self.subTest(command):
                self.refused(3, ["config.json", '"flux_capacitor"', "1.21", "--ignore-config-field flux_capacitor", '"warp"'], *self.run_of(command, model, name=command))
                refusal = self.refused(3, ['"warp"'], *self.run_of(command, model, "--ignore-config-field", "flux_capacitor", name=command))
                self.assertNotIn('"flux_capacitor"', refusal.err)
                self.ok(*self.run_of(command, model, "--ignore-config-field", "flux_capacitor", "--ignore-config-field", "warp", name=command))
                self.assertEqual(json.loads((self.dir / command / "config.json").read_text())["flux_capacitor"], 1.21)
        self.ok(*self.run_of("quantize", None, name="plain"))
        self.ok("quantize", model, "-o", self.dir / "same", "--eval-data", ids(), "--bits", 4, "--group-size", 16, "--ignore-config-field", "flux_capacitor", "--ignore-config-field", "warp")
        self.assertEqual(self.weights("plain"), self.weights("same"))

    def test_every_golden_model_compresses(self):
        for name in ("llama-gqa-tied", "llama-mha-untied", "llama-headdim", "llama-bias", "llama-toplevel-theta", "llama-bf16", "llama-f16", "llama-sharded", "gpt2-tied", "gpt2-untied", "gpt2-noprefix", "qwen2-untied", "qwen2-tied", "mistral-window", "mistral-whole", "qwen3-untied", "qwen3-tied", "phi3-whole", "phi3-part", "stablelm", "stablelm-bias", "stablelm-head-norms", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "gpt-neox-sequential", "opt", "opt-350m", "opt-narrow", "bloom", "stablelm-parallel", "falcon", "falcon-groups", "falcon-refined", "falcon-heads", "falcon-one-norm", "phi3-longrope", "llama-rope-yarn"):
            with self.subTest(name):
                report = self.json("compress", tiny(name), "-o", self.dir / name, "--recipe", self.write("r.yaml", TWO_STEPS.replace("W4A16-g16", "W6A16-g8")), "--eval-data", tiny(name) / "input_ids.npy")
                self.assertGreater(report["ratio"], 1)
                self.assertGreaterEqual(report["sparsity"], 0.5)
                self.assertLess(report["oracle"]["max_logit_difference"], 1e-4)
                again = self.json("evaluate", self.dir / name, "--data", tiny(name) / "input_ids.npy")
                self.assertEqual(again["quality"]["perplexity"], report["quality"]["perplexity"])


if __name__ == "__main__":
    support.main()
