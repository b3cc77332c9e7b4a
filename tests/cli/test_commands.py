"""llmc export, inspect, list and completions; help, version, misspelled words; what goes to stdout and what to stderr."""

import json
import os
import pty
import re
import shutil
import subprocess
from statistics import fmean, pstdev

import support
from support import EVERY, Case, covers, dequantize, floats, ids, llama, llama_config, llama_shapes, make_llama, quill, random_tensors, read_codes, read_safetensors, run, tiny, write_checkpoint
from test_compress import RUNS, Compress
from test_quantize import LINEAR


class Export(Compress):
    @covers("export", "--dense", "--output")
    def test_quantized_weights_are_the_values_of_their_codes(self):
        for bits, mapping, granularity in ((2, "linear", "group"), (3, "linear", "tensor"), (5, "symmetric", "channel"), (7, "linear", "channel"), (8, "linear", "group"), (8, "symmetric", "tensor")):
            with self.subTest(bits=bits, mapping=mapping, granularity=granularity):
                name = f"{bits}-{mapping}-{granularity}"
                flags = ["--group-size", 16] if granularity == "group" else []
                for format in ("hf", "packed"):
                    self.ok("quantize", llama("BF16"), "-o", self.dir / (name + format), "--bits", bits, "--scheme", mapping, "--granularity", granularity, *flags, "--format", format, "--eval-data", ids())
                    self.ok("export", self.dir / (name + format), "--dense", "-o", self.dir / (name + format + "-dense"))
                dense = read_safetensors(self.dir / (name + "hf-dense"))[0]
                self.assertEqual(dense, read_safetensors(self.dir / (name + "packed-dense"))[0])  # both containers say the same
                source, stored = read_safetensors(llama("BF16"))[0], read_safetensors(self.dir / (name + "hf"))[0]
                said = json.loads((self.dir / (name + "hf") / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]["weights"]
                for tensor in source:
                    if tensor in LINEAR:
                        self.assertEqual(dense[tensor].dtype, "F32")  # the products fit no 16-bit type
                        self.assertEqual([list(row) for row in dense[tensor].rows()], dequantize(read_codes(stored, tensor.removesuffix(".weight"), said)), tensor)
                    else:
                        self.assertEqual(dense[tensor], source[tensor])
                config = json.loads((self.dir / (name + "hf-dense") / "config.json").read_text())
                self.assertNotIn("quantization_config", config)
                self.assertEqual(config["dtype"], "float32")

    @covers("export", "--dense")
    def test_the_export_is_as_good_as_the_artifact(self):
        for command in RUNS:
            for model, data in ((llama(), ids()), (tiny("gpt2-tied"), tiny("gpt2-tied") / "input_ids.npy")):
                with self.subTest(command=command, model=model.name):
                    name = f"{command}-{model.name}"
                    report = self.json(*self.run_of(command, model, name=name, data=data))
                    self.ok("export", self.dir / name, "--dense", "-o", self.dir / (name + "-dense"))
                    dense, artifact = (self.json("evaluate", self.dir / n, "--reference", model, "--data", data)["quality"] for n in (name + "-dense", name))
                    self.assertEqual(dense, artifact)
                    self.assertEqual(artifact, report["quality"])

    def test_a_dense_checkpoint_is_copied(self):
        for model in (tiny("llama-sharded"), tiny("llama-f16"), tiny("gpt2-noprefix")):
            with self.subTest(model.name):
                self.ok("export", model, "--dense", "-o", self.dir / model.name)
                source = {}
                for file in model.glob("*.safetensors"):
                    source.update(read_safetensors(file)[0])
                buffers = {n for n in source if re.search(r"\.attn\.(masked_)?bias$", n)}
                self.assertEqual(read_safetensors(self.dir / model.name)[0], {n: t for n, t in source.items() if n not in buffers})
                self.assertEqual(json.loads((self.dir / model.name / "config.json").read_text()), json.loads((model / "config.json").read_text()))

    @covers("export", "--json")
    def test_what_it_says(self):
        report = self.json(*self.run_of("prune"))
        said = self.json("export", self.dir / "out", "--dense", "-o", self.dir / "dense")
        self.assertEqual(said, {"source": {"path": str(self.dir / "out"), "bytes": report["artifact"]["bytes"]}, "artifact": {"path": str(self.dir / "dense"), "bytes": (self.dir / "dense" / "model.safetensors").stat().st_size}})
        told = self.ok("export", self.dir / "out", "--dense", "-o", self.dir / "again").out
        self.assertEqual(told.count("\n"), 1)
        self.assertIn(str(self.dir / "again"), told)
        self.refused(2, ["--dense", "required"], "export", self.dir / "out", "-o", self.dir / "no")
        self.refused(2, ["--output", "required"], "export", self.dir / "out", "--dense")

    def test_flags_of_bundles_make_no_sense_with_dense(self):
        for flags in (["--student", llama()], ["--data", ids()], ["--data-field", "text"], ["--seqlen", 8], ["--nsamples", 2], ["--seed", 1], ["--top-k", 2], ["--temperature", 2]):
            self.refused(2, [flags[0], "--dense"], "export", llama(), "--dense", "-o", self.dir / "dense", *flags)
        self.assert_nothing_left(self.dir, "two.yaml")

    @covers("export", "--dtype")
    def test_types_in_small_letters(self):
        self.ok("export", llama(), "--dense", "-o", self.dir / "dense", "--dtype", "bf16")
        self.assertEqual({t.dtype for t in read_safetensors(self.dir / "dense")[0].values()}, {"BF16"})
        self.ok("convert", llama(), "-o", self.dir / "a.gguf", "--type", "bf16", "--eval-data", ids())
        self.ok("quantize", quill(), "-o", self.dir / "b.gguf", "--type", "q8_0", "--max-windows", 1)

    @covers("export", "--threads")
    def test_same_bytes_for_any_number_of_threads(self):
        self.ok(*self.run_of("compress"))
        for threads in (1, 2, 7):
            self.ok("export", self.dir / "out", "--dense", "-o", self.dir / f"dense-{threads}", "--threads", threads)
        self.assertEqual(len({(self.dir / f"dense-{threads}" / "model.safetensors").read_bytes() for threads in (1, 2, 7)}), 1)

    @covers("export", "--force")
    def test_force(self):
        self.ok(*self.run_of("prune"))
        self.ok("export", self.dir / "out", "--dense", "-o", self.dir / "dense")
        self.refused(4, ["already exists", "--force"], "export", self.dir / "out", "--dense", "-o", self.dir / "dense")
        (self.dir / "dense" / "model.safetensors").write_bytes(b"")
        self.ok("export", self.dir / "out", "--dense", "-o", self.dir / "dense", "--force")
        self.assertGreater((self.dir / "dense" / "model.safetensors").stat().st_size, 1000)
        before = (self.dir / "out" / "model.safetensors").read_bytes()
        self.refused(2, ["the model's own directory"], "export", self.dir / "out", "--dense", "-o", self.dir / "out", "--force")
        self.assertEqual((self.dir / "out" / "model.safetensors").read_bytes(), before)
        foreign = make_llama(self.dir / "foreign")
        self.refused(4, ["--force replaces only an earlier llmc artifact"], "export", self.dir / "out", "--dense", "-o", foreign, "--force")
        self.assertEqual((foreign / "model.safetensors").read_bytes(), (llama() / "model.safetensors").read_bytes())


class Inspect(Compress):
    @covers("inspect", "--json")
    def test_checkpoint(self):
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        spiky = list(tensors["model.layers.0.mlp.up_proj.weight"].values())
        spiky[7], spiky[8:40], spiky[100] = 90.5, [0.0] * 32, -80.25
        tensors["model.layers.0.mlp.up_proj.weight"] = floats("F32", [48, 32], spiky)
        model = write_checkpoint(self.dir / "model", config, tensors)
        said = self.json("inspect", model)
        self.assertEqual((said["architecture"], said["container"]), ("llama", "dense"))
        self.assertEqual(said["bytes"], (model / "model.safetensors").stat().st_size)
        self.assertEqual(said["parameters"], sum(support.count(t.shape) for t in tensors.values()))
        self.assertEqual(said["bits_per_weight"], 8 * said["bytes"] / said["parameters"])
        self.assertEqual(said["config"], {"vocabulary": 64, "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48, "context": 64, "norm": "rms", "norm_epsilon": 1e-5, "positions": "rope", "rope_theta": 10000, "feed_forward": "gated", "activation": "silu", "tied_head": True})
        self.assertEqual({t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in said["tensors"]}, {n: (t.dtype, t.shape, len(t.raw)) for n, t in tensors.items()})
        for row in said["tensors"]:
            values = tensors[row["name"]].values()
            self.assertEqual((row["min"], row["max"], row["encoding"]), (min(values), max(values), "dense"))
            self.assertAlmostEqual(row["rms"], (sum(x * x for x in values) / len(values)) ** 0.5, places=9)
            self.assertEqual(row["zeros"], list(values).count(0) / len(values))
            mean, deviation = fmean(values), pstdev(values)
            self.assertEqual(row["outliers"], sum(abs(x - mean) > 6 * deviation for x in values) / len(values))
        self.assertEqual(next(t["outliers"] for t in said["tensors"] if "0.mlp.up" in t["name"]), 2 / 1536)
        told = self.ok("inspect", model).out
        for text in ("llama (dense)", f"{said['parameters']} parameters", "4 heads of 8 (2 key/value)", "90.5", "-80.25", "tied head", "vocabulary 64", "context 64"):
            self.assertIn(text, told)
        for name in tensors:
            self.assertIn(name, told)

    def test_artifacts(self):
        for command, container, encoding in (("quantize", "compressed-tensors", "pack-quantized W4A16-g16-symmetric"), ("prune", "llmc-packed", "bitmask"), ("compress", "llmc-packed", "n-of-m+packed-codes W4A16-g16-symmetric")):
            with self.subTest(command):
                report = self.json(*self.run_of(command, llama("BF16"), name=command))
                said = self.json("inspect", self.dir / command)
                self.assertEqual((said["container"], said["bytes"], said["parameters"]), (container, report["artifact"]["bytes"], report["parameters"]))
                for row, tensor in zip(said["tensors"], report["tensors"], strict=True):
                    self.assertEqual((row["name"], row["shape"], row["dtype"], row["bytes"], row["zeros"]), (tensor["name"], tensor["shape"], "BF16", tensor["bytes"], tensor["sparsity"]))
                    self.assertEqual(row["encoding"], encoding if row["name"] in LINEAR else "dense")
                self.assertIn(encoding, self.ok("inspect", self.dir / command).out)

    def test_other_architectures(self):
        said = self.json("inspect", tiny("gpt2-untied"))
        self.assertEqual((said["architecture"], said["config"]["positions"], said["config"]["rope_theta"], said["config"]["ffn"], said["config"]["activation"], said["config"]["norm_epsilon"], said["config"]["tied_head"]), ("gpt2", "learned", None, 104, "gelu", 1e-3, False))
        said = self.json("inspect", tiny("llama-toplevel-theta"))
        self.assertEqual((said["config"]["rope_theta"], said["config"]["layers"]), (5000, 3))

    @covers("inspect", "--threads")
    def test_same_for_any_number_of_threads(self):
        self.assertEqual(len({self.ok("inspect", llama(), "--threads", threads).out for threads in (1, 2, 7)}), 1)


class List(Case):
    @covers("list", "--json", "--threads")
    def test_sections(self):
        said = self.json("list", "--threads", 1)
        self.assertEqual({section: [row["name"] for row in rows] for section, rows in said.items()},
                         {"architectures": ["llama", "gpt2", "qwen2", "mistral", "qwen3", "phi3", "stablelm", "olmo2", "gemma", "gemma2", "gemma3_text", "gpt_neox", "opt", "bloom", "falcon", "mixtral", "qwen2_moe", "qwen3_moe"], "schemes": [f"W{b}A16" for b in range(2, 9)] + ["FP8A16", "FP8A8", "FP8_E5M2A16", "MXFP8A16", "MXFP4A16", "NVFP4A16", "NF4", "codebook2 … codebook256"], "passes": ["distill", "heal", "prune.fisher", "prune.magnitude", "prune.sparsegpt", "prune.structured", "prune.wanda", "quantize.awq", "quantize.gguf", "quantize.gptq", "quantize.learned", "quantize.rtn", "student", "transform.rotate"], "formats": ["dense", "compressed-tensors", "llmc-packed", "gguf"],
                          "mixes": ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"],
                          "codecs": ["dense", "bitmask", "packed-int", "bitmask+packed-int", "packed-int+outliers", "bitmask+packed-int+outliers", "gaps", "coo", "csr", "n-of-m", "blocks", *(f"{way}+packed-codes" for way in ("bitmask", "gaps", "coo", "csr", "n-of-m", "blocks")), "int-quantized", "pack-quantized", "float-quantized", "mxfp8-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized"]})
        told = self.ok("list").out
        for rows in said.values():
            for row in rows:
                self.assertIn(row["name"], told)
                self.assertIn(row["summary"], told)


class Completions(Case):
    @covers("completions", "--json", "--threads")
    def test_scripts_hold_every_flag(self):
        for shell in ("bash", "zsh", "fish"):
            script = self.ok("completions", shell).out
            self.assertEqual(self.json("completions", shell, "--threads", 1), {"shell": shell, "script": script})
            for command in EVERY.split():
                line = "\n".join(l for l in script.splitlines() if re.search(rf"(^    {command}\)|^  {command}\)|seen_subcommand_from {command}')", l))
                for flag in long_flags(command):
                    self.assertRegex(line, rf"-l {flag[2:]}(\n|$)" if shell == "fish" else rf"{flag}[ \";|]", f"{shell} {command}")
            if shutil.which(shell):
                (self.dir / shell).write_text(script)
                self.assertEqual(subprocess.run([shell, "-n", self.dir / shell], capture_output=True).stderr, b"")
        self.refused(2, ["SHELL", "powershell"], "completions", "powershell")
        self.refused(2, ["SHELL"], "completions")

    def test_bash_completes(self):
        (self.dir / "llmc.bash").write_text(self.ok("completions", "bash").out)
        def complete(*words):
            script = f"source {self.dir}/llmc.bash; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; [ -n \"{words[-1]}\" ] || COMP_WORDS+=(''); _llmc; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=self.dir).stdout.split()
        self.assertEqual(complete("llmc", "qu"), ["quantize"])
        self.assertEqual(complete("llmc", "quantize", "--max-"), ["--max-windows", "--max-ppl-increase", "--max-kl", "--max-size", "--max-memory"])
        self.assertEqual(complete("llmc", "export", "--de"), ["--dense"])
        self.assertEqual(complete("llmc", "inspect", "llmc"), ["llmc.bash"])


class Manual(Case):
    @covers("manual", "--json")
    def test_the_page_holds_every_command_and_flag(self):
        page = self.ok("manual").out
        self.assertEqual(self.json("manual"), {"page": page})
        sections = re.split(r"^\.SS llmc (.*)$", page, flags=re.MULTILINE)
        by_command = dict(zip(sections[1::2], sections[2::2]))
        self.assertEqual(sorted(by_command), sorted(EVERY.split()))
        for command, section in by_command.items():
            for flag in long_flags(command):
                self.assertIn(flag.replace("-", "\\-"), section, command)
        self.assertTrue(page.isascii())
        for words in (".TH LLMC 1", ".SH NAME", ".SH SYNOPSIS", "Exit codes: 0 done"):
            self.assertIn(words, page)
        if shutil.which("groff"):
            (self.dir / "llmc.1").write_text(page)
            shown = subprocess.run(["groff", "-man", "-Tutf8", "-ww", self.dir / "llmc.1"], capture_output=True, text=True)
            self.assertEqual((shown.returncode, shown.stderr), (0, ""))
            paper = subprocess.run(["groff", "-man", "-ww", self.dir / "llmc.1"], capture_output=True)
            self.assertEqual((paper.returncode, paper.stderr), (0, b""))
            self.assertIn("Q4_K_M, Q8_0, …", re.sub(r"\s+", " ", re.sub("\033\\[[0-9;]*m", "", shown.stdout)))
            self.assertIn("--max-new-tokens", shown.stdout.replace("\u2212", "-"))


def long_flags(command):
    """The flags that --help of a command names."""
    return sorted(set(re.findall(r"^  (?:-\w,)?(--[a-z0-9-]+)", run(command, "--help").out, re.MULTILINE)))


class Numbers(Compress):
    def test_every_number_is_what_was_written(self):
        """No flag cuts an integer to what fits, or takes NaN for a number."""
        seen = 0
        for command in EVERY.split():
            for flag, kind in re.findall(r"^  (?:-\w,)?(--[a-z0-9-]+) (INT|UINT|FLOAT)", run(command, "--help").out, re.MULTILINE):
                seen += 1
                for value in ("nan", "inf", "1e999", "1x") if kind == "FLOAT" else ("9223372036854775808" if kind == "INT" else "18446744073709551616", "99999999999999999999", "010", "1.5", "nan"):
                    with self.subTest(command=command, flag=flag, value=value):
                        self.refused(2, [flag, f"found {value}", "expected"], command, f"{flag}={value}")
        self.assertGreater(seen, 60)

    def test_ranges_are_said_plainly(self):
        prompt = [llama(), "--prompt-ids", "5", "--temperature", 1]
        for args, words in ((["generate", *prompt, "--max-new-tokens", 0], "--max-new-tokens: expected a whole number from 1, found 0"), (["generate", *prompt, "--samples", 2000], "--samples: expected a whole number from 1 to 1024, found 2000"),
                            (["generate", llama(), "--temperature", "nan"], "--temperature: expected 0 to 1000, found nan"), (["generate", *prompt, "--top-p", "nan"], "--top-p: expected 1e-06 to 1, found nan"), (["generate", *prompt, "--top-p", "1.5"], "found 1.5"),
                            (["generate", *prompt, "--seed", "9223372036854775808"], "--seed: expected a whole number up to 9223372036854775807, found 9223372036854775808"), (["generate", *prompt, "--max-new-tokens", ""], "--max-new-tokens: expected a value, found an empty one"),
                            (["export", llama(), "-o", self.dir / "x", "--for-distillation", "--student", llama(), "--temperature", "nan"], "--temperature: expected 0.01 to 100, found nan"), (["export", llama(), "-o", self.dir / "x", "--for-distillation", "--seed", "-1"], "--seed: expected a whole number from 0, found -1"),
                            (["distill", llama(), "-o", self.dir / "x", "--max-minutes", "nan"], "--max-minutes: expected a number above 0, found nan"), (["distill", llama(), "-o", self.dir / "x", "--max-minutes", 0], "--max-minutes: expected a number above 0, found 0"),
                            (self.run_of("quantize", None, "--damping", "nan"), "--damping: expected a number, found nan"), (self.run_of("quantize", None, "--threads", "all"), "--threads: expected a whole number from 0 to 1024, found all"), (self.run_of("quantize", None, "--heal-scope", ""), "--heal-scope: expected a value, found an empty one")):
            with self.subTest(words):
                self.refused(2, words, *args)
        for value in ("9223372036854775807", "0"):
            self.ok("generate", *prompt, "--max-new-tokens", 2, "--seed", value)


class Words(Compress):
    @covers(EVERY, "--help")
    def test_help(self):
        whole = self.ok("--help").out
        for command in EVERY.split():
            self.assertIn(command, whole)
            told = self.ok(command, "--help")
            self.assertIn(f"llmc {command}", told.out)
            self.assertEqual(told.err, "")
            self.assertEqual(self.ok(command, "-h").out, told.out)
            if command != "list":
                self.assertRegex(told.out, rf"Examples?:\n  llmc {command}")
        self.assertIn("Exit codes: 0 done, 1 a gate was missed, 2 usage, 3 bad input, 4 output, 70 a bug, 130 interrupted", whole)
        self.assertRegex(self.ok("--version").out, r"^llmc \d+\.\d+\.\d+\n$")

    def test_misspelled(self):
        for args, words in ((["quantise"], ["'quantise' is no command", 'did you mean "quantize"']), (["exprot", "x"], ['did you mean "export"']), ([], ["subcommand is required"]), (["frobnicate"], ["'frobnicate' is no command"]),
                            (["quantize", llama(), "-o", "x", "--bits", "8", "--goup-size", "4"], ["--goup-size", 'did you mean "--group-size"']), (["prune", llama(), "-o", "x", "--sparcity=0.5"], ["--sparcity", 'did you mean "--sparsity"']),
                            (["compress", llama(), "-o", "x", "--receipt", "r"], ['did you mean "--recipe"']), (["evaluate", llama(), "--dta", "x"], ['did you mean "--data"']), (["export", llama(), "-o", "x", "--dence"], ['did you mean "--dense"']),
                            (["inspect", llama(), "--jsn"], ['did you mean "--json"']), (["list", "--jason"], ['did you mean "--json"']), (["completions", "bash", "--queit"], ['did you mean "--quiet"']),
                            (["inspect", llama(), "a", "b"], ["a", "not expected"]), (["evaluate"], ["MODEL", "required"]), (["quantize", llama(), "--bits", "8"], ["--output", "required"])):
            with self.subTest(args=args):
                refusal = self.refused(2, words, *args)
                self.assertRegex(refusal.err, r"Run `llmc (\w+ )?--help` for the flags\.\n$")
                self.assertNotIn('"--"', refusal.err)

    @covers("evaluate export inspect list completions manual", "--threads")
    def test_numbers_of_threads(self):
        for args in (["evaluate", llama(), "--data", ids()], ["export", llama(), "--dense", "-o", self.dir / "out"], ["inspect", llama()], ["list"], ["completions", "bash"], ["manual"]):
            for value in (-1, 1025, "all"):
                self.refused(2, ["--threads", value], *args, "--threads", value)

    def test_empty_values_are_refused(self):
        """What a script passes when its variable is unset."""
        for flag in ("--max-kl", "--max-size", "--eval-data", "--junit", "--include", "--tensor-type", "--format", "-o", "--seed"):
            args = self.run_of("quantize") if flag != "-o" else ["quantize", llama(), "--bits", "8"]
            args = [a for a in args if a != "--eval-data" and a != ids()] if flag == "--eval-data" else args
            self.refused(2, ["--output" if flag == "-o" else flag, "empty"], *args, flag, "")
        self.refused(2, ["MODEL", "empty"], "inspect", "")
        self.refused(2, ["--reference", "empty"], "evaluate", llama(), "--reference", "")
        self.assert_nothing_left(self.dir, "two.yaml")


class Streams(Compress):
    def commands(self):
        """One command line of each, and whether it has progress to show."""
        self.count = getattr(self, "count", 0) + 1
        for command in RUNS:
            yield command, self.run_of(command, name=f"{command}-{self.count}"), True
        yield "convert", ["convert", llama(), "-o", self.dir / f"{self.count}.gguf", "--type", "F32", "--eval-data", ids()], True
        yield "distill", ["distill", llama(), "-o", self.dir / f"student-{self.count}", "--student-layers", 1, "--steps", 1, "--seqlen", 16, "--data", support.write_ids(self.dir / "other.u16", [i % 64 for i in range(400)]), "--eval-data", ids()], True
        yield "export", ["export", self.dir / f"prune-{self.count}", "--dense", "-o", self.dir / f"dense-{self.count}"], True
        yield "evaluate", ["evaluate", llama(), "--data", ids()], True
        yield "imatrix", ["imatrix", llama(), "-o", self.dir / f"imatrix-{self.count}.gguf", "--calibration", ids(), "--nsamples", 4], True
        yield "inspect", ["inspect", llama()], True
        yield "list", ["list"], False
        yield "completions", ["completions", "bash"], False
        yield "generate", ["generate", llama(), "--prompt-ids", "5,9", "--max-new-tokens", 20], True
        yield "manual", ["manual"], False

    @covers(EVERY, "--quiet")
    def test_progress_is_on_stderr_and_quiet_silences_it(self):
        for command, args, shows in self.commands():
            with self.subTest(command):
                told = self.ok(*args)
                self.assertEqual("check: 20/20 in " in told.err, shows)
                self.assertNotIn("check:", told.out)
                self.assertNotIn("\033", told.out + told.err)  # no terminal, no colours and no bars
                self.assertGreater(len(told.out), 20)
        for flag in ("--quiet", "-q"):
            for command, args, _ in self.commands():
                with self.subTest(command=command, flag=flag):
                    told = self.ok(*args, flag)
                    note = "llmc: note: stored in llmc's packed container" if command in ("prune", "compress") else ""
                    self.assertEqual(told.err[:len(note)], note)
                    self.assertEqual(told.err.count("\n"), 1 if note else 0)  # warnings stay
        missed = self.ok(*self.run_of("quantize", None, "-q", "--max-kl", 0), code=1)
        self.assertRegex(missed.err, r"^llmc: gate max_kl missed: [^\n]*\n$")
        self.assertRegex(self.refused(3, "absent", "inspect", self.dir / "absent", "-q").err, r"^llmc: error: [^\n]*\n$")

    @covers(EVERY, "--verbose")
    def test_verbose_says_how_the_checkpoint_was_read(self):
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model = write_checkpoint(self.dir / "model", config, tensors)
        notice = "lm_head.weight is a copy of the tied model.embed_tokens.weight"
        for command, args, reads in self.commands():
            if command == "export":
                args = ["export", model, *args[2:]]
            args = [model if a == llama() else a for a in args]
            for flags, expected in (([], False), (["--verbose"], reads), (["-v"], reads), (["-v", "-q"], False)):
                with self.subTest(command=command, flags=flags):
                    again = [*args, "--force"] if "-o" in args and flags else args
                    told = self.ok(*again, *flags)
                    self.assertEqual(notice in told.err, expected)
                    self.assertNotIn(notice, told.out)

    def test_json_is_all_there_is_on_stdout(self):
        for command, args, _ in self.commands():
            with self.subTest(command):
                told = self.ok(*args, "--json", "-v")
                self.assertIsInstance(json.loads(told.out), dict)
                self.assertTrue(told.out.endswith("}\n"))

    def test_a_terminal_gets_a_bar_and_colours(self):

        for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            seen, ends = b"", pty.openpty()
            child = subprocess.Popen([str(a) for a in [support.LLMC, *self.run_of("quantize", None, "--force", "--max-size", "1GB")]], stdin=subprocess.DEVNULL, stdout=ends[1], stderr=ends[1], env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **environment})
            os.close(ends[1])
            try:
                while piece := os.read(ends[0], 65536):
                    seen += piece
            except OSError:  # the other end is closed
                pass
            os.close(ends[0])
            self.assertEqual(child.wait(), 0)
            self.assertEqual(b"\033[32mpassed\033[0m" in seen, coloured)
            self.assertNotIn(b"check: 20/20", seen)  # a finished bar leaves nothing behind

    def test_a_stdout_that_takes_nothing(self):
        """The result cannot be told: exit 4, for short results and for those over any buffer."""
        for command, args, _ in self.commands():
            for flags in ([], ["--json"]):
                with self.subTest(command=command, flags=flags), open("/dev/full", "w") as full:
                    args = [*args, "--force"] if "-o" in args and flags else args
                    done = subprocess.run([str(a) for a in [support.LLMC, *args, "-q", *flags]], stdout=full, stderr=subprocess.PIPE, text=True)
                    self.assertEqual(done.returncode, 4, done.stderr)
                    self.assertIn("llmc: error: cannot write the result to stdout", done.stderr)
        for args in (["--help"], ["--version"], ["quantize", "--help"]):
            with self.subTest(args=args), open("/dev/full", "w") as full:
                self.assertEqual(subprocess.run([support.LLMC, *args], stdout=full, stderr=subprocess.DEVNULL).returncode, 4)

    def test_a_closed_stdout(self):
        for command, args, _ in self.commands():
            with self.subTest(command):
                done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *map(str, [support.LLMC, *args, "-q"])], stderr=subprocess.PIPE, text=True)
                self.assertEqual(done.returncode, 4, done.stderr)
                self.assertIn("stdout", done.stderr)

    def test_a_stderr_that_takes_nothing_stops_no_run(self):
        good = self.ok(*self.run_of("quantize", name="good"))
        for number, redirection in enumerate(("2>/dev/full", "2>&-")):
            with self.subTest(redirection):
                done = subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", *map(str, [support.LLMC, *self.run_of("quantize", name=str(number))])], stdout=subprocess.PIPE, text=True)
                self.assertEqual(done.returncode, 0)
                self.assertEqual(done.stdout.splitlines()[0], good.out.splitlines()[0])
                for file in ("model.safetensors", "config.json", "recipe.yaml", "llmc.json"):  # and no message lands in a file
                    self.assertEqual((self.dir / str(number) / file).read_bytes(), (self.dir / "good" / file).read_bytes())
                self.assertEqual(subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", support.LLMC, "inspect", self.dir / "absent"]).returncode, 3)


if __name__ == "__main__":
    support.main()
