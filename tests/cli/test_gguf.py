"""GGUF files: llmc convert and llmc quantize --type write them, every command reads them."""

import json
import os
import shutil
import struct
import xml.etree.ElementTree as ElementTree

import support
from support import COMPRESSING, Case, Tensor, covers, ids, llama, llama_config, llama_shapes, make_llama, quill, random_tensors, read_gguf, read_safetensors, run, tiny, without_clocks, write_checkpoint, write_gguf

ROLES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    """llama.cpp's name of a Llama tensor (gguf-py, tensor_mapping.py)."""
    if name.startswith("model.layers."):
        block, _, rest = name.removeprefix("model.layers.").partition(".")
        module, _, part = rest.rpartition(".")
        return f"blk.{block}.{ROLES[module]}.{part}"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name]


def paired(rows, head_size):
    """convert_hf_to_gguf.py's permute: a head's rows 0, h/2, 1, h/2 + 1, …"""
    half = head_size // 2
    return [rows[start + half * (i % 2) + i // 2] for start in range(0, len(rows), head_size) for i in range(head_size)]


class Gguf(Case):
    def convert(self, *flags, model=None, name="out.gguf", data=None):
        return ["convert", model or llama(), "-o", self.dir / name, "--eval-data", data or ids(), *flags]


class Convert(Gguf):
    @covers("convert", "--type", "--output")
    def test_names_types_and_order_of_rows(self):
        for dtype, changes in (("F32", {}), ("BF16", {}), ("F16", {"tie_word_embeddings": False})):
            model = llama(dtype, **changes)
            source = read_safetensors(model)[0]
            for kind in ("F32", "F16", "BF16"):
                with self.subTest(dtype=dtype, kind=kind, **changes):
                    self.ok(*self.convert("--type", kind, "--force", model=model))
                    tensors = read_gguf(self.dir / "out.gguf")[1]
                    self.assertEqual(set(tensors), {gguf_name(name) for name in source})
                    for name, tensor in source.items():
                        stored = tensors[gguf_name(name)]
                        self.assertEqual((stored.dtype, stored.shape), ("F32" if len(tensor.shape) == 1 else kind, tensor.shape))
                        rows = tensor.rows() if len(tensor.shape) == 2 else [tensor.values()]
                        if "q_proj" in name or "k_proj" in name:
                            rows = paired(rows, 8)
                        found = stored.rows() if len(tensor.shape) == 2 else [stored.values()]
                        if kind == "F32" or kind == dtype:
                            self.assertEqual([list(r) for r in found], [list(r) for r in rows], name)
                        else:
                            bound = {"F16": 2**-11, "BF16": 2**-8}[kind]  # half a unit in the last place
                            for got, expected in zip(sum(map(list, found), []), sum(map(list, rows), [])):
                                self.assertLessEqual(abs(got - expected), abs(expected) * bound + 2**-25)

    def test_keys(self):
        self.ok(*self.convert("--type", "BF16"))
        keys = read_gguf(self.dir / "out.gguf")[0]
        expected = {"general.architecture": "llama", "general.type": "model", "general.name": llama().name, "general.file_type": 32, "general.quantization_version": 2, "llama.vocab_size": 64, "llama.context_length": 64,
                    "llama.embedding_length": 32, "llama.block_count": 2, "llama.feed_forward_length": 48, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.attention.key_length": 8, "llama.attention.value_length": 8,
                    "llama.rope.dimension_count": 8, "llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "no_vocab", "llmc.command": "convert"}
        self.assertEqual({key: keys[key] for key in expected}, expected)
        self.assertEqual(struct.pack("<f", keys["llama.attention.layer_norm_rms_epsilon"]), struct.pack("<f", 1e-5))

    def test_gpt2(self):
        for name in ("gpt2-tied", "gpt2-noprefix"):
            with self.subTest(name):
                model, data = tiny(name), tiny(name) / "input_ids.npy"
                self.ok(*self.convert("--type", "F32", model=model, data=data, name=name + ".gguf"))
                keys, tensors = read_gguf(self.dir / (name + ".gguf"))
                source = read_safetensors(model)[0]
                prefix = "" if name == "gpt2-noprefix" else "transformer."
                self.assertEqual((keys["general.architecture"], keys["gpt2.feed_forward_length"], keys["gpt2.context_length"]), ("gpt2", 128, 32))
                conv1d = source[prefix + "h.0.attn.c_attn.weight"]
                self.assertEqual([list(row) for row in tensors["blk.0.attn_qkv.weight"].rows()], [list(column) for column in zip(*conv1d.rows())])
                self.assertEqual(tensors["position_embd.weight"], source[prefix + "wpe.weight"])
                self.assertEqual(tensors["blk.1.ffn_up.bias"], source[prefix + "h.1.mlp.c_fc.bias"])
                quality = self.json("evaluate", self.dir / (name + ".gguf"), "--reference", model, "--data", data)["quality"]
                self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        exact = tiny("gpt2-untied")  # its GELU becomes the approximation, and is judged as such
        report = self.json(*self.convert("--type", "F32", model=exact, data=exact / "input_ids.npy", name="exact.gguf"))
        self.assertTrue(any("tanh approximation" in note for note in report["notes"]))
        quality = self.json("evaluate", self.dir / "exact.gguf", "--reference", exact, "--data", exact / "input_ids.npy")["quality"]
        self.assertTrue(0 < quality["kl_mean"] < 1e-5, quality["kl_mean"])

    def test_biases_of_queries_and_keys_have_the_order_of_their_rows(self):
        model, data = tiny("llama-bias"), tiny("llama-bias") / "input_ids.npy"
        self.ok(*self.convert("--type", "F32", model=model, data=data))
        keys, tensors = read_gguf(self.dir / "out.gguf")
        source = read_safetensors(model)[0]
        for part in ("q", "k"):
            bias = list(source[f"model.layers.1.self_attn.{part}_proj.bias"].values())
            self.assertEqual(list(tensors[f"blk.1.attn_{part}.bias"].values()), paired(bias, keys["llama.attention.key_length"]))
        quality = self.json("evaluate", self.dir / "out.gguf", "--reference", model, "--data", data)["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))

    def test_qwen(self):
        for name, tied in (("qwen2-untied", False), ("qwen2-tied", True), ("qwen3-untied", False), ("qwen3-tied", True)):
            with self.subTest(name):
                model, data = tiny(name), tiny(name) / "input_ids.npy"
                self.ok(*self.convert("--type", "F32", model=model, data=data, name=name + ".gguf"))
                keys, tensors = read_gguf(self.dir / (name + ".gguf"))
                source = read_safetensors(model)[0]
                self.assertEqual((keys["general.architecture"], keys[name[:5] + ".rope.freq_base"], keys[name[:5] + ".context_length"]), (name[:5], 1000000.0, 64))
                self.assertFalse([key for key in keys if key.startswith("llama.")])
                self.assertEqual({gguf_name(tensor): values for tensor, values in source.items()}, tensors)  # rows of queries and keys as they are
                self.assertEqual("output.weight" in tensors, not tied)
                quality = self.json("evaluate", self.dir / (name + ".gguf"), "--reference", model, "--data", data)["quality"]
                self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
                self.ok("export", self.dir / (name + ".gguf"), "--dense", "-o", self.dir / name)
                self.assertEqual(read_safetensors(self.dir / name)[0], source)
        model = tiny("qwen2-untied")
        self.refused(2, ["2 heads of 16 make 32", "qwen2", "hidden size, 64"], "prune", model, "-o", self.dir / "no.gguf", "--structured", "heads=50%", "--importance", "magnitude", "--compensate", "false", "--eval-data", model / "input_ids.npy")

    def test_mistral(self):
        model, data = tiny("mistral-whole"), tiny("mistral-whole") / "input_ids.npy"
        self.ok(*self.convert("--type", "F32", model=model, data=data))
        keys = read_gguf(self.dir / "out.gguf")[0]
        self.assertEqual((keys["general.architecture"], keys["llama.rope.freq_base"]), ("llama", 1000000.0))
        quality = self.json("evaluate", self.dir / "out.gguf", "--reference", model, "--data", data)["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        self.refused(2, ["queries see 7 of 64 positions", "llama without a window"], *self.convert(model=tiny("mistral-window"), data=data, name="no.gguf"))

    def test_scaled_rotary_positions(self):
        expected = {"linear": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, "llama3": {}}
        for kind, said in expected.items():
            with self.subTest(kind):
                model, data = tiny(f"llama-rope-{kind}"), tiny(f"llama-rope-{kind}") / "input_ids.npy"
                self.ok(*self.convert("--type", "F32", model=model, data=data, name=kind + ".gguf"))
                keys, tensors = read_gguf(self.dir / (kind + ".gguf"))
                self.assertEqual({key: value for key, value in keys.items() if ".rope.scaling." in key}, said)
                self.assertEqual("rope_freqs.weight" in tensors, kind == "llama3")
                quality = self.json("evaluate", self.dir / (kind + ".gguf"), "--reference", model, "--data", data)["quality"]
                self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
                self.ok(*self.convert("--type", "F32", model=self.dir / (kind + ".gguf"), data=data, name=f"{kind}-again.gguf"))
                self.assertEqual(read_gguf(self.dir / f"{kind}-again.gguf")[1], tensors)
        self.assertEqual([round(x, 4) for x in tensors["rope_freqs.weight"].values()], [1, 1.1237, 8, 8])  # wavelengths of 6, 35, 199 and 1117 against 128 / 4 and 128
        data = tiny("llama-rope-dynamic") / "input_ids.npy"
        self.refused(2, ["llama-rope-dynamic", "dynamic", "llama.cpp does not"], *self.convert(model=tiny("llama-rope-dynamic"), data=data))
        self.refused(2, ["llama-rope-yarn", "beta_fast of its yarn scaling is 2", "with 32"], *self.convert(model=tiny("llama-rope-yarn"), data=data))
        yarn = shutil.copytree(tiny("llama-rope-yarn"), self.dir / "yarn")
        config = json.loads((yarn / "config.json").read_text())
        del config["rope_parameters"]["beta_fast"], config["rope_parameters"]["beta_slow"]
        (yarn / "config.json").write_text(json.dumps(config))
        self.ok(*self.convert("--type", "F32", model=yarn, data=data, name="yarn.gguf"))
        keys = read_gguf(self.dir / "yarn.gguf")[0]
        self.assertEqual((keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"], keys["llama.rope.scaling.original_context_length"]), ("yarn", 4.0, 16))
        self.assertEqual(self.json("evaluate", self.dir / "yarn.gguf", "--reference", yarn, "--data", data)["quality"]["kl_mean"], 0)
        config = json.loads((tiny("qwen2-untied") / "config.json").read_text()) | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        qwen = shutil.copytree(tiny("qwen2-untied"), self.dir / "qwen")
        (qwen / "config.json").write_text(json.dumps(config))
        self.refused(2, ["llama3's scaling", "qwen2"], *self.convert(model=qwen, data=data, name="no.gguf"))

    def test_every_architecture_that_llama_cpp_has(self):
        for name, architecture in (("phi3-whole", "phi3"), ("stablelm-parallel", "stablelm"), ("olmo2", "olmo2"), ("gemma", "gemma"), ("gpt-neox", "gptneox"), ("bloom", "bloom"), ("falcon", "falcon")):
            with self.subTest(name):
                model, data, out = tiny(name), tiny(name) / "input_ids.npy", self.dir / (name + ".gguf")
                report = self.json(*self.convert("--type", "F32", model=model, data=data, name=name + ".gguf"))
                keys = read_gguf(out)[0]
                self.assertEqual(keys["general.architecture"], architecture)
                self.assertTrue(any(key.startswith(architecture + ".attention.") for key in keys))
                quality = self.json("evaluate", out, "--reference", model, "--data", data)["quality"]
                self.assertLess(quality["kl_mean"], 1e-9)  # Gemma's 1 + w is rounded to f32
                self.assertEqual(quality["top1_agreement"], 1)
                self.assertEqual(any("tanh approximation" in note for note in report["notes"]), name in ("gpt-neox", "falcon"))
                self.ok("export", out, "--dense", "-o", self.dir / name)
                exported, source = read_safetensors(self.dir / name)[0], read_safetensors(model)[0]
                self.assertEqual(set(exported), set(source))
                self.assertEqual([tensor for tensor in source if exported[tensor] != source[tensor] and not (name == "gemma" and tensor.endswith("norm.weight"))], [])

    def test_what_llama_cpp_does_not_run_is_refused_with_the_reason(self):
        for name, words in (("opt", ["llama.cpp has no architecture for OPTForCausalLM"]), ("gemma2", ["query_pre_attn_scalar is 20", "gemma2 of 3 blocks with 12"]), ("phi3-part", ["see 9 of 64 positions"]), ("falcon-groups", ["attention has biases", "falcon without"])):
            self.refused(2, [name, *words], *self.convert(model=tiny(name), data=tiny(name) / "input_ids.npy", name="no.gguf"))

    @covers("convert", "--shard-size")
    def test_shards(self):
        self.ok(*self.convert("--type", "F32", name="whole.gguf"))
        keys, tensors = read_gguf(self.dir / "whole.gguf")
        report = self.json(*self.convert("--type", "F32", "--shard-size", "9kB"))
        names = sorted(path.name for path in self.dir.glob("out-*.gguf"))
        self.assertEqual(names, [f"out-{number:05}-of-{len(names):05}.gguf" for number in range(1, len(names) + 1)])
        self.assertGreater(len(names), 2)
        self.assertFalse((self.dir / "out.gguf").exists())
        self.assertEqual(report["artifact"]["path"], str(self.dir / names[0]))
        found = {}
        for number, name in enumerate(names):
            own, part = read_gguf(self.dir / name)
            self.assertEqual((own.pop("split.no"), own.pop("split.count"), own.pop("split.tensors.count")), (number, len(names), len(tensors)))
            self.assertEqual({key: value for key, value in own.items() if key not in ("llmc.recipe", "general.name")}, {key: value for key, value in keys.items() if key not in ("llmc.recipe", "general.name")} if number == 0 else {})
            self.assertTrue(len(part) == 1 or sum(len(tensor.raw) for tensor in part.values()) <= 9000)
            found |= part
        self.assertEqual(found, tensors)
        self.assertEqual(list(found), list(tensors))
        quality = self.json("evaluate", self.dir / names[0], "--reference", llama(), "--data", ids())["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        self.refused(3, ["is shard 2 of", "name the first"], "evaluate", self.dir / names[1], "--data", ids())
        again = self.convert("--type", "F32", "--shard-size", "9kB")
        self.refused(4, ["out.report.json", "already exists", "--force"], *again)  # before the work
        (self.dir / "out.report.json").unlink()
        self.refused(4, [names[0], "already exists", "--force"], *again)
        before = [(self.dir / name).read_bytes() for name in names]
        self.ok(*self.convert("--type", "F32", "--shard-size", "9kB", "--force", "--threads", 1))
        self.assertEqual([(self.dir / name).read_bytes() for name in names], before)
        self.ok(*self.convert("--type", "F32", "--shard-size", "1GB", model=self.dir / names[0], name="again.gguf"))  # one file is enough
        self.assertEqual(read_gguf(self.dir / "again.gguf")[1], tensors)

    def test_position_embeddings_stay_f32(self):
        model, data = tiny("gpt2-tied"), tiny("gpt2-tied") / "input_ids.npy"
        self.ok(*self.convert(model=model, data=data))
        tensors = read_gguf(self.dir / "out.gguf")[1]
        self.assertEqual([tensors[name].dtype for name in ("position_embd.weight", "token_embd.weight", "blk.0.attn_qkv.weight", "blk.0.attn_qkv.bias")], ["F32", "F16", "F16", "F32"])

    @covers("convert", "--threads")
    def test_same_bytes_for_any_number_of_threads(self):
        files = []
        for threads in (1, 2, 7):
            self.ok(*self.convert("--threads", threads, name=f"{threads}.gguf"))
            files.append((self.dir / f"{threads}.gguf").read_bytes())
        self.assertEqual(files[0], files[1])
        self.assertEqual(files[0], files[2])

    def test_values_that_a_type_cannot_hold(self):
        config = llama_config()
        tensors = random_tensors(llama_shapes(config), "F32", 3)
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = Tensor("F32", tensors[name].shape, struct.pack("<f", 70000.0) + tensors[name].raw[4:])
        model = write_checkpoint(self.dir / "model", config, tensors)
        self.refused(3, [name, "70000"], *self.convert("--type", "F16", model=model))
        self.ok(*self.convert("--type", "BF16", model=model))

    @covers("convert", "--force")
    def test_force(self):
        self.ok(*self.convert())
        before = (self.dir / "out.gguf").read_bytes()
        self.refused(4, ["already exists", "--force"], *self.convert("--type", "F32"))
        self.assertEqual((self.dir / "out.gguf").read_bytes(), before)
        self.ok(*self.convert("--type", "F32", "--force"))
        self.assertNotEqual((self.dir / "out.gguf").read_bytes(), before)
        (self.dir / "folder.gguf").mkdir()
        self.refused(4, ["folder.gguf", "only a file"], *self.convert("--force", name="folder.gguf"))
        self.refused(4, ["does not exist"], *self.convert(name="absent/out.gguf"))
        self.refused(2, ["ends in .gguf"], *self.convert(name="out"))
        self.assert_nothing_left(self.dir, "folder.gguf", "out.gguf", "out.report.json")

    @covers("convert", "--dry-run")
    def test_dry_run(self):
        plan = self.json(*self.convert("--dry-run"))
        self.assertEqual({t["name"]: t["treatment"] for t in plan["tensors"] if t["name"] in ("model.norm.weight", "model.embed_tokens.weight")}, {"model.norm.weight": "F32", "model.embed_tokens.weight": "F16"})
        self.refused(2, ["rows of 32", "--allow-fallback"], "quantize", llama(), "-o", self.dir / "out.gguf", "--type", "Q4_K_M", "--dry-run", "--eval-data", ids())
        plan = self.json("quantize", llama(**Types.WIDE), "-o", self.dir / "out.gguf", "--type", "Q8_0", "--dry-run", "--eval-data", ids())
        self.assertEqual({t["bits"] for t in plan["tensors"]}, {8.5, 32})
        self.assert_nothing_left(self.dir)

    @covers("convert", "--json")
    def test_report(self):
        report = self.json(*self.convert())
        self.assertEqual(json.loads((self.dir / "out.report.json").read_text()), report)
        self.assertEqual(report["artifact"]["container"], "gguf")
        self.assertEqual(report["artifact"]["bytes"], (self.dir / "out.gguf").stat().st_size)
        self.assertEqual(report["recipe"]["gguf"], {"type": "F16"})
        self.assertLess(report["quality"]["kl_mean"], 1e-5)  # F16 keeps 11 bits of weights of which bf16 inputs would keep 8

    @covers("convert", "--untie")
    def test_untie(self):
        self.ok(*self.convert("--untie"))
        tensors = read_gguf(self.dir / "out.gguf")[1]
        self.assertEqual(tensors["output.weight"], tensors["token_embd.weight"])

    @covers("convert", "--eval-data", "--eval-seqlen", "--max-windows", "--convention", "--stride", "--precision", "--kv-cache-bits", "--seed")
    def test_judging(self):
        plain = self.json(*self.convert())["quality"]
        self.assertEqual((plain["windows"], plain["tokens"]), (4, 256))
        self.assertEqual(self.json(*self.convert("--eval-seqlen", 16, "--max-windows", 3, "--force"))["quality"]["windows"], 3)
        self.assertIn("second half scored", self.json(*self.convert("--convention", "second-half", "--force"))["quality"]["convention"])
        self.assertIn("32 tokens apart", self.json(*self.convert("--stride", 32, "--force"))["quality"]["convention"])
        self.assertNotEqual(self.json(*self.convert("--precision", "bf16", "--force"))["quality"]["mean_nll"], plain["mean_nll"])
        self.assertEqual(self.json(*self.convert("--kv-cache-bits", 8, "--force"))["quality"]["kv_cache_bits"], 8)
        self.assertEqual(self.json(*self.convert("--seed", 5, "--force"))["recipe"]["seed"], 5)
        self.refused(3, ["absent.u16"], *self.convert(data=self.dir / "absent.u16", name="no.gguf"))

    @covers("convert", "--max-ppl-increase", "--max-kl", "--min-top1-agreement", "--max-size", "--min-ratio", "--junit")
    def test_gates(self):
        limits = {"--max-ppl-increase": (10, 0), "--max-kl": (1, 0), "--min-top1-agreement": (0, 1), "--max-size": ("1GB", 100), "--min-ratio": (0.1, 90)}
        self.ok(*self.convert("--force", *[word for flag, (kept, _) in limits.items() for word in (flag, kept)], "--type", "BF16", "--junit", self.dir / "kept.xml"))
        self.assertEqual(ElementTree.parse(self.dir / "kept.xml").getroot().findall(".//failure"), [])
        for flag, (_, missed) in limits.items():
            if flag in ("--max-ppl-increase", "--min-top1-agreement"):
                continue  # this model may well keep them
            with self.subTest(flag):
                self.ok(*self.convert("--force", flag, missed, "--type", "BF16", "--junit", self.dir / "missed.xml"), code=1)
                self.assertEqual(len(ElementTree.parse(self.dir / "missed.xml").getroot().findall(".//failure")), 1)

    @covers("convert", "--ignore-config-field")
    def test_ignored_config_fields(self):
        config = llama_config(new_field=1)
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config), "F32", 3))
        self.refused(3, ["new_field"], *self.convert(model=model))
        self.ok(*self.convert("--ignore-config-field", "new_field", model=model))


class Reading(Gguf):
    def test_every_command_takes_a_gguf_file(self):
        self.ok(*self.convert("--type", "F32"))
        model = self.dir / "out.gguf"
        quality = self.json("evaluate", model, "--reference", llama(), "--data", ids())["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        told = self.json("inspect", model)
        self.assertEqual((told["container"], told["architecture"]), ("gguf", "llama"))
        self.ok("export", model, "--dense", "-o", self.dir / "dense")
        source = read_safetensors(llama())[0]
        self.assertEqual(read_safetensors(self.dir / "dense")[0], source)
        for flags in (["quantize", "--bits", 4, "--group-size", 16], ["prune", "--sparsity", 0.5]):
            self.ok(flags[0], model, "-o", self.dir / "of-gguf", *flags[1:], "--eval-data", ids(), "--force")
            self.ok(flags[0], llama(), "-o", self.dir / "of-directory", *flags[1:], "--eval-data", ids(), "--force")
            self.assertEqual(*[read_safetensors(self.dir / name)[0] for name in ("of-gguf", "of-directory")])
        for name in ("gpt2-tied",):
            self.ok(*self.convert("--type", "F32", model=tiny(name), data=tiny(name) / "input_ids.npy", name=name + ".gguf"))
            self.ok("export", self.dir / (name + ".gguf"), "--dense", "-o", self.dir / name)
            self.assertEqual(read_safetensors(self.dir / name)[0], {n: t for n, t in read_safetensors(tiny(name))[0].items() if ".attn.bias" not in n and ".masked_bias" not in n})

    def test_a_round_trip_keeps_every_key_and_tensor(self):
        self.ok(*self.convert(name="a.gguf"))
        keys, tensors = read_gguf(self.dir / "a.gguf")
        kinds = {str: 8, bool: 7, int: 4, float: 6}
        own = {"somebody.elses.key": (9, (8, ["a", "b"])), "tokenizer.ggml.added": (5, -3)}
        write_gguf(self.dir / "b.gguf", {key: (kinds[type(value)], value) for key, value in keys.items()} | own, tensors)
        self.ok(*self.convert(model=self.dir / "b.gguf", name="c.gguf"))
        again, same = read_gguf(self.dir / "c.gguf")
        self.assertEqual(again, keys | {key: value[1] if isinstance(value, tuple) else value for key, (_, value) in own.items()})
        self.assertEqual(same, tensors)

    def test_the_tokenizer_comes_along(self):
        for kind in ("F16",):
            self.ok("convert", quill(), "-o", self.dir / "quill.gguf", "--type", kind, "--max-windows", 1)
        keys = read_gguf(self.dir / "quill.gguf")[0]
        source = json.loads((quill() / "tokenizer.json").read_text())
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"], keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.add_bos_token"]), ("gpt2", "gpt-2", 0, False))
        self.assertEqual({token: i for i, token in enumerate(keys["tokenizer.ggml.tokens"])}, source["model"]["vocab"])
        self.assertEqual(keys["tokenizer.ggml.merges"], [merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]])
        self.assertEqual([i for i, kind in enumerate(keys["tokenizer.ggml.token_type"]) if kind != 1], [0])
        (self.dir / "text.txt").write_text("Call me Ishmael. Some years ago - never mind how long précisely - 1234 \n\n  sails.\n" * 20)
        results = [self.json("evaluate", model, "--data", self.dir / "text.txt", "--seqlen", 64)["quality"] for model in (quill(), self.dir / "quill.gguf")]
        self.assertEqual(results[0]["tokens"], results[1]["tokens"])
        self.assertAlmostEqual(results[0]["mean_nll"], results[1]["mean_nll"], delta=1e-3)  # F16 has more bits than BF16, but fewer small numbers
        self.ok("export", self.dir / "quill.gguf", "--dense", "-o", self.dir / "dense")
        self.assertEqual(json.loads((self.dir / "dense" / "tokenizer.json").read_text())["model"]["vocab"], source["model"]["vocab"])
        self.assertEqual(json.loads((self.dir / "dense" / "tokenizer_config.json").read_text())["bos_token"], "<|endoftext|>")

    def test_what_is_not_understood_is_refused_by_name(self):
        self.ok(*self.convert("--type", "F32", name="a.gguf"))
        keys, tensors = read_gguf(self.dir / "a.gguf")
        kinds = {str: 8, bool: 7, int: 4, float: 6}
        plain = {key: (kinds[type(value)], value) for key, value in keys.items()}

        def refused(words, keys=None, drop=(), add=None):
            write_gguf(self.dir / "b.gguf", {k: v for k, v in (plain | (keys or {})).items() if k not in drop}, {n: t for n, t in (tensors | (add or {})).items() if n not in drop})
            self.refused(3, ["b.gguf", *words], "evaluate", self.dir / "b.gguf", "--data", ids())

        norm = tensors["output_norm.weight"]
        refused(["general.architecture", '"llam"', 'did you mean "llama"'], {"general.architecture": (8, "llam")})
        refused(["general.architecture", "missing"], drop=["general.architecture"])
        refused(["llama.embedding_length", "missing"], drop=["llama.embedding_length"])
        refused(["llama.attention.layer_norm_rms_epsilon", "missing"], drop=["llama.attention.layer_norm_rms_epsilon"])
        refused(["llama.expert_count", "not understood"], {"llama.expert_count": (4, 8)})
        refused(["llama.attention.sliding_window", "not understood"], {"llama.attention.sliding_window": (4, 8)})
        refused(["llama.rope.scaling.type", "longrope"], {"llama.rope.scaling.type": (8, "longrope"), "llama.rope.scaling.factor": (6, 2.0)})
        refused(["llama.rope.scaling.factor", "missing", "yarn"], {"llama.rope.scaling.type": (8, "yarn")})
        refused(["llama.rope.scaling.attn_factor", "not understood"], {"llama.rope.scaling.attn_factor": (6, 0.5)})
        refused(["llama.rope.dimension_count", "expected 8", "found 4"], {"llama.rope.dimension_count": (4, 4)})
        refused(["llama.attention.causal", "found false"], {"llama.attention.causal": (7, False)})
        refused(["llama.block_count", "an integer"], {"llama.block_count": (8, "two")})
        refused(["model.layers.1.mlp.gate_proj.weight", "missing"], drop=["blk.1.ffn_gate.weight"])
        refused(["rope_freqs.weight", "expected shape [4]", "found [32]"], add={"rope_freqs.weight": norm})
        refused(["rope_freqs.weight", "factors of llama3's scaling"], add={"rope_freqs.weight": Tensor("F32", (4,), struct.pack("<4f", 1, 2, 3, 5))})
        refused(["blk.0.ffn_gate_exps.weight", "no such tensor"], add={"blk.0.ffn_gate_exps.weight": norm})
        write_gguf(self.dir / "ok.gguf", plain | {"llama.expert_count": (4, 0), "llama.attention.causal": (7, True), "llama.rope.scaling.type": (8, "none")}, tensors)
        self.ok("evaluate", self.dir / "ok.gguf", "--data", ids())
        write_gguf(self.dir / "vouched.gguf", plain | {"llama.logit_scale": (6, 1.0)}, tensors)
        self.ok("evaluate", self.dir / "vouched.gguf", "--data", ids(), "--ignore-config-field", "llama.logit_scale")

    def test_tokenizers_that_are_not_understood(self):
        self.ok(*self.convert("--type", "F32", name="a.gguf"))
        keys, tensors = read_gguf(self.dir / "a.gguf")
        kinds = {str: 8, bool: 7, int: 4, float: 6}
        plain = {key: (kinds[type(value)], value) for key, value in keys.items()}
        (self.dir / "text.txt").write_text("some text " * 50)
        tokens = {"tokenizer.ggml.model": (8, "gpt2"), "tokenizer.ggml.pre": (8, "gpt-2"), "tokenizer.ggml.tokens": (9, (8, ["a", "b"])), "tokenizer.ggml.merges": (9, (8, []))}
        sentencepiece = {"tokenizer.ggml.model": (8, "llama"), "tokenizer.ggml.tokens": (9, (8, ["<unk>", "<s>", "\u2581", "so"])), "tokenizer.ggml.scores": (9, (6, [0.0, 0.0, -1.0, -2.0])), "tokenizer.ggml.token_type": (9, (5, [2, 3, 1, 1])), "tokenizer.ggml.bos_token_id": (4, 1)}
        write_gguf(self.dir / "sentencepiece.gguf", plain | sentencepiece, tensors)
        self.ok("evaluate", self.dir / "sentencepiece.gguf", "--data", self.dir / "text.txt")
        for changes, words in (({"tokenizer.ggml.model": (8, "bert")}, ["tokenizer.ggml.model", '"bert"', "token ids"]), (sentencepiece | {"tokenizer.ggml.scores": (9, (6, [1.0]))}, ["tokenizer.ggml.scores", "expected 4 numbers", "found 1"]),
                               (sentencepiece | {"tokenizer.ggml.scores": (8, "a")}, ["tokenizer.ggml.scores", "another type"]), (tokens | {"tokenizer.ggml.pre": (8, "new")}, ["tokenizer.ggml.pre", '"new"']),
                               (tokens | {"tokenizer.ggml.tokens": (9, (8, ["a", "a"]))}, ["tokenizer.ggml.tokens", '"a" appears twice']), (tokens | {"tokenizer.ggml.token_type": (9, (5, [1]))}, ["tokenizer.ggml.token_type", "expected 2", "found 1"]),
                               (tokens | {"tokenizer.ggml.add_bos_token": (7, True)}, ["tokenizer.ggml.bos_token_id", "missing"]), (tokens | {"tokenizer.ggml.add_bos_token": (7, True), "tokenizer.ggml.bos_token_id": (4, 7)}, ["tokenizer.ggml.bos_token_id", "below 2", "found 7"])):
            with self.subTest(words):
                write_gguf(self.dir / "b.gguf", plain | changes, tensors)
                self.refused(3, ["b.gguf", *words], "evaluate", self.dir / "b.gguf", "--data", self.dir / "text.txt")
                self.ok("evaluate", self.dir / "b.gguf", "--data", ids())


class Types(Gguf):
    WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}

    def quantize(self, *flags, model=None, name="out.gguf"):
        return ["quantize", model or llama(**self.WIDE), "-o", self.dir / name, "--eval-data", ids(), *flags]

    def types(self, name="out.gguf"):
        return {tensor: value.dtype for tensor, value in read_gguf(self.dir / name)[1].items()}

    @covers("quantize", "--type", "--pure")
    def test_types_of_a_mix(self):
        report = self.json(*self.quantize("--type", "q4_k_m"))
        types = self.types()
        self.assertEqual((types["blk.0.ffn_gate.weight"], types["blk.1.ffn_down.weight"], types["token_embd.weight"], types["output_norm.weight"]), (12, 14, 14, "F32"))  # Q4_K, Q6_K, Q6_K
        self.assertEqual(read_gguf(self.dir / "out.gguf")[0]["general.file_type"], 15)
        self.assertEqual({t["codec"] for t in report["tensors"]}, {"Q4_K", "Q6_K", "F32"})
        self.assertGreater(report["quality"]["kl_mean"], 0)
        self.ok(*self.quantize("--type", "Q4_K_M", "--pure", "--force"))
        self.assertEqual({kind for tensor, kind in self.types().items() if not tensor.endswith("norm.weight")}, {12})
        self.refused(2, ["Q9_K"], *self.quantize("--type", "Q9_K", name="no.gguf"))
        self.refused(2, ["--bits", "no sense with --type"], *self.quantize("--type", "Q8_0", "--bits", 4, name="no.gguf"))
        self.refused(2, ["ends in .gguf"], *self.quantize("--type", "Q8_0", name="no"))
        self.refused(2, ["give --type"], *self.quantize("--bits", 4, "--pure", name="no"))

    @covers("quantize", "--leave-output-tensor")
    def test_types_of_single_tensors(self):
        model = llama("F16", tie_word_embeddings=False, **self.WIDE)
        self.ok(*self.quantize("--type", "Q8_0", "--leave-output-tensor", "--token-embedding-type", "Q4_0", "--tensor-type", "ffn_up=Q5_1", model=model))
        types = self.types()
        self.assertEqual((types["output.weight"], types["token_embd.weight"], types["blk.0.ffn_up.weight"], types["blk.0.ffn_gate.weight"]), ("F16", 2, 7, 8))
        self.ok(*self.quantize("--type", "Q8_0", "--output-tensor-type", "BF16", "--force", model=model))
        self.assertEqual(self.types()["output.weight"], "BF16")
        for flags, words in ((["--tensor-type", "ffn_upp=Q8_0"], ["pattern 'ffn_upp' matches none"]), (["--token-embedding-type", "keep"], ["--token-embedding-type keep", "give a type"]), (["--output-tensor-type", "keep"], ["--output-tensor-type keep", "--leave-output-tensor"]), (["--output-tensor-type", "Q8_0", "--leave-output-tensor"], ["say different things"])):
            self.refused(2, words, *self.quantize("--type", "Q8_0", *flags, model=model, name="no.gguf"))
        self.refused(2, ["--format hf", "expected gguf"], *self.quantize("--type", "Q8_0", "--format", "hf", model=model, name="no"))
        self.ok(*self.quantize("--type", "Q8_0", "--format", "auto", "--force", model=model))
        self.ok(*self.quantize("--type", "F16", "--tensor-type", "attn_=Q4_0", "--rounding", "weighted", "--calibration", ids(), "--nsamples", 2, "--seqlen", 16, "--force", model=model))
        self.assertEqual((self.types()["blk.0.attn_q.weight"], self.types()["blk.0.ffn_up.weight"]), (2, "F16"))
        self.refused(3, ["--allow-requantize"], *self.quantize("--type", "F16", "--tensor-type", "attn_=Q8_0", model=self.dir / "out.gguf", name="no.gguf"))
        self.refused(2, ["output-tensor-type", "Q9"], *self.quantize("--type", "Q8_0", "--output-tensor-type", "Q9", model=model, name="no.gguf"))

    @covers("quantize", "--allow-fallback")
    def test_fallback(self):
        self.refused(2, ["blk.0.attn_q.weight", "rows of 32", "--allow-fallback"], *self.quantize("--type", "Q4_K_M", model=llama()))
        self.assert_nothing_left(self.dir)
        config = {"intermediate_size": 96, "hidden_size": 32}
        report = self.json(*self.quantize("--type", "Q4_K", "--allow-fallback", model=llama(**config)))
        self.assertEqual(self.types()["blk.0.ffn_gate.weight"], 6)  # Q5_0
        self.assertTrue(any("blk.0.attn_q.weight: Q5_0 instead of Q4_K" in note for note in report["notes"]), report["notes"])

    @covers(COMPRESSING + " convert distill", "--allow-requantize")
    def test_quantized_files_are_rounded_again_on_demand_only(self):
        self.ok(*self.quantize("--type", "Q8_0", name="q8.gguf"))
        model = self.dir / "q8.gguf"
        recipe = self.dir / "r.yaml"
        recipe.write_text("version: 1\nsteps: [{pass: prune.magnitude, sparsity: 0.5}]\n")
        for command, *flags in (("quantize", "--bits", 4), ("prune", "--sparsity", 0.5), ("compress", "--recipe", recipe), ("quantize", "--type", "Q4_0"), ("distill", "--student-layers", 1, "--data", ids(), "--steps", 1)):
            with self.subTest(command):
                name = f"{command}-again" + (".gguf" if "--type" in flags else "")
                self.refused(3, ["q8.gguf", "is Q8_0 already", "--allow-requantize"], command, model, "-o", self.dir / name, *flags, "--eval-data", ids())
                self.ok(command, model, "-o", self.dir / name, *flags, "--eval-data", ids(), "--allow-requantize", "--force")
        self.ok(*self.convert("--type", "F32", model=model, name="f32.gguf"))  # says what the codes mean
        quality = self.json("evaluate", self.dir / "f32.gguf", "--reference", model, "--data", ids())["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        self.ok(*self.convert("--allow-requantize", "--type", "F16", model=model, name="f16.gguf"))

    @covers("compress", "--format")
    def test_steps_and_recipes(self):
        recipe = self.dir / "r.yaml"
        recipe.write_text("version: 1\nformat: gguf\ngguf: {type: Q8_0, tensor_types: [{pattern: ffn_down, type: F16}]}\nsteps: [{pass: prune.magnitude, sparsity: 0.5}]\n")
        self.ok("compress", llama(**self.WIDE), "-o", self.dir / "out.gguf", "--recipe", recipe, "--eval-data", ids())
        self.assertEqual((self.types()["blk.0.ffn_down.weight"], self.types()["blk.0.ffn_up.weight"]), ("F16", 8))
        (self.dir / "again.yaml").write_text(json.dumps(json.loads(read_gguf(self.dir / "out.gguf")[0]["llmc.recipe"])))
        self.ok("compress", llama(**self.WIDE), "-o", self.dir / "again.gguf", "--recipe", self.dir / "again.yaml", "--eval-data", ids())
        self.assertEqual((self.dir / "out.gguf").read_bytes(), (self.dir / "again.gguf").read_bytes())
        self.ok("prune", llama(), "-o", self.dir / "pruned.gguf", "--sparsity", 0.5, "--eval-data", ids())
        self.refused(2, ["quantize.rtn", "GGUF has no such grid"], "quantize", llama(), "-o", self.dir / "codes.gguf", "--bits", 4, "--group-size", 16, "--eval-data", ids())
        self.refused(2, ["ends in .gguf"], "prune", llama(), "-o", self.dir / "no", "--sparsity", 0.5, "--format", "gguf", "--eval-data", ids())
        self.refused(2, ["does not end in .gguf"], "prune", llama(), "-o", self.dir / "no.gguf", "--sparsity", 0.5, "--format", "hf", "--eval-data", ids())

    @support.long_under_sanitizers
    @covers("quantize", "--rounding")
    def test_rounding_that_calibrates(self):
        model = llama("BF16", **self.WIDE)
        calibration = ["--calibration", ids(), "--nsamples", 4, "--seqlen", 8]
        for rounding in ("weighted", "compensated"):
            report = self.json(*self.quantize("--type", "Q3_K_M", "--rounding", rounding, *calibration, model=model, name=f"{rounding}.gguf"))
            step = next(step for step in report["steps"] if step["name"] == "quantize.gguf")["details"]
            self.assertEqual(step["tensors"], len([t for t in report["tensors"] if t["codec"] != "F32"]))
            self.assertEqual({t["codec"] for t in report["tensors"]}, {"Q3_K", "Q4_K", "Q5_K", "Q6_K", "F32"})
            self.assertIn(f", {rounding}", next(t for t in report["tensors"] if t["codec"] == "Q3_K")["treatment"])
            if rounding == "compensated":
                self.assertLess(sum(row["error"] for row in step["layers"]), 0.7 * sum(row["search_error"] for row in step["layers"]))
            else:
                self.assertTrue(all(0 < row["weighted_error"] < 0.1 for row in step["layers"]))
        # a flag for calibration asks for the best that it makes possible; the file is the same for any number of threads
        self.ok(*self.quantize("--type", "Q3_K_M", *calibration, "--threads", 1, model=model, name="again.gguf"))
        self.assertEqual((self.dir / "again.gguf").read_bytes(), (self.dir / "compensated.gguf").read_bytes())
        # without a GGUF file around it, the packed container takes the blocks
        recipe = self.dir / "r.yaml"
        recipe.write_text(json.dumps({"version": 1, "steps": [{"pass": "quantize.gguf", "types": {"type": "Q3_K_M"}}], "calibration": {"files": [str(ids())], "nsamples": 4, "seqlen": 8}}))
        report = self.json("compress", model, "-o", self.dir / "packed", "--recipe", recipe, "--eval-data", ids())
        self.assertEqual(report["artifact"]["container"], "llmc-packed")
        quality = self.json("evaluate", self.dir / "packed", "--reference", self.dir / "compensated.gguf", "--data", ids())["quality"]
        self.assertEqual((quality["kl_mean"], quality["top1_agreement"]), (0, 1))
        # refined: the same codes, scales and norms trained
        refine = lambda *flags, name: self.json(*self.quantize("--type", "Q3_K_M", "--rounding", "refined", "--heal-epochs", 8, *calibration, *flags, model=model, name=name))
        step = next(step for step in refine(name="refined.gguf")["steps"] if step["name"] == "heal")
        self.assertGreater(step["details"]["trained"]["scales"], 0)
        self.assertLess(step["details"]["loss"][-1], 0.9 * step["details"]["loss"][0])
        refine("--threads", 1, name="again-refined.gguf")
        self.assertEqual((self.dir / "again-refined.gguf").read_bytes(), (self.dir / "refined.gguf").read_bytes())
        before, after = (read_gguf(self.dir / f"{name}.gguf")[1]["blk.0.attn_norm.weight"] for name in ("compensated", "refined"))
        self.assertNotEqual(before, after)
        self.refused(2, ["--heal-epochs", "no sense with --type and --rounding compensated"], *self.quantize("--type", "Q4_0", "--rounding", "compensated", "--heal-epochs", 2, name="no.gguf"))
        self.refused(2, ["--rounding: expected search, weighted, compensated or refined", "'best'"], *self.quantize("--type", "Q4_0", "--rounding", "best", name="no.gguf"))
        self.refused(2, ["--nsamples", "no sense with --type and --rounding search"], *self.quantize("--type", "Q4_0", "--rounding", "search", "--nsamples", 4, name="no.gguf"))
        recipe.write_text(json.dumps({"version": 1, "format": "gguf", "gguf": {"type": "Q4_0"}, "steps": [{"pass": "quantize.gguf", "types": {"type": "Q3_K_M"}}]}))
        self.refused(2, ["expected those of the recipe's gguf", "Q4_0", "Q3_K_M"], "compress", model, "-o", self.dir / "no.gguf", "--recipe", recipe, "--eval-data", ids())


if __name__ == "__main__":
    support.main()
