"""llmc prune --structured: which layers, heads and channels go, what makes up for them, and what config.json says afterwards."""

import json

import support
from support import Case, covers, ids, llama, make_llama, read_safetensors, tiny, treatments

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def squares(row):
    return sum(x * x for x in row)


def highest(scores, count):
    """Numbers of the highest scores, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda i: scores[i])[len(scores) - count:])


class Structured(Case):
    def run_of(self, model, *kinds, name="out", flags=()):
        calibration = [] if "false" in flags or "--nsamples" in flags else ["--nsamples", 4, "--seqlen", 64]
        data = ["--max-windows", 2]
        if model != support.quill():
            calibration = calibration and ["--nsamples", 4, "--seqlen", 8, "--calibration", self.calibration_ids()]
            data = ["--eval-data", ids(), "--eval-seqlen", 8, "--max-windows", 1]
        kinds = [part for kind in kinds for part in ("--structured", kind)]
        return ["prune", model, "-o", self.dir / name, *data, *calibration, *kinds, *flags]

    def calibration_ids(self):
        return support.write_ids(self.dir / "calibration.u16", [7 * i * i % 61 for i in range(96)])

    def cut(self, *args, **options):
        return self.json(*self.run_of(*args, **options))

    def config(self, name="out"):
        return json.loads((self.dir / name / "config.json").read_text())

    def weights(self, name="out"):
        return read_safetensors(self.dir / name)[0]


class WhatGoes(Structured):
    @covers("prune", "--structured", "--importance", "--compensate")
    def test_channels_of_least_magnitude(self):
        before, _ = read_safetensors(llama())
        report = self.cut(llama(), "ffn=25%", flags=["--importance", "magnitude", "--compensate", "false"])
        after = self.weights()
        self.assertEqual(self.config()["intermediate_size"], 36)
        self.assertEqual(set(before), set(after))
        for block in range(2):
            name = lambda part: f"model.layers.{block}.mlp.{part}_proj.weight"
            gate, up, down = (before[name(part)].rows() for part in ("gate", "up", "down"))
            kept = highest([squares(gate[j]) + squares(up[j]) + squares(row[j] for row in down) for j in range(48)], 36)
            self.assertEqual(after[name("gate")].rows(), [gate[j] for j in kept])
            self.assertEqual(after[name("up")].rows(), [up[j] for j in kept])
            self.assertEqual([list(row) for row in after[name("down")].rows()], [[row[j] for j in kept] for row in down])
        for name in before:
            if "mlp" not in name:
                self.assertEqual(before[name], after[name], name)
        self.assertEqual(treatments(report)["model.layers.1.mlp.up_proj.weight"], "channels 48 → 36")
        self.assertEqual(treatments(report)["model.layers.1.self_attn.q_proj.weight"], "kept")
        details = report["steps"][1]["details"]
        self.assertEqual(details["removed"], {"ffn": {"before": 48, "after": 36}})
        self.assertEqual(details["parameters"], {"before": sum(support.count(t.shape) for t in before.values()), "after": sum(support.count(t.shape) for t in after.values())})
        self.assertEqual(report["artifact"]["container"], "dense")

    def test_channels_of_gpt2(self):
        """Transposed matrices with biases; n_inner, which was 4 · n_embd unsaid, is said."""
        model = tiny("gpt2-tied")
        before, _ = read_safetensors(model)
        data = ["--eval-data", model / "input_ids.npy"]
        self.json("prune", model, "-o", self.dir / "out", *data, "--structured", "ffn=1", "--importance", "magnitude", "--compensate", "false")
        after, inner = self.weights(), 4 * self.config()["n_embd"] - 1
        self.assertEqual(self.config()["n_inner"], inner)
        first, last = (before[f"transformer.h.0.mlp.{part}.weight"].rows() for part in ("c_fc", "c_proj"))
        kept = highest([squares(row[j] for row in first) + squares(last[j]) for j in range(len(last))], inner)
        self.assertEqual([list(row) for row in after["transformer.h.0.mlp.c_fc.weight"].rows()], [[row[j] for j in kept] for row in first])
        self.assertEqual(after["transformer.h.0.mlp.c_proj.weight"].rows(), [last[j] for j in kept])
        bias = before["transformer.h.0.mlp.c_fc.bias"].values()
        self.assertEqual(list(after["transformer.h.0.mlp.c_fc.bias"].values()), [bias[j] for j in kept])
        fitted = self.json("prune", model, "-o", self.dir / "fitted", *data, "--structured", "ffn=25%", "--calibration", model / "input_ids.npy", "--nsamples", 2, "--seqlen", 8)
        self.assertNotEqual(before["transformer.h.0.mlp.c_proj.bias"], self.weights("fitted")["transformer.h.0.mlp.c_proj.bias"])  # it takes up the mean
        self.assertTrue({t["name"]: t["moved"] for t in fitted["tensors"]}["transformer.h.0.mlp.c_proj.bias"])

    def test_heads_go_with_their_keys_and_values(self):
        before, _ = read_safetensors(llama())
        for amount, flags in (("50%", ()), ("2", ())):
            with self.subTest(amount):
                name = "heads-" + amount
                self.cut(llama(), f"heads={amount}", name=name, flags=["--importance", "magnitude", "--compensate", "false"])
                config, after = self.config(name), self.weights(name)
                self.assertEqual([config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")], [2, 1, 8, 32])
                for block in range(2):
                    q, k, v, o = (before[f"model.layers.{block}.self_attn.{part}.weight"].rows() for part in ATTENTION)
                    scores = [sum(map(squares, q[16 * g:16 * g + 16])) + sum(map(squares, k[8 * g:8 * g + 8])) + sum(map(squares, v[8 * g:8 * g + 8])) + squares(x for row in o for x in row[16 * g:16 * g + 16]) for g in range(2)]
                    g, = highest(scores, 1)
                    for part, rows in (("q_proj", q[16 * g:16 * g + 16]), ("k_proj", k[8 * g:8 * g + 8]), ("v_proj", v[8 * g:8 * g + 8]), ("o_proj", [row[16 * g:16 * g + 16] for row in o])):
                        self.assertEqual(after[f"model.layers.{block}.self_attn.{part}.weight"].rows(), rows, part)

    def test_hidden_dimensions(self):
        """All of the residual stream together; norms of fewer dimensions are stretched to give what they gave before."""
        before, _ = read_safetensors(llama())
        report = self.cut(llama(), "hidden=25%", flags=["--importance", "magnitude", "--compensate", "false"])
        after = self.weights()
        self.assertEqual([self.config()[key] for key in ("hidden_size", "head_dim", "num_attention_heads")], [24, 8, 4])
        readers, writers = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens"), ("o_proj", "down_proj")
        scores = [0.0] * 32
        for name, tensor in before.items():
            for r, row in enumerate(tensor.rows()):
                for c, x in enumerate(row):
                    if name.split(".")[-2] in readers:
                        scores[c] += x * x
                    if name.split(".")[-2] in writers:
                        scores[r] += x * x
        kept = highest(scores, 24)
        for name, tensor in before.items():
            part = name.split(".")[-2]
            if part in readers:
                self.assertEqual([list(row) for row in after[name].rows()], [[row[c] for c in kept] for row in tensor.rows()], name)
            elif part in writers:
                self.assertEqual(after[name].rows(), [tensor.rows()[r] for r in kept], name)
            else:
                for x, y in zip((tensor.values()[c] for c in kept), after[name].values()):
                    self.assertAlmostEqual(y, x * (32 / 24) ** 0.5, places=6)
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], "hidden 32 → 24")

    def test_layers_are_named_or_those_of_least_influence(self):
        before, _ = read_safetensors(llama(num_hidden_layers=3))
        for kind, kept in (("layers=1,", [0, 2]), ("layers=0,2", [1])):
            with self.subTest(kind):
                report = self.cut(llama(num_hidden_layers=3), kind, name=kind, flags=["--compensate", "false"])
                after = self.weights(kind)
                self.assertEqual(self.config(kind)["num_hidden_layers"], len(kept))
                self.assertEqual(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
                for number, source in enumerate(kept):
                    for name in before:
                        if name.startswith(f"model.layers.{source}."):
                            self.assertEqual(after[name.replace(f".{source}.", f".{number}.")], before[name])
                self.assertEqual(len(after), 2 + 9 * len(kept))
                self.assertEqual(report["steps"][1]["details"]["removed"]["layers"]["kept"], kept)
                self.assertTrue(all(t["sqnr_db"] is None and t["max_error"] == 0 for t in report["tensors"]))  # each compared with its own source
        report = self.json(*self.run_of(llama(num_hidden_layers=3), "layers=1", flags=["--importance", "block-influence"]))
        influence = report["steps"][1]["details"]["block_influence"]
        self.assertEqual(report["steps"][1]["details"]["removed"]["layers"]["kept"], highest(influence, 2))
        self.assertTrue(all(0 < x < 2 for x in influence))

    def test_a_block_that_does_nothing_goes_first(self):
        model = make_llama(self.dir / "model", num_hidden_layers=3)
        tensors, _ = read_safetensors(model)
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.1.{part}.weight"
            tensors[name] = tensors[name]._replace(raw=bytes(len(tensors[name].raw)))
        support.write_safetensors(model / "model.safetensors", tensors)
        report = self.cut(model, "layers=1")
        self.assertEqual(report["steps"][1]["details"]["removed"]["layers"]["kept"], [0, 2])
        self.assertLess(report["quality"]["kl_mean"], 1e-6)  # f32 rounding of the refitted weights

    def test_shares_leave_multiples_of_32_and_counts_are_exact(self):
        for kind, left in (("ffn=30%", 544), ("ffn=100", 668)):
            self.cut(support.quill(), kind, name=kind, flags=["--importance", "magnitude", "--compensate", "false"])
            self.assertEqual(self.config(kind)["intermediate_size"], left)


@support.long_under_sanitizers
class Compensation(Structured):
    def test_fitting_lowers_the_divergence(self):
        for kinds in (["ffn=30%"], ["heads=50%"], ["hidden=12.5%"], ["layers=1"], ["ffn=20%", "layers=4,"]):
            with self.subTest(kinds):
                kl = {}
                for compensate in ("true", "false"):
                    flags = ["--compensate", compensate, "--nsamples", 24, "--seqlen", 256, "--importance", "block-influence" if kinds == ["layers=1"] else "activation"]
                    report = self.cut(support.quill(), *kinds, name="-".join(kinds) + compensate, flags=flags)
                    kl[compensate] = report["quality"]["kl_mean"]
                self.assertLess(kl["true"], 0.9 * kl["false"])
                layers = report["steps"][1]["details"].get("layers", [])
                self.assertTrue(all(0 <= layer["removed_error"] < 1 for layer in layers))

    @covers("prune", "--damping")
    def test_importance(self):
        """Divergence on quill: magnitude > activation > loss, and magnitude > taylor."""
        kl = [self.cut(support.quill(), "ffn=30%", name=importance, flags=["--importance", importance, "--nsamples", 24, "--seqlen", 256, "--damping", "0.01"])["quality"]["kl_mean"] for importance in ("loss", "activation", "magnitude", "taylor")]
        self.assertEqual(sorted(kl[:3]), kl[:3])
        self.assertLess(kl[3], 0.8 * kl[2])

    def test_same_bytes_for_any_number_of_threads_and_after_a_stop(self):
        kinds, weights = ["ffn=20%", "heads=50%", "hidden=12.5%", "layers=1"], lambda name: (self.dir / name / "model.safetensors").read_bytes()
        first = self.cut(support.quill(), *kinds, name="first", flags=["--threads", 1, "--resume", self.dir / "state"])
        again = self.cut(support.quill(), *kinds, name="again", flags=["--resume", self.dir / "state"])  # every block comes from the state
        self.cut(support.quill(), *kinds, name="spilled", flags=["--max-memory", "1MB"])
        self.json("compress", support.quill(), "-o", self.dir / "recipe", "--recipe", self.dir / "first" / "recipe.yaml", "--max-windows", 2)
        for name in ("again", "spilled", "recipe"):
            self.assertEqual(weights("first"), weights(name), name)
        self.assertEqual(first["steps"][1]["details"], again["steps"][1]["details"])


class Recipes(Structured):
    def compress(self, *steps, name="out", extra=()):
        recipe = self.dir / f"{name}.yaml"
        recipe.write_text("version: 1\ncalibration: {nsamples: 4, seqlen: 64}\nsteps:\n" + "".join(f"- {step}\n" for step in steps))
        return ["compress", support.quill(), "-o", self.dir / name, "--recipe", recipe, "--max-windows", 2, *extra]

    @support.long_under_sanitizers
    def test_quantized_afterwards(self):
        """The later step meets the smaller model, in the plan and in the run."""
        steps = ("{pass: prune.structured, layers: [2], ffn: 0.3}", "{pass: quantize.gptq, scheme: W4A16-g32}")
        report = self.json(*self.compress(*steps))
        self.assertEqual([self.config()[key] for key in ("num_hidden_layers", "intermediate_size")], [7, 544])
        self.assertEqual(treatments(report)["model.layers.6.mlp.down_proj.weight"], "channels 768 → 544, refitted + W4A16-g32-symmetric")
        self.assertEqual(treatments(report)["model.layers.6.self_attn.q_proj.weight"], "refitted + W4A16-g32-symmetric")
        plan = self.json(*self.compress(*steps, name="plan", extra=["--dry-run"]))
        self.assertEqual({t["name"]: t["shape"] for t in plan["tensors"]}, {t["name"]: t["shape"] for t in report["tensors"]})
        self.assertEqual({t["name"]: t["treatment"] for t in plan["tensors"]}, treatments(report))
        self.assertLess(abs(plan["estimated_bytes"] / report["artifact"]["bytes"] - 1), 0.05)
        self.ok("evaluate", self.dir / "out", "--reference", support.quill(), "--max-windows", 1)

    def test_refused_orders(self):
        for steps, words in ((("{pass: quantize.rtn, scheme: W4A16-g32}", "{pass: prune.structured, ffn: 0.3, compensate: false}"), ["already quantized when prune.structured comes to it"]),
                             (("{pass: prune.structured, ffn: 0.3, compensate: false}", "{pass: quantize.rtn, scheme: W4A16-g128}"), ["rows of 544", "group size 128"]),
                             (("{pass: prune.magnitude, sparsity: 0.5}", "{pass: prune.structured, ffn: 0.3}"), ["is pruned, and compensation would fill its zeros"])):
            with self.subTest(steps):
                self.refused(2, words, *self.compress(*steps, name="no"))
                self.assertFalse((self.dir / "no").exists())


class Vocabulary(Structured):
    TEXT = "The little dog ran to the red house. It was a very happy dog, and the house was warm.\n"

    def setUp(self):
        super().setUp()
        self.text = self.dir / "texts.txt"
        self.text.write_text(self.TEXT)

    def tokens(self, folder):
        """Token → id of a tokenizer.json."""
        return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]

    def test_tokens_that_texts_do_not_use_go(self):
        report = self.json("prune", support.quill(), "-o", self.dir / "out", "--structured", f"vocab={self.text}", "--max-windows", 2)
        before, after = self.tokens(support.quill()), self.tokens(self.dir / "out")
        size = self.config()["vocab_size"]
        self.assertEqual(sorted(after.values()), list(range(size)))
        self.assertTrue(256 < size < 600)
        self.assertEqual(sorted(after, key=after.get), sorted(after, key=before.get))  # the order of the ids stays
        kept = sorted(before[token] for token in after)
        old, new = (read_safetensors(folder)[0]["model.embed_tokens.weight"].rows() for folder in (support.quill(), self.dir / "out"))
        self.assertEqual(new, [old[i] for i in kept])
        self.assertEqual([self.config()[key] for key in ("bos_token_id", "eos_token_id")], [after["<|endoftext|>"]] * 2)
        self.assertEqual(json.loads((self.dir / "out" / "generation_config.json").read_text())["eos_token_id"], after["<|endoftext|>"])
        self.assertEqual(report["steps"][0]["details"]["removed"], {"vocabulary": {"before": 4096, "after": size}})
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], f"tokens 4096 → {size}")
        self.assertTrue(any(f"from 4096 to {size} tokens" in note and "over the tokens that stayed" in note for note in report["notes"]))
        self.assertTrue(0 < report["quality"]["shared_probability"] < 1)
        self.assertGreater(report["quality"]["kl_mean"], -1e-9)
        self.assertLess(report["quality"]["kl_mean"], 1e-6)  # the logits that are left are the same
        again = self.json("compress", support.quill(), "-o", self.dir / "again", "--recipe", self.dir / "out" / "recipe.yaml", "--max-windows", 2)
        self.assertEqual(again["quality"], report["quality"])
        self.ok("evaluate", self.dir / "out", "--max-windows", 1)
        self.refused(3, ["vocabulary of"], "evaluate", self.dir / "out", "--reference", support.quill(), "--max-windows", 1)

    def test_with_other_steps(self):
        """Calibration and judging go by the smaller tokenizer."""
        report = self.json("prune", support.quill(), "-o", self.dir / "out", "--untie", "--structured", f"vocab={self.text}", "--structured", "layers=3,", "--structured", "ffn=25%", "--nsamples", 4, "--seqlen", 64, "--max-windows", 2)
        size = self.config()["vocab_size"]
        self.assertEqual({t["name"]: t["shape"] for t in report["tensors"]}["lm_head.weight"], [size, 256])
        self.assertEqual(report["steps"][1]["details"]["removed"]["layers"]["kept"], [0, 1, 2, 4, 5, 6, 7])
        plan = self.json("prune", support.quill(), "-o", self.dir / "plan", "--structured", f"vocab={self.text}", "--dry-run")
        self.assertEqual(plan["tensors"][0]["shape"], [size, 256])

    def test_refusals(self):
        run = lambda *flags: ["prune", support.quill(), "-o", self.dir / "no", *flags]
        vocab = ["--structured", f"vocab={self.text}"]
        self.refused(2, ["--nsamples", "vocab alone"], *run(*vocab, "--nsamples", 2))
        self.refused(2, ["--compensate", "vocab alone"], *run(*vocab, "--compensate", "true"))
        self.refused(2, ["--heal, --heal-epochs, --heal-scope", "vocab alone"], *run(*vocab, "--heal", "--heal-epochs", 2, "--heal-scope", "block"))
        self.refused(2, ["expected a file of text"], *run("--structured", "vocab="))
        self.refused(3, ["absent.txt"], *run("--structured", f"vocab={self.dir / 'absent.txt'}"))
        self.refused(2, ["holds token ids of the whole vocabulary", "give text"], *run(*vocab, "--eval-data", ids()))
        self.refused(3, ["tokenizer.json", "dropping tokens needs it"], "prune", llama(), "-o", self.dir / "no", *vocab, "--eval-data", ids())
        everything = support.write_ids(self.dir / "all.u16", range(4096))
        self.refused(2, ["use all 4096 tokens"], *run("--structured", f"vocab={everything}"))


class Refusals(Structured):
    def test_what_cannot_be_done(self):
        gpt2 = tiny("gpt2-tied")
        for model, kind, words in ((llama(), "ffn", ["KIND=AMOUNT", "found 'ffn'"]), (llama(), "fnn=2", ["KIND=AMOUNT", 'did you mean "ffn"']), (llama(), "ffn=x", ["ffn", "expected a share", "found 'x'"]), (llama(), "ffn=0", ["expected a share"]),
                                   (llama(), "ffn=48", ["0 of 48 feed-forward channels would stay; expected 1 to 48"]), (llama(), "ffn=0.1%", ["ffn: 0.001 removes nothing"]), (llama(), "ffn=1,2", ["named only for layers"]),
                                   (llama(), "heads=30%", ["30 % of 2 key/value groups is 0.6", "such as 50%"]), (llama(), "hidden=1", ["hidden_size 31 would be no multiple of num_attention_heads 4"]), (gpt2, "hidden=25%", ["n_embd / n_head"]), (llama(), "heads=1", ["multiple of 2, found 1"]), (llama(), "heads=4", ["0 of 2 key/value groups"]),
                                   (support.quill(), "heads=25%", ["hidden_size 256 would be no multiple of num_attention_heads 6", "LlamaForCausalLM"]),
                                   (gpt2, "heads=50%", ["gpt2 has no field for the size of a head, which is n_embd / n_head"]),
                                   (llama(), "layers=0,1", ["0 of 2 blocks would stay"]), (llama(), "layers=5,", ["no layer 5; expected 0 to 1"]), (llama(), "layers=1,1", ["names one twice"])):
            with self.subTest(kind):
                self.refused(2, words, "prune", model, "-o", self.dir / "no", "--structured", kind, *(["--eval-data", gpt2 / "input_ids.npy" if model == gpt2 else ids()] if model != support.quill() else []), "--importance" if "layers" not in kind else "--compensate", "magnitude" if "layers" not in kind else "false", *(["--compensate", "false"] if "layers" not in kind else []))
                self.assertFalse((self.dir / "no").exists())

    def test_flags_that_do_not_go_together(self):
        run = lambda *flags: ["prune", llama(), "-o", self.dir / "no", "--eval-data", ids(), *flags]
        for flags, words in ((["--structured", "ffn=50%", "--sparsity", "0.5", "--scope", "row"], ["--sparsity, --scope", "with --structured"]), (["--sparsity", "0.5", "--importance", "loss"], ["--importance", "without --structured"]),
                             (["--structured", "ffn=50%", "--allocation", "owl"], ["--allocation makes no sense with --structured", "config.json has one number"]),
                             (["--structured", "ffn=50%", "--structured", "ffn=1"], ["ffn is given twice"]), (["--structured", "ffn=50%", "--method", "wanda"], ["--method wanda"]), (["--method", "structured"], ["say what goes by --structured"]),
                             (["--structured", "ffn=50%", "--importance", "size"], ["importance 'size' is not known"]), (["--structured", "ffn=50%", "--importance", "block-influence"], ["ranks layers only"]),
                             (["--structured", "layers=1", "--importance", "loss"], ["layers go by block-influence"]), (["--structured", "ffn=50%", "--damping", "2"], ["damping", "found 2"]),
                             (["--structured", "ffn=50%", "--importance", "magnitude", "--compensate", "false", "--damping", "0.1"], ["damping makes sense only with compensate"]),
                             (["--structured", "ffn=50%", "--importance", "magnitude", "--compensate", "false", "--nsamples", 4], ["--nsamples makes no sense"])):
            with self.subTest(flags):
                self.refused(2, words, *run(*flags))


if __name__ == "__main__":
    support.main()
