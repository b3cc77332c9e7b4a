"""llmc generate: prompts, endings, sampling, and what is refused; and questions for llmc evaluate."""

import json
import math
import shutil

import support
from support import Case, covers, ids, llama, make_llama, quill, read_gguf, read_npy, tiny, write_checkpoint, write_gguf, write_npy


class Generate(Case):
    def tokens(self, *args):
        return [sample["tokens"] for sample in self.json("generate", *args)["samples"]]

    @covers("generate", "--prompt-ids", "--max-new-tokens", "--json")
    def test_the_likeliest_tokens(self):
        """Each is the first among the highest logits that evaluate writes for the sequence before it."""
        sequence = [5, 40, 11]
        result = self.json("generate", llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 6)
        self.assertEqual(result["prompt"], {"tokens": sequence, "text": None})
        sample, = result["samples"]
        self.assertEqual((len(sample["tokens"]), sample["ending"], sample["text"]), (6, "max-new-tokens", None))
        for token in sample["tokens"]:
            self.ok("evaluate", llama(), "--data", write_npy(self.dir / "so_far.npy", [sequence]), "--logits", self.dir / "logits.npy")
            last = read_npy(self.dir / "logits.npy")[1][-64:]
            self.assertAlmostEqual(last[token], max(last), delta=1e-4)  # sums in another order
            sequence.append(token)
        self.assertEqual(self.ok("generate", llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 6).out, ",".join(map(str, sequence[3:])) + "\n")
        for text in ("5,,1", "a", "5,64", "-1", "5,", "5 1"):
            self.refused(2, ["--prompt-ids", "from 0 to 63"], "generate", llama(), f"--prompt-ids={text}")
        self.refused(2, ["--max-new-tokens"], "generate", llama(), "--prompt-ids", 5, "--max-new-tokens", 0)
        self.refused(3, ["65 tokens", "context of 64"], "generate", llama(), "--prompt-ids", ",".join("5" * 65))
        full = self.json("generate", llama(), "--prompt-ids", ",".join("5" * 60))["samples"][0]
        self.assertEqual((len(full["tokens"]), full["ending"]), (4, "context"))

    @covers("generate", "--prompt", "--prompt-file")
    def test_prompts(self):
        told = self.ok("generate", quill(), "--prompt", "The king and the", "--max-new-tokens", 12).out
        result = self.json("generate", quill(), "--prompt", "The king and the", "--max-new-tokens", 12)
        self.assertEqual(result["samples"][0]["text"] + "\n", told)
        self.assertGreater(len(told.split()), 3)
        (self.dir / "prompt.txt").write_text("The king and the")
        self.assertEqual(self.ok("generate", quill(), "--prompt-file", self.dir / "prompt.txt", "--max-new-tokens", 12).out, told)
        begun = self.json("generate", quill(), "--max-new-tokens", 3)
        self.assertEqual(begun["prompt"]["tokens"], [0])  # bos_token_id
        self.refused(2, ["begin with", "--prompt"], "generate", llama())
        self.refused(3, ["tokenizer.json", "--prompt-ids"], "generate", llama(), "--prompt", "Hello")
        self.refused(3, ["absent.txt"], "generate", quill(), "--prompt-file", self.dir / "absent.txt")
        (self.dir / "damaged.txt").write_bytes(b"The \xff")
        self.refused(3, ["damaged.txt", "UTF-8"], "generate", quill(), "--prompt-file", self.dir / "damaged.txt")
        self.refused(2, ["--prompt"], "generate", quill(), "--prompt", "a", "--prompt-ids", "1")
        self.refused(2, ["--prompt"], "generate", quill(), "--prompt", "")

    @covers("generate", "--ignore-eos")
    def test_ends_where_the_model_says(self):
        free, = self.tokens(llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 8)
        ended = self.dir / "ended"
        shutil.copytree(llama(), ended)
        config = json.loads((ended / "config.json").read_text())
        (ended / "config.json").write_text(json.dumps({**config, "eos_token_id": [63, free[3]]}))
        sample = self.json("generate", ended, "--prompt-ids", "5,40,11", "--max-new-tokens", 8)["samples"][0]
        self.assertEqual((sample["tokens"], sample["ending"]), (free[:free.index(free[3]) + 1], "eos"))
        self.assertEqual(self.tokens(ended, "--prompt-ids", "5,40,11", "--max-new-tokens", 8, "--ignore-eos"), [free])
        (ended / "generation_config.json").write_text(json.dumps({"eos_token_id": 64}))  # names no token: config.json's hold
        self.assertEqual(self.json("generate", ended, "--prompt-ids", "5,40,11", "--max-new-tokens", 8)["samples"][0]["ending"], "eos")
        (ended / "generation_config.json").write_text(json.dumps({"eos_token_id": free[0]}))
        self.assertEqual(self.tokens(ended, "--prompt-ids", "5,40,11", "--max-new-tokens", 8), [free[:1]])
        for damaged, word in (('{"eos_token_id": "x"}', "eos_token_id"), ("[]", "object"), ("{", "generation_config.json")):
            (ended / "generation_config.json").write_text(damaged)
            self.refused(3, ["generation_config.json", word], "generate", ended, "--prompt-ids", "5")

    @covers("generate", "--temperature", "--top-k", "--top-p", "--seed", "--samples")
    def test_sampling(self):
        run = [llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 12]
        free, = self.tokens(*run)
        drawn = self.tokens(*run, "--temperature", 1, "--samples", 3)
        self.assertEqual(len({tuple(tokens) for tokens in drawn}), 3)
        self.assertEqual(drawn, self.tokens(*run, "--temperature", 1, "--samples", 3, "--seed", 0))
        self.assertNotEqual(drawn, self.tokens(*run, "--temperature", 1, "--samples", 3, "--seed", 1))
        self.assertEqual(self.tokens(*run, "--temperature", 1, "--top-k", 1), [free])
        self.assertEqual(self.tokens(*run, "--temperature", 1, "--top-p", 1e-6), [free])
        self.assertEqual(self.tokens(*run, "--temperature", 1e-4), [free])
        self.assertNotEqual(self.tokens(*run, "--temperature", 1, "--samples", 3, "--top-k", 3), drawn)
        self.assertNotEqual(self.tokens(*run, "--temperature", 1, "--samples", 3, "--top-p", 0.3), drawn)
        told = self.ok("generate", *run, "--temperature", 1, "--samples", 2).out
        self.assertEqual(told, f"--- 1\n{','.join(map(str, drawn[0]))}\n\n--- 2\n{','.join(map(str, drawn[1]))}\n")
        for flag, value in (("--top-k", 3), ("--top-p", 0.5), ("--seed", 1), ("--samples", 2)):
            self.refused(2, [flag, "--temperature above 0"], "generate", *run, flag, value)
        for flag, value in (("--temperature", -1), ("--top-k", -1), ("--top-p", 0), ("--top-p", 1.5), ("--seed", -1), ("--samples", 0)):
            self.refused(2, [flag], "generate", *run, *([] if flag == "--temperature" else ["--temperature", 1]), flag, value)

    @covers("generate", "--precision", "--threads", "--quiet", "--verbose")
    def test_how_it_runs(self):
        run = [quill(), "--prompt", "The king", "--max-new-tokens", 8]
        tokens = self.tokens(*run)
        self.assertEqual(self.tokens(*run, "--threads", 1), tokens)
        self.assertEqual(self.tokens(*run, "--threads", 5), tokens)
        for flags, precision in (([], "f32"), (["--precision", "bf16"], "bf16")):
            result = self.json("generate", *run, *flags)
            self.assertEqual((result["precision"], len(result["samples"][0]["tokens"])), (precision, 8))
        self.refused(2, ["--precision", "'f64'"], "generate", *run, "--precision", "f64")
        self.assertEqual(self.ok("generate", *run, "--quiet").err, "")
        self.assertIn("generate", self.ok("generate", *run, "--verbose").err)

    @covers("generate", "--ignore-config-field")
    def test_ignored_config_fields(self):
        model = self.dir / "odd"
        shutil.copytree(llama(), model)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "glow": 1}))
        self.refused(3, ["glow"], "generate", model, "--prompt-ids", "1")
        self.ok("generate", model, "--prompt-ids", "1", "--ignore-config-field", "glow")

    def test_what_is_wrong_is_said_before_the_model_is_read(self):
        self.refused(3, ["absent.txt"], "generate", self.dir / "absent", "--prompt-file", self.dir / "absent.txt")
        self.refused(2, ["--precision", "'f64'"], "generate", self.dir / "absent", "--prompt", "a", "--precision", "f64")

    def test_ids_that_no_token_has(self):
        """A model may have more of them than its tokenizer: they stand for no text."""
        tokens = self.tokens(llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 4)[0]
        model = self.dir / "model"
        shutil.copytree(llama(), model)
        vocab = {chr(0x61 + i): i for i in range(64) if i not in (40, tokens[1])}
        (model / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"}, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}}))
        result = self.json("generate", model, "--prompt-ids", "5,40,11", "--max-new-tokens", 4)
        text = lambda ids: "".join(chr(0x61 + i) for i in ids if i in vocab.values())
        self.assertEqual((result["prompt"]["text"], result["samples"][0]["tokens"], result["samples"][0]["text"]), (text([5, 40, 11]), tokens, text(tokens)))

    def test_a_refused_tokenizer_is_needed_for_text_alone(self):
        model = self.dir / "model"
        shutil.copytree(llama(), model)
        (model / "tokenizer.json").write_text('{"model": {"type": "Riddle"}}')
        told = self.ok("generate", model, "--prompt-ids", "5,40,11", "--max-new-tokens", 4)
        self.assertEqual(told.out, self.ok("generate", llama(), "--prompt-ids", "5,40,11", "--max-new-tokens", 4).out)
        self.assertIn("Riddle", told.err)
        self.refused(3, ["tokenizer.json", "Riddle"], "generate", model, "--prompt", "a")
        self.ok("imatrix", model, "-o", self.dir / "out.gguf", "--calibration", ids(), "--nsamples", 2)
        self.refused(3, ["tokenizer.json", "Riddle"], "imatrix", model, "-o", self.dir / "no.gguf")

    def test_a_prompt_that_ends_inside_a_character(self):
        """The text behind it begins with the character, and holds nothing of the prompt."""
        model = self.dir / "model"
        shutil.copytree(llama(), model)
        for prompt in range(4, 64):
            (written,), = self.tokens(llama(), "--prompt-ids", f"3,{prompt}", "--max-new-tokens", 1)
            if written not in (3, prompt):
                break
        vocab = {chr(0x30 + i): i for i in range(64)}  # of one byte each
        for token, i in (("a", 3), ("\u00c3", prompt), ("\u00a9", written)):  # é is C3 A9
            vocab = {t: n for t, n in vocab.items() if n != i and t != token} | {token: i}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        (model / "tokenizer.json").write_text(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}))
        result = self.json("generate", model, "--prompt-ids", f"3,{prompt}", "--max-new-tokens", 1)
        self.assertEqual((result["prompt"]["text"], result["samples"][0]["text"]), ("a\ufffd", "\u00e9"))

    def test_tokens_that_end_turns_in_gguf_files(self):
        """As llama.cpp: tokenizer.ggml.eot_token_id and eom_token_id beside the eos."""
        self.ok("convert", llama(), "-o", self.dir / "a.gguf", "--type", "F32", "--eval-data", ids())
        keys, tensors = read_gguf(self.dir / "a.gguf")
        kinds = {str: 8, bool: 7, int: 4, float: 6}
        run = ["--prompt-ids", "5,40,11", "--max-new-tokens", 8]
        free, = self.tokens(self.dir / "a.gguf", *run)
        for key in ("eos", "eot", "eom"):
            others = {f"tokenizer.ggml.{other}_token_id": (4, 63) for other in ("eos", "eot", "eom") if other != key}
            write_gguf(self.dir / "b.gguf", {k: (kinds[type(value)], value) for k, value in keys.items()} | others | {f"tokenizer.ggml.{key}_token_id": (4, free[3])}, tensors)
            sample = self.json("generate", self.dir / "b.gguf", *run)["samples"][0]
            self.assertEqual((sample["tokens"], sample["ending"]), (free[:free.index(free[3]) + 1], "eos"), key)

    def test_artifacts_and_gguf_files(self):
        prompt = ["--prompt", "The king", "--max-new-tokens", 6]
        self.ok("quantize", quill(), "-o", self.dir / "q8", "--bits", 8, "--max-windows", 1)
        self.ok("convert", quill(), "-o", self.dir / "q.gguf", "--type", "F32", "--max-windows", 1)
        expected = self.tokens(quill(), *prompt)
        self.assertEqual(self.tokens(self.dir / "q.gguf", *prompt), expected)
        self.assertEqual(len(self.tokens(self.dir / "q8", *prompt)[0]), 6)


class Choices(Case):
    def questions(self, *questions, name="q.jsonl"):
        (self.dir / name).write_text("".join(json.dumps(q) + "\n" for q in questions))
        return self.dir / name

    PAIRS = [{"sentence_good": f"The {a} {good} here.", "sentence_bad": f"The {a} {bad} here.", "UID": "x"} for a in ("king", "queen", "child") for good, bad in (("is", "are"), ("was", "were"), ("has been", "have been"))]

    def test_nan_is_no_wrong_answer(self):
        """A model without scores has no accuracy, and agrees with none."""
        tensors, _ = support.read_safetensors(quill())
        width = tensors["model.norm.weight"].shape[0]
        broken = self.dir / "broken"
        shutil.copytree(quill(), broken)
        write_checkpoint(broken, json.loads((quill() / "config.json").read_text()), {**tensors, "model.norm.weight": support.floats(tensors["model.norm.weight"].dtype, [width], [3e38] * width)})
        pairs = self.questions(*self.PAIRS)
        for models in ([broken, "--reference", quill()], [quill(), "--reference", broken], [broken, "--reference", broken]):
            with self.subTest(models=models):
                told = self.ok("evaluate", *models, "--choices", pairs, "--json", code=1)
                self.assertIn(f"{broken}: the share of right answers of {pairs} is nan", told.err)
                answers = json.loads(told.out)["models"][0]["choices"][0]
                self.assertEqual(answers["accuracy"]["value"] is None, models[0] == broken)
                comparison = answers["comparisons"][0]
                self.assertEqual((comparison["agreement"], comparison["difference"], comparison["reference_accuracy"] is None), (None, None, models[2] == broken))
                self.ok("evaluate", *models, "--choices", pairs, code=1)

    @covers("evaluate", "--choices")
    def test_choices(self):
        pairs = self.questions(*self.PAIRS)
        asked = self.questions({"context": "Once upon a", "choices": [" of", " time", " the"], "answer": 1}, {"context": "He went into the", "choices": [" room", " went"], "answer": 1}, name="asked.jsonl")
        result = self.json("evaluate", quill(), "--choices", pairs, asked)
        self.assertIsNone(result["quality"])
        of_pairs, of_asked = result["models"][0]["choices"]
        self.assertEqual((of_pairs["data"], of_pairs["questions"], of_pairs["starts_with_bos"]), (str(pairs), 9, True))
        self.assertGreaterEqual(of_pairs["accuracy"]["value"], 7 / 9)  # it learned that much English
        self.assertEqual(of_asked["accuracy"]["value"], 0.5)
        self.assertTrue(0 <= of_pairs["accuracy"]["low"] < of_pairs["accuracy"]["value"] <= of_pairs["accuracy"]["high"] <= 1)
        turned = self.questions(*[{"sentence_good": p["sentence_bad"], "sentence_bad": p["sentence_good"]} for p in self.PAIRS], name="turned.jsonl")
        self.assertAlmostEqual(self.json("evaluate", quill(), "--choices", turned)["models"][0]["choices"][0]["accuracy"]["value"], 1 - of_pairs["accuracy"]["value"])

        self.ok("quantize", quill(), "-o", self.dir / "out", "--bits", 2, "--max-windows", 1)
        beside = self.json("evaluate", self.dir / "out", "--reference", quill(), "--choices", pairs)["models"][0]["choices"][0]
        comparison, = beside["comparisons"]
        self.assertEqual(comparison["reference_accuracy"], of_pairs["accuracy"]["value"])
        self.assertAlmostEqual(comparison["difference"], beside["accuracy"]["value"] - of_pairs["accuracy"]["value"])
        told = self.ok("evaluate", self.dir / "out", "--reference", quill(), "--choices", pairs).out
        self.assertIn(f"9 questions of {pairs}", told)
        self.assertIn("agreement", told)

        both = self.json("evaluate", quill(), "--choices", pairs, "--data", quill() / "held_out.txt", "--max-windows", 1)
        self.assertIsNotNone(both["quality"]["perplexity"])
        self.assertEqual(both["models"][0]["choices"], [of_pairs])
        self.refused(3, ["q.jsonl:2", "at least two choices"], "evaluate", quill(), "--choices", self.questions(self.PAIRS[0], {"text": "x"}))
        self.refused(3, ["absent.jsonl"], "evaluate", quill(), "--choices", self.dir / "absent.jsonl")
        self.refused(3, ["tokenizer.json", "asked.jsonl"], "evaluate", llama(), "--choices", asked)
        for flags in (["--logits", self.dir / "x.npy"], ["--hidden-errors", "--reference", quill()], ["--seqlen", 8], ["--stride", 8], ["--convention", "all"], ["--max-windows", 2], ["--seed", 1]):
            self.refused(2, [flags[0], "--data"], "evaluate", quill(), "--choices", asked, *flags)
        self.refused(3, ["q.jsonl:1", "both"], "evaluate", quill(), "--choices", self.questions({**self.PAIRS[0], "choices": ["a", "b"], "answer": 0}))

    def test_json_has_one_shape(self):
        """Whatever was asked, and of whatever reference."""
        one = self.questions(self.PAIRS[0])
        keys = ["choices", "comparisons", "model", "oracle", "other_tokens", "quality", "sparse_products"]
        for flags in ([], ["--reference", quill()], ["--choices", one], ["--choices", one, "--reference", quill()], ["--choices", one, "--reference", quill(), "--data", quill() / "held_out.txt"]):
            text = [] if "--choices" in flags and "--data" not in flags else ["--max-windows", 1, "--seqlen", 16]
            model, = self.json("evaluate", quill(), *flags, *text)["models"]
            self.assertEqual(sorted(model), keys)
            self.assertEqual((model["quality"] is None, model["oracle"] is None), (not text, not text))
            self.assertEqual([c["reference"] for c in model["comparisons"]], [str(quill())] if text and "--reference" in flags else [])
            for choice in model["choices"]:
                self.assertEqual([(c["reference"], c["difference"], c["difference_standard_error"]) for c in choice["comparisons"]], [(str(quill()), 0, None)] if "--reference" in flags else [])
        self.assertIn(f"1 question of {one}", self.ok("evaluate", quill(), "--choices", one).out)

    def test_files_are_read_before_models_run(self):
        good, bad = self.questions(self.PAIRS[0]), self.questions({"text": "x"}, name="bad.jsonl")
        refusal = self.refused(3, ["bad.jsonl:1"], "evaluate", quill(), "--choices", good, bad, "--data", quill() / "held_out.txt", "--max-windows", 1)
        self.assertNotIn("evaluate:", refusal.err)  # no stage of it was run

    def test_questions_that_every_model_takes(self):
        short = self.dir / "short"
        shutil.copytree(quill(), short)
        config = json.loads((short / "config.json").read_text())
        (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
        long = self.questions({"context": "One and two and three and four and", "choices": [" five", " six"], "answer": 0})
        self.ok("evaluate", quill(), "--choices", long)
        for args in ([quill(), short], [quill(), "--reference", short]):
            self.refused(3, ["q.jsonl:1", "context of 8"], "evaluate", *args, "--choices", long)


class SideBySide(Case):
    @covers("evaluate", "--reference", "--hidden-errors")
    def test_any_number_of_models(self):
        other, third = make_llama(self.dir / "other", seed=2), make_llama(self.dir / "third", seed=3)
        result = self.json("evaluate", llama(), other, "--reference", third, llama(), "--data", ids(), "--hidden-errors")
        self.assertEqual([m["model"] for m in result["models"]], [str(llama()), str(other)])
        for model, path in zip(result["models"], (llama(), other)):
            self.assertEqual([c["reference"] for c in model["comparisons"]], [str(third), str(llama())])
            for comparison, reference in zip(model["comparisons"], (third, llama())):
                alone = self.json("evaluate", path, "--reference", reference, "--data", ids())
                for key in ("kl_mean", "kl_p99", "top1_agreement", "reference_perplexity", "perplexity_increase"):
                    self.assertEqual(comparison[key], alone["quality"][key], (path, reference, key))
                self.assertEqual(model["quality"]["perplexity"], alone["quality"]["perplexity"])
                self.assertNotIn("hidden_errors", alone["models"][0]["comparisons"][0])
                errors = comparison["hidden_errors"]
                self.assertEqual(len(errors), 2)
                for error in errors:
                    self.assertEqual(error["relative_error"] == 0, path == reference)
                    self.assertEqual(math.isclose(error["cosine"], 1), path == reference)
        self.assertEqual((result["model"], result["reference"], result["quality"]), (str(llama()), str(third), result["models"][0]["quality"]))
        told = self.ok("evaluate", llama(), other, "--reference", third, llama(), "--data", ids(), "--hidden-errors").out
        for text in (str(other), "KL divergence", "block 1", "cosine", f"{result['models'][1]['quality']['perplexity']:.4f}"):
            self.assertIn(text, told)
        self.refused(2, ["--hidden-errors", "--reference"], "evaluate", llama(), "--data", ids(), "--hidden-errors")
        self.refused(2, ["hidden states", "2 blocks", "1 blocks"], "evaluate", llama(), "--reference", make_llama(self.dir / "short", num_hidden_layers=1), "--data", ids(), "--hidden-errors")
        self.refused(3, ["vocabulary of 80"], "evaluate", llama(), make_llama(self.dir / "wide", vocab_size=80), "--data", ids())


if __name__ == "__main__":
    support.main()
