"""What changes weights without changing the model: rotations, and a head of its own."""

import json

import support
from support import COMPRESSING, Case, covers, ids, llama, read_safetensors, tiny, treatments

ROTATED = """\
version: 1
untie_head: true
steps:
  - pass: transform.rotate
    space: all
    seed: 3
"""


class Transform(Case):
    def data(self, model):
        return ids() if model == llama() else model / "input_ids.npy"

    def run_json(self, command, model, *flags, name="out"):
        return self.json(command, model, "-o", self.dir / name, "--eval-data", self.data(model), *flags)

    def write(self, name, text):
        (self.dir / name).write_text(text)
        return self.dir / name


class Rotation(Transform):
    @covers("quantize", "--rotate")
    def test_rotated_values_are_the_same_model(self):
        model = llama()
        plain = self.run_json("quantize", model, "--bits", 8, name="plain")
        report = self.run_json("quantize", model, "--bits", 8, "--rotate", "values")
        self.assertEqual([s["pass"] for s in report["recipe"]["steps"]], ["transform.rotate", "quantize.rtn"])
        moved = {t["name"] for t in report["tensors"] if t["moved"]}
        self.assertEqual({name.split(".", 3)[3] for name in moved}, {"self_attn.v_proj.weight", "self_attn.o_proj.weight"})
        for tensor in report["tensors"]:
            self.assertEqual(tensor["max_error"] is None, tensor["moved"], tensor["name"])  # nothing to compare it with
        self.assertEqual(treatments(report)["model.layers.0.self_attn.v_proj.weight"], "rotated + W8A16-channel-symmetric")
        self.assertLess(report["quality"]["kl_mean"], 2 * plain["quality"]["kl_mean"])  # other weights, rounded as finely
        before, after = (read_safetensors(self.dir / name)[0]["model.layers.0.self_attn.v_proj.weight"] for name in ("plain", "out"))
        self.assertNotEqual(before, after)
        self.assertEqual([t["moved"] for t in plain["tensors"]], [False] * len(plain["tensors"]))
        self.refused(2, ["--rotate", "'some'", "values, residual or all"], "quantize", model, "-o", self.dir / "no", "--bits", 8, "--rotate", "some", "--eval-data", ids())

    @covers(COMPRESSING, "--untie")
    def test_a_tied_head_must_be_untied_for_the_residual_stream(self):
        model = tiny("llama-gqa-tied")
        refusal = self.refused(2, ["model.norm.weight", "tied to the embedding", "--untie", "untie_head: true"], "quantize", model, "-o", self.dir / "no", "--bits", 8, "--rotate", "all", "--eval-data", self.data(model))
        self.assertIn("from", refusal.err)
        self.assertFalse((self.dir / "no").exists())
        report = self.run_json("quantize", model, "--bits", 8, "--rotate", "all", "--untie")
        config = json.loads((self.dir / "out" / "config.json").read_text())
        self.assertIs(config["tie_word_embeddings"], False)
        self.assertEqual(config["quantization_config"]["ignore"], ["lm_head"])
        stored, _ = read_safetensors(self.dir / "out")
        self.assertIn("lm_head.weight", stored)
        self.assertNotEqual(stored["lm_head.weight"], stored["model.embed_tokens.weight"])
        self.assertIs(report["recipe"]["untie_head"], True)
        head = next(t for t in report["tensors"] if t["role"] == "output_head")
        self.assertEqual(head["source_bytes"], 0)  # the source has no such tensor
        self.assertLess(report["quality"]["kl_mean"], 1e-2)
        for command, flags in (("prune", ["--sparsity", 0.5]), ("compress", ["--recipe", self.write("r.yaml", "version: 1\nsteps:\n  - {pass: quantize.rtn, scheme: W8A16, output_head: W4A16-g16}\n")])):
            report = self.run_json(command, model, "--untie", *flags, name=command)
            self.assertIn("lm_head.weight", [t["name"] for t in report["tensors"]])
        self.assertEqual(treatments(report)["lm_head.weight"], "W4A16-g16-symmetric")
        self.assertEqual(treatments(report)["model.embed_tokens.weight"], "kept")
        self.refused(2, ["not tied", "--untie"], "quantize", tiny("llama-mha-untied"), "-o", self.dir / "no", "--bits", 8, "--untie", "--eval-data", self.data(model))

    def test_a_rotated_checkpoint_of_every_model_is_the_same_model(self):
        for name in ("llama-gqa-tied", "llama-mha-untied", "llama-headdim", "llama-bias", "gpt2-tied", "gpt2-untied", "gpt2-noprefix", "qwen2-untied", "qwen2-tied", "mistral-window", "qwen3-untied", "qwen3-tied", "phi3-whole", "phi3-part", "stablelm", "stablelm-bias", "stablelm-head-norms", "gemma", "gpt-neox", "gpt-neox-sequential", "opt", "stablelm-parallel", "falcon", "falcon-groups", "falcon-refined", "falcon-one-norm", "phi3-longrope"):
            with self.subTest(name):
                model = tiny(name)
                tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", name.startswith("gpt2"))
                recipe = ROTATED if tied else ROTATED.replace("untie_head: true\n", "")
                report = self.run_json("compress", model, "--recipe", self.write("r.yaml", recipe), name=name)
                self.assertEqual(report["artifact"]["container"], "dense")
                self.assertLess(report["quality"]["kl_mean"], 1e-7)  # f32 weights, and log-softmax of f32 logits: 1e-8
                self.assertLess(report["oracle"]["max_logit_difference"], 1e-4)
                again = self.run_json("compress", model, "--recipe", self.dir / name / "recipe.yaml", name=name + "-again")
                self.assertEqual((self.dir / name / "model.safetensors").read_bytes(), (self.dir / (name + "-again") / "model.safetensors").read_bytes())
                self.assertEqual(again["recipe"], report["recipe"])

    def test_norms_behind_sublayers_keep_the_residual_stream_as_it_is(self):
        for name, tensor in (("olmo2", "post_attention_layernorm.weight"), ("gemma2", "post_feedforward_layernorm.weight"), ("gemma3", "post_attention_layernorm.weight"), ("bloom", "word_embeddings_layernorm.weight")):
            with self.subTest(name):
                recipe = self.write("r.yaml", "version: 1\nsteps:\n  - {pass: transform.rotate, space: SPACE}\n".replace("SPACE", "residual"))
                self.refused(2, [tensor, "cannot be folded", "rotate values only"], "compress", tiny(name), "-o", self.dir / "no", "--recipe", recipe, "--eval-data", self.data(tiny(name)))
                report = self.run_json("compress", tiny(name), "--recipe", self.write("v.yaml", "version: 1\nsteps:\n  - {pass: transform.rotate, space: values}\n"), name=name)
                self.assertLess(report["quality"]["kl_mean"], 1e-7)

    def test_what_cannot_be_rotated(self):
        model = llama()
        for steps, words in (("  - {pass: quantize.rtn, scheme: W8A16}\n  - {pass: transform.rotate, space: values}\n", ["already quantized", "rotate before quantizing"]),
                             ("  - {pass: prune.magnitude, sparsity: 0.5}\n  - {pass: transform.rotate, space: values}\n", ["is pruned", "rotate before pruning"]),
                             ("  - {pass: transform.rotate, space: values, seed: -1}\n", ["seed", "found -1"]),
                             ("  - {pass: transform.rotate, speed: 1}\n", ["space"])):
            refusal = support.run("compress", model, "-o", self.dir / "no", "--recipe", self.write("r.yaml", "version: 1\nsteps:\n" + steps), "--eval-data", ids())
            self.assertIn(refusal.code, (2, 3))
            for word in words:
                self.assertIn(word, refusal.err)
            self.assertFalse((self.dir / "no").exists())


if __name__ == "__main__":
    support.main()
