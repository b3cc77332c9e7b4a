"""Mixture-of-experts models: what every command makes of them, and what is refused."""

import json
import shutil
import struct

import support
from support import Case, read_safetensors, tiny, treatments, write_safetensors

MODELS = ("mixtral", "qwen2-moe", "qwen3-moe")


def is_router(name):
    return name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight", "shared_expert_gate.weight"))


def is_linear(name):
    return "layers." in name and "norm" not in name and not is_router(name) and name.endswith(".weight")


class Experts(Case):
    def judged(self, name, *flags):
        """Flags of a run on a tiny model, judged on the ids that lie beside it."""
        return [tiny(name), "-o", self.dir / "out", *flags, "--eval-data", tiny(name) / "input_ids.npy", "--force"]

    def calibrated(self, name, *flags):
        return self.judged(name, *flags, "--calibration", tiny(name) / "input_ids.npy", "--nsamples", 4, "--seqlen", 12)

    def check_round_trip(self, name):
        """The artifact is judged as its dense export is."""
        data = ["--data", tiny(name) / "input_ids.npy"]
        shutil.rmtree(self.dir / "dense", ignore_errors=True)
        self.ok("export", self.dir / "out", "--dense", "-o", self.dir / "dense")
        report = json.loads((self.dir / "out/report.json").read_text())
        rounds_inputs = any("-dynamic" in said for said in treatments(report).values())  # of which a dense export knows nothing
        found, dense = (self.json("evaluate", self.dir / folder, *data)["quality"]["mean_nll"] for folder in ("out", "dense"))
        self.assertAlmostEqual(found, dense, delta=0.05 if rounds_inputs else 1e-6)
        self.assertEqual(set(read_safetensors(self.dir / "dense")[0]), set(read_safetensors(tiny(name))[0]))

    def test_they_are_listed_inspected_and_evaluated(self):
        known = [row["name"] for row in self.json("list")["architectures"]]
        for architecture in ("mixtral", "qwen2_moe", "qwen3_moe"):
            self.assertIn(architecture, known)
        for name in MODELS:
            with self.subTest(name):
                tensors = {row["name"]: row["role"] for row in self.json("inspect", tiny(name))["tensors"]}
                self.assertEqual({role for tensor, role in tensors.items() if is_router(tensor)}, {"router", "shared_router"} if name == "qwen2-moe" else {"router"})
                self.assertLessEqual({"expert_gate", "expert_up", "expert_down"}, set(tensors.values()))
                report = self.json("evaluate", tiny(name), "--data", tiny(name) / "input_ids.npy", "--threads", 1)
                self.assertEqual(report["quality"]["mean_nll"], self.json("evaluate", tiny(name), "--data", tiny(name) / "input_ids.npy", "--threads", 2)["quality"]["mean_nll"])

    def test_data_free_methods_leave_routers_alone(self):
        for name in MODELS:
            for command, flags, text in (("quantize", ["--bits", 4, "--group-size", 16], "W4A16-g16-symmetric"), ("quantize", ["--preset", "W8A8"], "W8A8-channel-symmetric-dynamic"), ("prune", ["--sparsity", 0.5], "50 % zeros"), ("prune", ["--pattern", "2:4"], "2 zeros in 4")):
                with self.subTest(f"{name} {flags}"):
                    report = self.json(command, *self.judged(name, *flags))
                    treated = treatments(report)
                    self.assertEqual({tensor for tensor, said in treated.items() if said != "kept"}, {tensor for tensor in treated if is_linear(tensor)})
                    self.assertTrue(all(text in said for tensor, said in treated.items() if is_linear(tensor)), treated)
                    self.assertTrue(all(tensor["bytes"] < tensor["source_bytes"] for tensor in report["tensors"] if is_linear(tensor["name"])))
                    self.check_round_trip(name)

    def test_calibrated_methods_work_on_what_each_expert_sees(self):
        for name in MODELS:
            for command, flags in (("quantize", ["--bits", 3, "--group-size", 16, "--method", "gptq"]), ("quantize", ["--bits", 3, "--group-size", 16, "--method", "awq"]), ("prune", ["--sparsity", 0.5, "--method", "wanda"]), ("prune", ["--sparsity", 0.5, "--method", "sparsegpt", "--reconstruct"]),
                                   ("prune", ["--sparsity", 0.5, "--method", "wanda", "--allocation", "owl"])):
                with self.subTest(f"{name} {flags}"):
                    report = self.json(command, *self.calibrated(name, *flags))
                    layers = next(s for s in report["steps"] if s["name"].startswith(command))["details"]["layers"]
                    self.assertEqual({layer["tensor"] for layer in layers}, {tensor for tensor in treatments(report) if is_linear(tensor)})
                    self.check_round_trip(name)
                    if flags[-1] == "awq":  # of attention two, and the norm in front of the experts
                        self.assertEqual(len(next(s for s in report["steps"] if s["name"] == "quantize.awq")["details"]["channel_scales"]), 3 * 2)
                    if flags[-1] != "gptq":
                        continue
                    nearest, found = (sum(layer[key] for layer in layers if ".experts." in layer["tensor"]) for key in ("nearest_error", "error"))
                    self.assertLess(found, 0.9 * nearest)
                    once = (self.dir / "out/model.safetensors").read_bytes()
                    self.json(command, *self.calibrated(name, *flags), "--threads", 1)
                    self.assertEqual((self.dir / "out/model.safetensors").read_bytes(), once)

    def test_layers_heads_and_hidden_dimensions_can_go_and_rotations_come(self):
        for name in MODELS:
            for command, flags in (("prune", ["--structured", "layers=1"]), ("prune", ["--structured", "heads=2"]), ("prune", ["--structured", "hidden=28"])):
                with self.subTest(f"{name} {flags}"):
                    self.json(command, *self.calibrated(name, *flags))
                    self.json("evaluate", self.dir / "out", "--data", tiny(name) / "input_ids.npy")

    def test_what_experts_do_not_go_with_is_refused_by_name(self):
        for command, flags, words in (("quantize", ["--bits", 4, "--group-size", 16, "--method", "learned"], ["quantize.learned", "num_local_experts", "2 of 4 experts"]),
                                      ("prune", ["--sparsity", 0.5, "--method", "fisher"], ["prune.fisher", "no gradient"]),
                                      ("prune", ["--structured", "ffn=24"], ["feed-forward channels", "num_local_experts"]),
                                      ("quantize", ["--preset", "W8A8-static"], ["experts.0.w2.weight", "no calibrated range"])):
            with self.subTest(words=words):
                self.refused(2, words, command, *self.calibrated("mixtral", *flags))
        self.refused(2, ["MixtralForCausalLM has experts"], "convert", *self.judged("mixtral")[:2], self.dir / "x.gguf", "--eval-data", tiny("mixtral") / "input_ids.npy")
        self.refused(2, ["MixtralForCausalLM has experts"], "imatrix", tiny("mixtral"), "-o", self.dir / "imatrix.gguf", "--calibration", tiny("mixtral") / "input_ids.npy", "--nsamples", 4, "--seqlen", 12)

    def test_codes_that_transformers_cannot_join_go_to_the_packed_container(self):
        for name in MODELS:
            with self.subTest(name):
                for flags in (["--bits", 8], ["--bits", 4, "--group-size", 16, "--scheme", "linear"], ["--preset", "W8A8"]):
                    self.refused(2, ["--format hf", "experts.0.", "4 bits, symmetric"], "quantize", *self.judged(name, *flags, "--format", "hf"))
                self.assertEqual(self.json("quantize", *self.judged(name, "--bits", 8))["artifact"]["container"], "llmc-packed")
                self.assertEqual(self.json("quantize", *self.judged(name, "--bits", 4, "--group-size", 16, "--format", "hf"))["artifact"]["container"], "compressed-tensors")

    def test_spoiled_models_are_refused_with_the_tensor_or_the_field(self):
        for change, words in (({"num_experts_per_tok": 5}, ["num_experts_per_tok", "5 of 4"]), ({"num_local_experts": 5}, ["experts.4.w1.weight: missing"]), ({"num_local_experts": 3}, ["experts.3.w1.weight: found"])):
            with self.subTest(words=words):
                model = self.dir / "model"
                shutil.copytree(tiny("mixtral"), model, dirs_exist_ok=True)
                config = json.loads((model / "config.json").read_text())
                (model / "config.json").write_text(json.dumps(config | change))
                self.refused(3, words, "inspect", model)
        config.update({"num_local_experts": 4})
        (model / "config.json").write_text(json.dumps(config))
        tensors, _ = read_safetensors(tiny("mixtral"))
        router = "model.layers.1.block_sparse_moe.gate.weight"
        tensors[router] = tensors[router]._replace(raw=struct.pack("<f", float("nan")) + tensors[router].raw[4:])
        write_safetensors(model / "model.safetensors", tensors)
        self.refused(3, [router, "NaN"], "evaluate", model, "--data", tiny("mixtral") / "input_ids.npy")


if __name__ == "__main__":
    support.main()
