"""llmc quantize: every flag of the scheme and of the choice of tensors, against plain Python."""

import json

import support
from support import Case, covers, floats, ids, llama, llama_config, llama_shapes, random_tensors, read_codes, read_safetensors, round_to_nearest, tiny, treatments, write_checkpoint

BLOCK = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
LINEAR = [f"model.layers.{i}.{name}.weight" for i in range(2) for name in BLOCK]


class Quantize(Case):
    def quantize(self, model, *flags, name="out"):
        """Report of a run, judged on as little as possible."""
        return self.json("quantize", model, "-o", self.dir / name, "--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 1, *flags)

    def weights(self, name="out", group="group_0"):
        """What config.json says about the weights of a config group."""
        return json.loads((self.dir / name / "config.json").read_text())["quantization_config"]["config_groups"][group]["weights"]

    def scheme_of(self, report, tensor="model.layers.0.mlp.down_proj.weight"):
        return treatments(report)[tensor]


class Schemes(Quantize):
    @covers("quantize", "--bits", "--scheme", "--granularity", "--group-size", "--output")
    def test_every_grid_is_the_documented_one(self):
        model = llama()
        source, _ = read_safetensors(model)
        for bits in range(2, 9):
            for mapping in ("symmetric", "linear"):
                for granularity in ("tensor", "channel", "group"):
                    with self.subTest(bits=bits, mapping=mapping, granularity=granularity):
                        name = f"{bits}-{mapping}-{granularity}"
                        flags = ["--group-size", 16] if granularity == "group" else []
                        report = self.quantize(model, "--bits", bits, "--scheme", mapping, "--granularity", granularity, *flags, name=name)
                        span = "g16" if granularity == "group" else granularity
                        self.assertEqual({t for n, t in treatments(report).items() if n in LINEAR}, {f"W{bits}A16-{span}-{mapping}"})
                        self.assertEqual({t for n, t in treatments(report).items() if n not in LINEAR}, {"kept"})
                        self.assertEqual(report["artifact"]["container"], "compressed-tensors")

                        said = self.weights(name)
                        self.assertEqual((said["num_bits"], said["symmetric"], said["strategy"], said["group_size"]), (bits, mapping == "symmetric", granularity, 16 if flags else None))
                        stored, _ = read_safetensors(self.dir / name)
                        for module in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
                            found = read_codes(stored, module, said)
                            rows = source[module + ".weight"].rows()
                            self.assertEqual(found, round_to_nearest(rows, bits, mapping == "linear", granularity, 16, "BF16" if flags else "F32"), module)
                            self.check_formula(rows, found, bits, mapping, granularity)
                        self.assertEqual(stored["model.embed_tokens.weight"], source["model.embed_tokens.weight"])

    def check_formula(self, rows, found, bits, mapping, granularity):
        """Codes against the formula of the milestone itself. They may be apart by half a step of rounding; for linear by half
        a step more, because the grid is moved so that 0 is on it; and where scales are bf16 (2⁻⁸ off at most) by that share
        of the number of steps."""
        steps = 2 ** bits - 1 if mapping == "linear" else 2 ** (bits - 1) - 1
        apart = 0.501 + (0.5 if mapping == "linear" else 0) + (steps / 256 if granularity == "group" else 0)
        span = len(rows[0]) // len(found.scales[0])
        for r, row in enumerate(rows):
            for g in range(len(found.scales[0])):
                values = row[g * span:(g + 1) * span] if granularity != "tensor" else [x for row in rows for x in row]
                low, high, widest = min(values), max(values), max(map(abs, values))
                for x, q in zip(row[g * span:(g + 1) * span], found.codes[r][g * span:(g + 1) * span]):
                    exact = (x - low) / (high - low) * steps - 2 ** (bits - 1) if mapping == "linear" else x / widest * steps
                    self.assertLessEqual(abs(q - exact), apart)

    @covers("quantize", "--bits", "--preset")
    def test_bits_and_presets_agree(self):
        model = llama(intermediate_size=128, hidden_size=128)
        wide = read_safetensors(model)[0]["model.layers.0.mlp.down_proj.weight"].rows()
        for preset, flags in (("W8A16", ["--bits", 8]), ("W4A16", ["--bits", 4]), ("W3A16-channel", ["--bits", 3, "--granularity", "channel"]), ("W4A16-g32-linear", ["--bits", 4, "--group-size", 32, "--scheme", "linear"]), ("W8A16-tensor", ["--bits", 8, "--granularity", "tensor"])):
            with self.subTest(preset=preset):
                one, other = self.quantize(model, "--preset", preset, name=preset), self.quantize(model, *flags, name=preset + "-flags")
                self.assertEqual(self.scheme_of(one), self.scheme_of(other))
                self.assertEqual((self.dir / preset / "model.safetensors").read_bytes(), (self.dir / (preset + "-flags") / "model.safetensors").read_bytes())
        self.assertEqual(self.weights("W8A16")["strategy"], "channel")      # what a bare --bits 8 means
        self.assertEqual(self.weights("W4A16")["group_size"], 128)          # and one below 8
        self.assertEqual(read_codes(read_safetensors(self.dir / "W4A16")[0], "model.layers.0.mlp.down_proj", self.weights("W4A16")), round_to_nearest(wide, 4, False, "group", 128, "BF16"))

    @covers("quantize", "--preset", "--granularity", "--group-size", "--scheme")
    def test_flags_change_a_preset(self):
        for flags, expected in ((["--preset", "W8A16", "--scheme", "linear"], "W8A16-channel-linear"), (["--preset", "W4A16-g16", "--granularity", "channel"], "W4A16-channel-symmetric"),
                                (["--preset", "W8A16", "--group-size", 8], "W8A16-g8-symmetric"), (["--preset", "W4A16-g16-linear", "--scheme", "symmetric"], "W4A16-g16-symmetric")):
            with self.subTest(expected):
                self.assertEqual(self.scheme_of(self.quantize(llama(), *flags, name=expected)), expected)

    @covers("quantize", "--preset")
    def test_inputs_in_few_bits(self):
        model = llama()
        for preset, expected, execution in (("W8A8", "W8A8-channel-symmetric-dynamic", "int8"), ("W4A8-g16-dynamic-linear", "W4A8-g16-symmetric-dynamic-linear", "int8"), ("W8A16", "W8A16-channel-symmetric", "float")):
            with self.subTest(preset):
                report = self.quantize(model, "--preset", preset, name=preset)
                self.assertEqual(self.scheme_of(report), expected)
                self.assertEqual((report["quality"]["execution"], report["artifact"]["container"]), (execution, "compressed-tensors"))
                self.assertEqual(report["oracle"]["rounding_difference"] is None, execution == "float")
                again = self.json("evaluate", self.dir / preset, "--data", ids(), "--seqlen", 8, "--max-windows", 1)["quality"]
                self.assertEqual((again["mean_nll"], again["execution"]), (report["quality"]["mean_nll"], execution))
        groups = json.loads((self.dir / "W8A8/config.json").read_text())["quantization_config"]["config_groups"]
        self.assertEqual({key: groups["group_0"]["input_activations"][key] for key in ("num_bits", "type", "symmetric", "strategy", "dynamic")}, {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True})
        self.assertEqual(read_safetensors(self.dir / "W8A8")[0], read_safetensors(self.dir / "W8A16")[0])  # the weights are the same
        self.assertNotEqual(*(self.json("evaluate", self.dir / name, "--data", ids())["quality"]["mean_nll"] for name in ("W8A8", "W8A16")))
        packed = self.quantize(model, "--preset", "W8A8", "--format", "packed", name="packed")
        self.assertEqual(packed["quality"]["mean_nll"], self.json("evaluate", self.dir / "W8A8", "--data", ids(), "--seqlen", 8, "--max-windows", 1)["quality"]["mean_nll"])
        exported = self.ok("export", self.dir / "W8A8", "--dense", "-o", self.dir / "dense")
        self.assertIn("rounds the inputs of its layers", exported.err)

    def test_schemes_that_make_no_sense(self):
        for flags, words in ((["--bits", 1], ["--bits", "2 to 8", "found 1"]), (["--bits", 9], ["--bits", "2 to 8", "found 9"]), (["--bits", "four"], ["--bits", "four"]), (["--bits", "4.5"], ["--bits", "4.5"]),
                             ([], ["--bits", "--preset"]), (["--bits", 8, "--preset", "W8A16"], ["--bits", "--preset"]),
                             (["--preset", "W9A16"], ["2 to 8", "found 9"]), (["--preset", "W4A7"], ["W4A7", "W2A16"]), (["--preset", "W8A8-dynamic-g8"], ["'g8'", "W8A8-static-linear"]), (["--preset", "W4A16-g0"], ["group size", "0"]), (["--preset", "W4A16-"], ["W4A16-"]), (["--preset", "Q4_K"], ["Q4_K", "W4A16-g32-linear"]),
                             (["--bits", 8, "--scheme", "lineal"], ["--scheme", "symmetric or linear", "lineal"]), (["--bits", 8, "--granularity", "row"], ["--granularity", "tensor, channel or group", "row"]),
                             (["--bits", 8, "--granularity", "channel", "--group-size", 8], ["--group-size 8", "--granularity channel"]), (["--bits", 4, "--group-size", 0], ["--group-size"]), (["--bits", 4, "--group-size", -16], ["--group-size"])):
            with self.subTest(flags=flags):
                self.refused(2, words, "quantize", llama(), "-o", self.dir / "out", "--eval-data", ids(), *flags)
        self.assert_nothing_left(self.dir)

    @covers("quantize", "--group-size")
    def test_group_that_does_not_divide_says_what_to_do(self):
        refusal = self.refused(2, ["model.layers.0.self_attn.q_proj.weight", "rows of 32", "multiple of the group size 128", "--granularity channel", "--tensor-type"], "quantize", llama(), "-o", self.dir / "out", "--bits", 4, "--eval-data", ids())
        for name in LINEAR:  # all of them, and no other
            self.assertIn(name, refusal.err)
        self.assertEqual(refusal.err.count("multiple of the group size"), len(LINEAR))
        one = self.refused(2, ["down_proj", "rows of 48", "group size 32", "--group-size 16"], "quantize", llama(), "-o", self.dir / "out", "--bits", 4, "--group-size", 32, "--eval-data", ids())
        self.assertEqual(one.err.count("multiple of the group size"), 2)
        self.assert_nothing_left(self.dir)
        self.quantize(llama(), "--bits", 4, "--group-size", 16)  # the advice of both works
        self.assertIn("--group-size 16", refusal.err)


class Observers(Quantize):
    @covers("quantize", "--observer", "--percentile")
    def test_percentile_cuts_the_range(self):
        source, _ = read_safetensors(llama())
        report = self.quantize(llama(), "--bits", 4, "--granularity", "channel", "--observer", "percentile", "--percentile", 90)
        found = read_codes(read_safetensors(self.dir / "out")[0], "model.layers.0.mlp.up_proj", self.weights())
        for row, (scale,), codes in zip(source["model.layers.0.mlp.up_proj.weight"].rows(), found.scales, found.codes):
            ordered = sorted(map(abs, row))
            at = 0.9 * (len(row) - 1)
            cut = ordered[int(at)] + (at - int(at)) * (ordered[int(at) + 1] - ordered[int(at)])
            self.assertAlmostEqual(scale, cut / 7, delta=1e-6 * cut)  # f32 arithmetic
            self.assertEqual([max(-8, min(7, round(x / scale))) for x in row], codes)
            self.assertLess(scale * 7, max(ordered))

        up = next(t for t in report["tensors"] if t["name"] == "model.layers.0.mlp.up_proj.weight")
        clipped = [not -8.5 * scale <= x <= 7.5 * scale for row, (scale,) in zip(source["model.layers.0.mlp.up_proj.weight"].rows(), found.scales) for x in row]
        self.assertEqual(up["clipped"], sum(clipped) / len(clipped))
        self.assertGreater(up["clipped"], 0)
        self.assertEqual([up["scale_min"], up["scale_max"]], [min(s for s, in found.scales), max(s for s, in found.scales)])
        kept = next(t for t in report["tensors"] if t["treatment"] == "kept")
        self.assertEqual([kept["clipped"], kept["scale_min"], kept["scale_max"]], [None, None, None])
        table = self.ok("quantize", llama(), "-o", self.dir / "table", "--bits", 4, "--granularity", "channel", "--observer", "percentile", "--percentile", 90, "--eval-data", ids()).out
        header, *rows = table.splitlines()
        self.assertTrue(header.endswith("clipped         scales"), header)
        row = next(line for line in rows if line.startswith("ffn_up"))
        self.assertRegex(row, r" \d+\.\d\d % +0\.\d+ … 0\.\d+$")

    @covers("quantize", "--observer")
    def test_mse_searches_the_least_error(self):
        error = {}
        for observer in ("minmax", "mse", "percentile"):
            report = self.quantize(llama(), "--bits", 3, "--granularity", "channel", "--observer", observer, name=observer)
            error[observer] = {t["name"]: t["sqnr_db"] for t in report["tensors"] if t["name"] in LINEAR}
            self.assertEqual(report["recipe"]["steps"][0]["observer"], observer)
        for name in LINEAR:
            self.assertGreater(error["mse"][name], error["minmax"][name] + 0.1, name)  # gains about 1 dB at 3 bits on normal weights
        self.assertNotEqual(error["percentile"], error["minmax"])

    @covers("quantize", "--percentile")
    def test_percentile_in_the_recipe_and_its_bounds(self):
        report = self.quantize(llama(), "--bits", 8, "--observer", "percentile", "--dry-run")
        self.assertIn("tensors", report)
        report = self.quantize(llama(), "--bits", 8, "--observer", "percentile")
        self.assertEqual(report["recipe"]["steps"][0]["percentile"], 99.9)
        for flags, words in ((["--percentile", 99], ["percentile", "observer"]), (["--observer", "mse", "--percentile", 99], ["percentile", "observer"]), (["--observer", "percentile", "--percentile", 50], ["percentile", "found 50"]),
                             (["--observer", "percentile", "--percentile", 100.5], ["percentile", "found 100.5"]), (["--observer", "median"], ["observer 'median'", "minmax, percentile, mse or hqq"])):
            with self.subTest(flags=flags):
                self.refused(2, words, "quantize", llama(), "-o", self.dir / "no", "--bits", 8, "--eval-data", ids(), *flags)

    def test_a_row_of_zeros_and_one_value(self):
        """Rows without a range: all zero, and a single constant."""
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        tensors["model.layers.0.self_attn.k_proj.weight"] = floats("F32", [16, 32], [0.0] * 32 + [0.5] * 32 + [-0.25] * 32 + [1.0] * 13 * 32)
        model = write_checkpoint(self.dir / "model", config, tensors)
        for mapping in ("symmetric", "linear"):
            report = self.quantize(model, "--bits", 8, "--scheme", mapping, name=mapping)
            worst = next(t for t in report["tensors"] if t["name"] == "model.layers.0.self_attn.k_proj.weight")
            self.assertLess(worst["max_error"], 1e-7)
            self.json("export", self.dir / mapping, "--dense", "-o", self.dir / (mapping + "-dense"))
            rows = read_safetensors(self.dir / (mapping + "-dense"))[0]["model.layers.0.self_attn.k_proj.weight"].rows()
            self.assertEqual(set(rows[0]), {0.0})


class Tensors(Quantize):
    @covers("quantize", "--include", "--exclude")
    def test_include_and_exclude(self):
        for flags, chosen in ((["--include", "mlp"], lambda n: "mlp" in n), (["--exclude", r"layers\.0\."], lambda n: ".0." not in n),
                              (["--include", "q_proj", "--include", "k_proj"], lambda n: "q_proj" in n or "k_proj" in n), (["--include", "mlp", "--exclude", "down|up"], lambda n: "gate" in n)):
            with self.subTest(flags=flags):
                report = self.quantize(llama(), "--bits", 8, *flags, name=str(flags).replace("/", "_"))
                expected = {name for name in LINEAR if chosen(name)}
                self.assertEqual({n for n, t in treatments(report).items() if t != "kept"}, expected)
                self.assertEqual(report["steps"][1]["details"]["tensors"], len(expected))

    @covers("quantize", "--include", "--exclude", "--tensor-type")
    def test_a_pattern_without_a_match_is_an_error(self):
        for flag, value in (("--include", "q_prog"), ("--exclude", "embed_tokens"), ("--tensor-type", "h\\.0=W8A16"), ("--include", "^layers")):
            with self.subTest(flag=flag):
                self.refused(2, [value.split("=")[0], "matches none", "such as model."], "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), flag, value)
        self.refused(2, ["'foo' matches none", "'bar' matches none", "2 problems"], "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), "--include", "foo", "--exclude", "bar")
        self.refused(2, ["leave no weight"], "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), "--exclude", ".")
        self.refused(2, ["pattern '('"], "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), "--include", "(")
        self.assert_nothing_left(self.dir)

    @covers("quantize", "--tensor-type")
    def test_tensor_type_the_first_match_decides(self):
        report = self.quantize(llama(), "--bits", 4, "--group-size", 16, "--tensor-type", r"1\.mlp\.down=keep", "--tensor-type", "down=W8A16", "--tensor-type", "down|v_proj=W2A16-channel")
        found = treatments(report)
        self.assertEqual(found["model.layers.0.mlp.down_proj.weight"], "W8A16-channel-symmetric")
        self.assertEqual(found["model.layers.1.mlp.down_proj.weight"], "kept")
        self.assertEqual(found["model.layers.1.self_attn.v_proj.weight"], "W2A16-channel-symmetric")
        self.assertEqual(found["model.layers.0.mlp.up_proj.weight"], "W4A16-g16-symmetric")
        config = json.loads((self.dir / "out" / "config.json").read_text())["quantization_config"]
        self.assertEqual(config["format"], "mixed-precision")
        self.assertEqual(len(config["config_groups"]), 3)
        self.assertIn("model.layers.1.mlp.down_proj", config["ignore"])
        again = self.json("evaluate", self.dir / "out", "--data", ids(), "--seqlen", 8, "--max-windows", 1)
        self.assertEqual(again["quality"]["perplexity"], report["quality"]["perplexity"])

    def test_tensor_type_reaches_what_include_left_out(self):
        report = self.quantize(llama(), "--bits", 8, "--include", "q_proj", "--tensor-type", "gate=W4A16-g8")
        self.assertEqual({n for n, t in treatments(report).items() if t != "kept"}, {n for n in LINEAR if "q_proj" in n or "gate" in n})

    def test_tensor_type_errors(self):
        for value, words in (("down", ["REGEX=SCHEME", "'down'"]), ("=W8A16", ["REGEX=SCHEME"]), ("down=", ["REGEX=SCHEME"]), ("down=W1A16", ["2 to 8"]), ("down=int8", ["int8", "W2A16"]), ("down=W4A16-g13", ["rows of 48", "group size 13"])):
            with self.subTest(value):
                self.refused(2, words, "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), "--tensor-type", value)
        self.refused(2, "nothing would be quantized", "quantize", llama(), "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), "--tensor-type", ".=keep")
        self.assert_nothing_left(self.dir)

    @covers("quantize", "--token-embedding-type")
    def test_embedding(self):
        report = self.quantize(llama(), "--bits", 8, "--token-embedding-type", "W8A16", name="hf")
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], "W8A16-channel-symmetric")
        self.assertEqual(report["artifact"]["container"], "compressed-tensors")
        stored, _ = read_safetensors(self.dir / "hf")
        self.assertEqual((stored["model.embed_tokens.weight"].dtype, stored["model.embed_tokens.weight"].shape), ("I8", [64, 32]))
        self.assertEqual(stored["lm_head.weight_scale"], stored["model.embed_tokens.weight_scale"])  # the tied head repeats them
        again = self.json("evaluate", self.dir / "hf", "--data", ids(), "--seqlen", 8, "--max-windows", 1)
        self.assertEqual(again["quality"]["perplexity"], report["quality"]["perplexity"])

        packed = self.quantize(llama(), "--bits", 8, "--token-embedding-type", "W4A16-g16", name="packed")
        self.assertEqual(packed["artifact"]["container"], "llmc-packed")
        self.assertIn("model.embed_tokens.weight is an embedding below 8 bits", packed["notes"][0])
        self.refused(2, ["--format hf", "embedding below 8 bits"], "quantize", llama(), "-o", self.dir / "no", "--bits", 8, "--token-embedding-type", "W4A16-g16", "--format", "hf", "--eval-data", ids())
        self.refused(2, ["W4"], "quantize", llama(), "-o", self.dir / "no", "--bits", 8, "--token-embedding-type", "W4", "--eval-data", ids())

    @covers("quantize", "--output-tensor-type")
    def test_head(self):
        untied = llama(tie_word_embeddings=False)
        kept = self.quantize(untied, "--bits", 8, name="kept")
        self.assertEqual(treatments(kept)["lm_head.weight"], "kept")
        report = self.quantize(untied, "--bits", 8, "--output-tensor-type", "W4A16-g16", name="head")
        self.assertEqual(treatments(report)["lm_head.weight"], "W4A16-g16-symmetric")
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], "kept")
        self.assertEqual(report["artifact"]["container"], "compressed-tensors")
        said = json.loads((self.dir / "head" / "config.json").read_text())["quantization_config"]
        group = next(name for name, g in said["config_groups"].items() if "lm_head" in g["targets"])
        rows = read_safetensors(untied)[0]["lm_head.weight"].rows()
        self.assertEqual(read_codes(read_safetensors(self.dir / "head")[0], "lm_head", self.weights("head", group)), round_to_nearest(rows, 4, False, "group", 16, "BF16"))
        self.refused(2, ["tied", "token_embedding"], "quantize", llama(), "-o", self.dir / "no", "--bits", 8, "--output-tensor-type", "W8A16", "--eval-data", ids())

    def test_biases_and_other_dtypes(self):
        for name, scale_dtype in (("llama-bias", "F32"), ("llama-bf16", "BF16"), ("llama-f16", "F16"), ("llama-sharded", "F32"), ("qwen2-untied", "F32")):
            with self.subTest(name):
                report = self.json("quantize", tiny(name), "-o", self.dir / name, "--bits", 8, "--eval-data", tiny(name) / "input_ids.npy")
                stored, _ = read_safetensors(self.dir / name)
                self.assertEqual(stored["model.layers.0.mlp.up_proj.weight_scale"].dtype, scale_dtype)
                kept = {n for n, t in treatments(report).items() if t == "kept"}
                self.assertEqual({n for n in kept if "bias" in n}, {n for n in stored if n.endswith("bias")})
                self.assertEqual(name in ("llama-bias", "qwen2-untied"), any(n.endswith("bias") for n in stored))
                self.assertLess(report["quality"]["kl_mean"], 1e-3)  # 8 bits: 1e-4 or so on these random models


class Formats(Quantize):
    @covers("quantize", "--format")
    def test_llama(self):
        for flag, container in (("auto", "compressed-tensors"), ("hf", "compressed-tensors"), ("packed", "llmc-packed")):
            report = self.quantize(llama(), "--bits", 4, "--group-size", 16, "--format", flag, name=flag)
            self.assertEqual(report["artifact"]["container"], container)
            self.assertEqual(report["notes"], [])
            config = json.loads((self.dir / flag / "config.json").read_text())["quantization_config"]
            self.assertEqual(config.get("quant_method"), None if flag == "packed" else "compressed-tensors")
        _, metadata = read_safetensors(self.dir / "packed")
        self.assertEqual((metadata["llmc.format"], metadata["llmc.version"]), ("llmc-packed", "1"))
        self.refused(2, ["'onnx'", "auto, hf, packed or gguf"], "quantize", llama(), "-o", self.dir / "no", "--bits", 8, "--format", "onnx", "--eval-data", ids())
        figures = [self.json("evaluate", self.dir / flag, "--data", ids())["quality"]["perplexity"] for flag in ("auto", "hf", "packed")]
        self.assertEqual(len(set(figures)), 1)

    def test_a_head_that_transformers_calls_otherwise(self):
        data = tiny("gpt-neox") / "input_ids.npy"
        self.ok("quantize", tiny("gpt-neox"), "-o", self.dir / "body", "--bits", 8, "--format", "hf", "--eval-data", data)
        ignored = json.loads((self.dir / "body" / "config.json").read_text())["quantization_config"]["ignore"]
        self.assertEqual(set(ignored), {"embed_out", "lm_head"})
        self.refused(2, ["--format hf", "embed_out holds codes", "lm_head"], "quantize", tiny("gpt-neox"), "-o", self.dir / "no", "--bits", 8, "--output-tensor-type", "W8A16", "--format", "hf", "--eval-data", data)
        report = self.json("quantize", tiny("gpt-neox"), "-o", self.dir / "head", "--bits", 8, "--output-tensor-type", "W8A16", "--eval-data", data)
        self.assertEqual(report["artifact"]["container"], "llmc-packed")

    @covers("quantize", "--format")
    def test_gpt2_goes_to_packed_with_the_reason(self):
        for name in ("gpt2-tied", "gpt2-untied", "gpt2-noprefix"):
            with self.subTest(name):
                data = tiny(name) / "input_ids.npy"
                told = self.ok("quantize", tiny(name), "-o", self.dir / name, "--bits", 8, "--eval-data", data)
                reason = "transposed Conv1D"
                self.assertIn(reason, told.out)
                self.assertIn("note: stored in llmc's packed container", told.err)
                self.assertIn(reason, told.err)
                report = json.loads((self.dir / name / "report.json").read_text())
                self.assertEqual(report["artifact"]["container"], "llmc-packed")
                self.assertIn(reason, report["notes"][0])
                chosen = {n for n, t in treatments(report).items() if t == "W8A16-channel-symmetric"}
                self.assertEqual({n.rsplit(".", 2)[1] for n in chosen}, {"c_attn", "c_proj", "c_fc"})
                self.refused(2, ["--format hf", reason, "--format packed", "llmc export"], "quantize", tiny(name), "-o", self.dir / "no", "--bits", 8, "--format", "hf", "--eval-data", data)
                self.assertFalse((self.dir / "no").exists())


if __name__ == "__main__":
    support.main()
