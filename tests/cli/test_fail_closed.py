"""Damaged, contradictory or unsuitable input: always an error that says where, what was expected and what was found."""

import array
import json
import random
import shutil
import struct

import support
from support import floats, ids, lay_out, llama, llama_config, llama_shapes, quill, random_tensors, read_safetensors, run, tiny, Tensor, write_checkpoint, write_file, write_npy, write_safetensors
from test_compress import RUNS, Compress

UP = "model.layers.0.mlp.up_proj.weight"


class Damaged(Compress):
    """A copy of a tiny checkpoint that a test spoils."""

    def setUp(self):
        super().setUp()
        self.config = llama_config()
        self.tensors = random_tensors(llama_shapes(self.config))
        self.model = write_checkpoint(self.dir / "model", self.config, self.tensors)
        self.file = self.model / "model.safetensors"

    def is_refused(self, words, code=3, model=None):
        return self.refused(code, words, "inspect", model or self.model)


class Files(Damaged):
    def test_every_command_refuses_and_writes_nothing(self):
        self.file.write_bytes(self.file.read_bytes()[:-1])
        words = [self.file, "tensor model.norm.weight", "data at bytes", f"holds {sum(len(t.raw) for t in self.tensors.values()) - 1} bytes"]
        for command in RUNS:
            self.refused(3, words, *self.run_of(command, self.model))
            self.refused(3, words, *self.run_of(command, self.model, "--dry-run"))
        self.refused(3, words, "evaluate", self.model, "--data", ids())
        self.refused(3, words, "evaluate", llama(), "--reference", self.model, "--data", ids())
        self.refused(3, words, "export", self.model, "--dense", "-o", self.dir / "out")
        self.refused(3, words, "inspect", self.model)
        self.assert_nothing_left(self.dir, "model", "two.yaml")

    def test_lengths(self):
        whole = self.file.read_bytes()
        size, = struct.unpack("<Q", whole[:8])
        for content, words in ((b"", ["truncated", "at least 8 bytes", "found 0"]), (whole[:5], ["truncated", "found 5"]), (whole[:8], ["truncated", f"the header needs {size} bytes", "found 0"]), (whole[:size], ["truncated", f"needs {size}", f"found {size - 8}"]),
                               (struct.pack("<Q", len(whole)) + whole[8:], ["truncated", f"needs {len(whole)} bytes"]), (struct.pack("<Q", 2 ** 63) + whole[8:], ["header of 9223372036854775808 bytes", "limit"]), (struct.pack("<Q", 100_000_001) + whole[8:], ["100000001", "limit of 100000000"]),
                               (struct.pack("<Q", size - 1) + whole[8:], ["not valid JSON"]), (whole[:-4], [f"tensor model.norm.weight", "data at bytes"]), (whole + b"\0" * 4, ["tensors end at byte", f"holds {len(whole) - 8 - size + 4}"]), (struct.pack("<Q", 0) + whole[8:], ["not a JSON object"])):
            with self.subTest(words=words):
                self.file.write_bytes(content)
                self.is_refused([self.file, *words])

    def test_headers_that_lie(self):
        header, data = lay_out(self.tensors)
        embed, size = "model.embed_tokens.weight", 64 * 32 * 4
        end = len(data)
        for changes, words in (({embed: {"data_offsets": [0, size + 4]}}, [f"tensor {embed}", "F32 [64, 32] needs 8192 bytes", "found 8196"]), ({embed: {"data_offsets": [0, size - 4]}}, [f"tensor {embed}", "needs 8192 bytes", "found 8188"]),
                               ({UP: {"data_offsets": [0, 6144]}}, ["2 problems", f"tensor {embed}: overlaps the tensor before it: starts at byte 0, expected 6144", "a hole before it"]), ({"model.norm.weight": {"data_offsets": [end, end + 128]}}, ["tensor model.norm.weight", f"data at bytes {end} to {end + 128}", f"holds {end}"]),
                               ({embed: {"data_offsets": [8192, 0]}}, [f"tensor {embed}", "data at bytes 8192 to 0"]), ({embed: {"data_offsets": [-8192, 0]}}, [f"tensor {embed}", "non-negative integers"]), ({embed: {"data_offsets": [0.0, 8192.0]}}, ["non-negative integers"]),
                               ({embed: {"data_offsets": [0, 2 ** 64 - 1]}}, [f"tensor {embed}", "non-negative integers"]), ({embed: {"data_offsets": [0, size, 1]}}, [f"tensor {embed}", "data_offsets", "pair"]), ({embed: {"data_offsets": None}}, ["data_offsets", "missing"]),
                               ({embed: {"dtype": "F33"}}, [f"tensor {embed}", "dtype F33 is not known"]), ({embed: {"dtype": 7}}, [f"tensor {embed}", '"dtype"', "a string"]), ({embed: {"dtype": "F64"}}, ["F64 [64, 32] needs 16384", "found 8192"]), ({embed: {"dtype": "BF16"}}, ["needs 4096", "found 8192"]),
                               ({embed: {"shape": [64, 33]}}, ["[64, 33] needs 8448"]), ({embed: {"shape": "64x32"}}, ["shape"]), ({embed: {"shape": [2 ** 32, 2 ** 32]}}, [f"tensor {embed}", "[4294967296, 4294967296] is not a possible size"]), ({embed: {"shape": [2 ** 62]}}, [f"tensor {embed}"]), ({embed: {"shape": [-64, -32]}}, [f"tensor {embed}", "non-negative"]),
                               ({embed: {"shape": [2 ** 63, 1]}}, [f"tensor {embed}"]), ({embed: {"quantum": 1}}, [f"tensor {embed}", 'unknown field "quantum"']), ({"__metadata__": {"format": 5}}, ["__metadata__", '"format" is not a string'])):
            with self.subTest(changes=str(changes)):
                write_file(self.file, {**header, **{name: {**header.get(name, {}), **change} for name, change in changes.items()}}, data)
                self.is_refused([self.file, *words])

    def test_holes_and_overlaps(self):
        header, data = lay_out(self.tensors)
        first = header["model.embed_tokens.weight"]["data_offsets"][1]
        moved = {name: {**row, "data_offsets": [o + 4 * (o >= first) for o in row["data_offsets"][:1]] + [row["data_offsets"][1] + 4 * (row["data_offsets"][0] >= first)]} for name, row in header.items()}
        write_file(self.file, moved, data[:first] + b"\0\0\0\0" + data[first:])
        self.is_refused([self.file, "a hole before it", f"starts at byte {first + 4}, expected {first}"])
        write_file(self.file, {name: {**row, "data_offsets": [o + 8 for o in row["data_offsets"]]} for name, row in header.items()}, b"\0" * 8 + data)
        self.is_refused(["tensor model.embed_tokens.weight", "a hole before it", "starts at byte 8, expected 0"])
        q, k = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight"
        write_file(self.file, {**header, k: {**header[k], "data_offsets": [header[q]["data_offsets"][0], header[q]["data_offsets"][0] + 2048]}}, data)
        refusal = self.is_refused(["overlaps", "problems"])  # and the hole where it was
        self.assertIn("a hole before it", refusal.err)

    def test_json_that_is_not_a_header(self):
        header, data = lay_out(self.tensors)
        text = json.dumps(header).encode()
        for content, words in ((b"[" + text + b"]", ["not a JSON object"]), (b"{}", ["tensors end at byte 0"]), (text[:-1], ["not valid JSON"]), (text + b"{}", ["not valid JSON"]), (b"\xff" + text, ["not a JSON object"]), (text.replace(b"embed", b"emb\xffd"), ["not valid JSON"]),
                               (text[:-1] + b', "model.norm.weight": ' + json.dumps(header["model.norm.weight"]).encode() + b"}", ['"model.norm.weight" appears twice']), (text.replace(b'"dtype": "F32"', b'"dtype": "F32", "dtype": "F16"', 1), ['"dtype" appears twice']),
                               (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", ["nested more than 64"]), (b'{"a": ' + b'{"b": ' * 5000 + b"1" + b"}" * 5001, ["nested more than 64"]), (b'{"a": ' + b"[" * 2_000_000, ["nested more than 64"]), (b"5", ["not a JSON object"]), (json.dumps({**header, "model.norm.weight": 5}).encode(), ["tensor model.norm.weight", "an object"])):
            with self.subTest(words=words):
                write_file(self.file, content, data)
                self.is_refused([self.file, *words])

    def test_nothing_there(self):
        self.file.unlink()
        self.is_refused([self.model, "expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json, found none of them"])
        self.file.mkdir()
        self.is_refused([self.file, "not a regular file"])
        self.is_refused(["absent", "not a directory"], model=self.dir / "absent")
        self.is_refused(["config.json", "not a GGUF file"], model=self.model / "config.json")

    def test_random_damage_never_crashes(self):
        """Bytes of headers, config.json, index and recipe changed at random: accepted or refused, never a crash or a bug."""
        self.ok(*self.run_of("compress", name="packed"))
        self.ok(*self.run_of("quantize", name="codes"))
        shards = shutil.copytree(tiny("llama-sharded"), self.dir / "shards")
        source = random.Random(20)
        refused = 0
        for folder, file in [(folder, file) for folder in (self.model, self.dir / "packed", self.dir / "codes") for file in ("model.safetensors", "config.json")] + [(shards, "model.safetensors.index.json"), (self.dir, "two.yaml")]:
            whole = (folder / file).read_bytes()
            length = 8 + struct.unpack("<Q", whole[:8])[0] if file == "model.safetensors" else len(whole)
            for _ in range(12):
                spoilt = bytearray(whole)
                for _ in range(source.choice((1, 1, 3))):
                    spoilt[source.randrange(length)] = source.choice(b'0192{}[]",:-\0\xff\x80aF ')
                (folder / file).write_bytes(spoilt)
                is_recipe = file == "two.yaml"
                result = run(*(self.run_of("compress", None, "--dry-run") if is_recipe else ["inspect", folder]))
                self.assertIn(result.code, (0, 2, 3) if is_recipe else (0, 3), f"{result.err}\n{bytes(spoilt)}")
                refused += result.code != 0
            (folder / file).write_bytes(whole)
        self.assertGreater(refused, 60)  # of 96


class Tensors(Damaged):
    def test_missing_and_surplus_are_all_named(self):
        for name in ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
            del self.tensors[name]
        self.tensors["model.layers.0.mlp.up_porj.weight"] = self.tensors.pop(UP)
        self.tensors["model.layers.2.mlp.down_proj.weight"] = self.tensors["model.layers.1.mlp.down_proj.weight"]
        self.tensors["lm_heat.weight"] = self.tensors["model.embed_tokens.weight"]
        write_safetensors(self.file, self.tensors)
        self.is_refused(["6 problems", "tensor model.layers.1.self_attn.k_proj.weight: missing", "tensor model.norm.weight: missing", f'tensor {UP}: missing (did you mean "model.layers.0.mlp.up_porj.weight"?)',
                         "tensor model.layers.0.mlp.up_porj.weight: found, but LlamaForCausalLM has no such tensor", "tensor model.layers.2.mlp.down_proj.weight: found", "tensor lm_heat.weight: found"])

    def test_more_problems_than_fit(self):
        write_safetensors(self.file, {f"junk.{i}.weight": floats("F32", [1], [0]) for i in range(30)})
        refusal = self.is_refused(["50 problems", "… and 30 more"])
        self.assertEqual(refusal.err.count("\n  - "), 20)

    def test_shapes(self):
        self.tensors[UP] = Tensor("F32", [32, 48], self.tensors[UP].raw)
        self.tensors["model.norm.weight"] = floats("F32", [1, 32], [1] * 32)
        self.tensors["model.embed_tokens.weight"] = floats("F32", [63, 32], [0.1] * 63 * 32)
        write_safetensors(self.file, self.tensors)
        self.is_refused(["3 problems", f"tensor {UP}: expected shape [48, 32], found [32, 48]", "tensor model.norm.weight: expected shape [32], found [1, 32]", "tensor model.embed_tokens.weight: expected shape [64, 32], found [63, 32]"])
        self.tensors["model.norm.weight"] = floats("F32", [0], [])
        write_safetensors(self.file, self.tensors)
        self.is_refused(["tensor model.norm.weight: expected shape [32], found [0]"])

    def test_types(self):
        for dtype, width in (("I64", 2), ("I32", 1), ("I16", 0.5), ("I8", 0.25), ("U64", 2), ("U32", 1), ("U16", 0.5), ("U8", 0.25), ("BOOL", 0.25), ("F8_E8M0", 0.25)):
            with self.subTest(dtype):
                spoilt = {**self.tensors, UP: Tensor(dtype, [48, 32], bytes(int(48 * 32 * 4 * width)))}
                write_safetensors(self.file, spoilt)
                self.is_refused([f"tensor {UP}: expected a float type, found {dtype}"])

    def test_nan_and_infinity(self):
        for dtype, bad in (("F32", {"nan": b"\0\0\xc0\x7f", "signalling nan": b"\x01\0\x80\x7f", "inf": b"\0\0\x80\x7f", "-inf": b"\0\0\x80\xff"}), ("F16", {"nan": b"\0\x7e", "inf": b"\0\x7c", "-inf": b"\0\xfc"}), ("BF16", {"nan": b"\xc0\x7f", "inf": b"\x80\x7f", "-inf": b"\x80\xff"})):
            for kind, pattern in bad.items():
                with self.subTest(dtype=dtype, kind=kind):
                    config = llama_config(dtype=support.TORCH[dtype])
                    tensors = random_tensors(llama_shapes(config), dtype)
                    for name, at in ((UP, 517), ("model.norm.weight", 31)):
                        raw = bytearray(tensors[name].raw)
                        raw[at * len(pattern):(at + 1) * len(pattern)] = pattern
                        tensors[name] = Tensor(dtype, tensors[name].shape, bytes(raw))
                    write_checkpoint(self.model, config, tensors)
                    words = ["2 problems", f"tensor {UP}: element 517 is NaN or infinite", "tensor model.norm.weight: element 31"]
                    self.is_refused(words)
                    self.refused(3, words, *self.run_of("quantize", self.model))
                    self.refused(3, words, "export", self.model, "--dense", "-o", self.dir / "out")
        raw = b"\xff\xff\x7f\x7f" + self.tensors[UP].raw[4:]
        write_checkpoint(self.model, self.config, {**self.tensors, UP: Tensor("F32", [48, 32], raw)})
        self.ok("inspect", self.model)  # the largest float is finite

    def test_tied_head_that_differs(self):
        self.tensors["lm_head.weight"] = floats("F32", [64, 32], [0.5] * 2048)
        write_safetensors(self.file, self.tensors)
        self.is_refused(["tensor lm_head.weight", "tie_word_embeddings", "differ from model.embed_tokens.weight"])


class Shards(Damaged):
    def setUp(self):
        super().setUp()
        shutil.rmtree(self.model)
        shutil.copytree(tiny("llama-sharded"), self.model)
        self.index = self.model / "model.safetensors.index.json"
        self.map = json.loads(self.index.read_text())["weight_map"]

    def remap(self, **changes):
        weights = {**self.map, **changes}
        self.index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {k: v for k, v in weights.items() if v is not ...}}))

    def test_index_that_disagrees(self):
        names, shards = sorted(self.map), sorted(set(self.map.values()))
        first = next(n for n in names if self.map[n] == shards[0])
        self.ok("inspect", self.model)
        self.remap(**{first: shards[1]})
        self.is_refused([self.index, f"tensor {first}: the index expects it in {shards[1]}, found in {shards[0]}"])
        self.remap(**{first: ...})
        self.is_refused([self.index, f"tensor {first}: found in {shards[0]}, but the index does not list it"])
        self.remap(extra=shards[2])
        self.is_refused([self.index, f"tensor extra: the index expects it in {shards[2]}, not found"])
        self.remap()
        tensors = read_safetensors(self.model / shards[1])[0]
        write_safetensors(self.model / shards[1], {**tensors, first: read_safetensors(self.model / shards[0])[0][first]})  # twice
        self.is_refused([f"tensor {first}: the index expects it in {shards[0]}, found in {shards[1]}"])

    def test_missing_and_broken_shards_are_all_named(self):
        shards = sorted(set(self.map.values()))
        (self.model / shards[0]).unlink()
        (self.model / shards[2]).write_bytes(b"1234567")
        self.is_refused(["2 problems", f"{shards[0]}: cannot open: No such file", f"{shards[2]}: truncated"])

    def test_names_that_leave_the_folder(self):
        write_safetensors(self.dir / "outside.safetensors", {})
        first = sorted(self.map)[0]
        for name in ("../outside.safetensors", "..", ".", "/etc/passwd", str(self.dir / "outside.safetensors"), "", "sub/shard.safetensors", "shard.safetensors/", 5, None, ["a"]):
            with self.subTest(name=name):
                self.remap(**{first: name})
                self.is_refused([self.index, f"tensor {first}", "is not a plain file name"] if name != "." else [str(self.model)])

    def test_index_that_is_none(self):
        for text, words in (("{}", ["weight_map", "missing"]), ("[]", ["expected an object"]), ('{"weight_map": []}', ["weight_map"]), ('{"weight_map": {"a": "b", "a": "c"}}', ['"a" appears twice']), ("{", ["not valid JSON"]), ('{"weight_map": {}}', ["holds 0 tensors"])):
            with self.subTest(text):
                self.index.write_text(text)
                self.is_refused(words)

    def test_both_kinds(self):
        """transformers reads model.safetensors then, and so does llmc; -v says so."""
        other = random_tensors({n: t.shape for s in set(self.map.values()) for n, t in read_safetensors(self.model / s)[0].items()}, seed=9)
        write_safetensors(self.model / "model.safetensors", other)
        told = self.ok("inspect", self.model, "--json", "-v")
        self.assertIn("both model.safetensors and model.safetensors.index.json are there; the first is read", told.err)
        row = next(t for t in json.loads(told.out)["tensors"] if t["name"] == UP)
        self.assertEqual(row["max"], max(other[UP].values()))


class Configs(Damaged):
    def test_fields(self):
        for changes, words in (({"rope_scaling": {"rope_type": "proportional", "factor": 8.0}}, ["rope_scaling", "proportional", "not supported"]), ({"rope_scaling": {"rope_type": "longrope", "factor": 8.0}}, ["rope_scaling", "short_factor", "missing"]), ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_scaling", "low_freq_factor", "missing"]), ({"rope_scaling": {"type": "linear"}}, ["rope_scaling", "factor", "missing"]), ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}, "rope_theta": ...}, ["rope_parameters", "factor", "missing"]),
                               ({"rope_parameters": {"rope_theta": 5.0}}, ["rope_theta is 10000", "5"]), ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "beta_fast": 32}}, ["beta_fast"]), ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]), ({"rope_theta": -1}, ["rope_theta", "positive"]), ({"rope_theta": "x"}, ["rope_theta", "a number"]),
                               ({"hidden_act": "relu2"}, ["hidden_act", "relu2", "not supported"]), ({"hidden_act": 5}, ["hidden_act", "a string"]), ({"num_key_value_heads": 3}, ["4 attention heads", "3 key/value heads"]), ({"num_attention_heads": 5, "num_key_value_heads": 5}, ["hidden size 32", "5 attention heads"]), ({"head_dim": 7}, ["even number of values", "7"]),
                               ({"num_hidden_layers": 2_000_000_000}, ["2000000000 blocks", "20 tensors"]), ({"num_hidden_layers": 2 ** 62}, ["num_hidden_layers", "expected 1 to", str(2 ** 62)]), ({"num_hidden_layers": 0}, ["num_hidden_layers", "found 0"]), ({"num_hidden_layers": -1}, ["num_hidden_layers", "found -1"]), ({"num_hidden_layers": 2.0}, ["num_hidden_layers", "an integer"]), ({"num_hidden_layers": "2"}, ["num_hidden_layers", "an integer"]), ({"num_hidden_layers": 1}, ["model.layers.1.", "no such tensor"]), ({"num_hidden_layers": 3}, ["model.layers.2.", "missing"]),
                               ({"vocab_size": 2 ** 31 - 1}, ["model.embed_tokens.weight", "expected shape [2147483647, 32]"]), ({"vocab_size": 2 ** 31}, ["vocab_size", "expected 1 to"]), ({"vocab_size": 10 ** 30}, ["vocab_size"]), ({"num_attention_heads": 2 ** 31 - 2, "num_key_value_heads": 1, "head_dim": 2 ** 31 - 2}, ["q_proj", "expected shape"]), ({"num_attention_heads": 2 ** 31 - 2, "num_key_value_heads": 2 ** 31 - 2, "head_dim": 2 ** 31 - 2}, ["config.json", "2147483646 attention heads and 2147483646 key/value heads of 2147483646 are more values than can be counted"]),
                               ({"rms_norm_eps": 0}, ["rms_norm_eps", "positive"]), ({"rms_norm_eps": -1e-5}, ["rms_norm_eps"]), ({"rms_norm_eps": "1e-5"}, ["rms_norm_eps", "a number"]), ({"rms_norm_eps": True}, ["rms_norm_eps"]), ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false"]), ({"tie_word_embeddings": False}, ["lm_head.weight: missing"]),
                               ({"attention_bias": True}, ["q_proj.bias: missing"]), ({"mlp_bias": True}, ["up_proj.bias: missing"]), ({"rope_interleaved": True}, ["rope_interleaved", "expected false"]), ({"is_encoder_decoder": True}, ["is_encoder_decoder"]), ({"sliding_window": 4096}, ["sliding_window", "--ignore-config-field sliding_window"]), ({"logit_scale": 2}, ["logit_scale", "not understood"]),
                               ({"architectures": ["LlamaForSequenceClassification"]}, ["architectures", "LlamaForCausalLM", "LlamaForSequenceClassification"]), ({"model_type": "lama"}, ["model_type", '"lama"', 'did you mean "llama"']), ({"model_type": "mamba"}, ["mamba", "not supported"]), ({"model_type": 5}, ["model_type", "a string"]), ({"model_type": ...}, ["model_type", "missing"]),
                               ({"vocab_size": ...}, ["vocab_size", "missing"]), ({"hidden_size": ...}, ["hidden_size", "missing"]), ({"intermediate_size": ...}, ["intermediate_size", "missing"]), ({"num_hidden_layers": ...}, ["num_hidden_layers", "missing"]), ({"num_attention_heads": ...}, ["num_attention_heads", "missing"]), ({"num_key_value_heads": ...}, ["k_proj", "expected shape [32, 32], found [16, 32]"]),
                               ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ["quantization_config", "gptq", "not supported"]), ({"quantization_config": "int8"}, ["quantization_config", "object"]), ({"hidden_act": "relu2", "rope_scaling": {"type": "dynamic"}, "wings": 2}, ["3 problems", "relu2", "factor", "wings"])):
            with self.subTest(changes=str(changes)):
                (self.model / "config.json").write_text(json.dumps({k: v for k, v in {**self.config, **changes}.items() if v is not ...}))
                self.is_refused([str(self.model), *words])

    def test_gpt2_fields(self):
        shutil.rmtree(self.model)
        shutil.copytree(tiny("gpt2-tied"), self.model)
        config = json.loads((self.model / "config.json").read_text())
        for changes, words in (({"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx", "expected false"]), ({"scale_attn_weights": False}, ["scale_attn_weights", "expected true"]), ({"add_cross_attention": True}, ["add_cross_attention"]), ({"n_head": 5}, ["5 attention heads"]), ({"activation_function": "quick_gelu"}, ["activation_function", "quick_gelu"]), ({"n_positions": 31}, ["wpe", "expected shape [31, 32]"])):
            with self.subTest(changes=changes):
                (self.model / "config.json").write_text(json.dumps({**config, **changes}))
                self.is_refused(words)

    def test_waiving_does_not_reach_what_is_understood(self):
        """--ignore-config-field waives the unknown; what llmc knows to change the model stays refused."""
        (self.model / "config.json").write_text(json.dumps({**self.config, "rope_scaling": {"type": "proportional", "factor": 2}}))
        self.refused(3, ["rope_scaling", "proportional"], "inspect", self.model, "--ignore-config-field", "rope_scaling")

    def test_text(self):
        for text, words in (("", ["not valid JSON"]), ("{", ["not valid JSON"]), ("[]", ["not a JSON object"]), (json.dumps(self.config)[:-1] + ', "vocab_size": 64}', ['"vocab_size" appears twice']), ('{"a": ' * 100 + "1" + "}" * 100, ["nested more than 64"]), ('{"model_type": "llama\udcff"}'.encode(errors="surrogateescape"), ["not valid JSON"])):
            with self.subTest(words=words):
                (self.model / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
                self.is_refused([self.model / "config.json", *words])
        (self.model / "config.json").unlink()
        self.is_refused(["config.json", "No such file"])


class Data(Damaged):
    def judged_refusal(self, data, words, code=3):
        """Refused by llmc evaluate, and before any work by the commands that write."""
        self.refused(code, words, "evaluate", self.model, "--data", data)
        self.refused(code, words, *self.run_of("quantize", self.model, data=data))
        self.assertFalse((self.dir / "out").exists())

    def test_ids(self):
        for name, content, words in (("empty.u16", b"", ["holds no tokens"]), ("odd.u16", b"\1\0\2", ["a multiple of 2 bytes", "found 3"]), ("odd.u32", b"\1\0\0\0\2", ["a multiple of 4 bytes", "found 5"]), ("one.u16", b"\1\0", ["holds 1 token, too few"]),
                                     ("over.u16", array.array("H", [1, 2, 63, 64, 5]).tobytes(), ["sequence 0, position 3", "0 to 63", "found 64"]), ("huge.u32", array.array("I", [1, 2 ** 31]).tobytes(), ["2147483648 at position 1"]), ("absent.u16", None, ["No such file"])):
            with self.subTest(name):
                if content is not None:
                    (self.dir / name).write_bytes(content)
                self.judged_refusal(self.dir / name, [name, *words])
        (self.dir / "folder.u16").mkdir()
        self.judged_refusal(self.dir / "folder.u16", ["folder.u16", "not a regular file"])

    def test_npy(self):
        good = write_npy(self.dir / "x.npy", [[1, 2, 3]]).read_bytes()
        def header(descr="<u2", order=False, shape="(1, 3)", data=b"\1\0\2\0\3\0"):
            text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
            return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
        for content, words in ((b"", ["not a .npy file"]), (b"PK\3\4", ["not a .npy file"]), (good[:9], ["truncated"]), (good[:40], ["truncated"]), (good[:-1], ["needs 6 bytes", "found 5"]), (good + b"\0", ["needs 6 bytes", "found 7"]), (header(shape="(1, 4)"), ["needs 8 bytes"]), (header(descr="<f4", shape="(1,)", data=bytes(4)), ["U8, U16, U32, I32 or I64", "F32"]),
                               (header(descr=">u2"), ["'>u2' is not supported"]), (header(descr="|O"), ["'|O'"]), (header(order=True), ["Fortran"]), (header(shape="(1, 1, 3)"), ["1 or 2 dimensions"]), (header(shape="()", data=b"\1\0"), ["1 or 2 dimensions"]), (header(shape="(0, 3)", data=b""), ["holds no tokens"]), (header(shape="(99999999999, 99999999999, 99999999999)"), ["not a possible size"]), (header(shape="(-1, 3)"), ["header"]),
                               (header(descr="<i4", shape="(2,)", data=struct.pack("<2i", 1, -1)), ["0 to 63", "found -1"]), (header(descr="<i8", shape="(2,)", data=struct.pack("<2q", 1, 2 ** 40)), [str(2 ** 40)]), (good.replace(b"\x01\x00", b"\x09\x00", 1), [".npy version 9"])):
            with self.subTest(words=words):
                (self.dir / "x.npy").write_bytes(content)
                self.judged_refusal(self.dir / "x.npy", ["x.npy", *words])

    def test_text_needs_a_tokenizer(self):
        (self.dir / "a.txt").write_text("text")
        self.judged_refusal(self.dir / "a.txt", ["tokenizer.json", "a.txt", ".npy, .u16, .u32"])
        self.refused(3, ["tokenizer.json", "bundled evaluation text"], "evaluate", self.model)
        self.refused(3, ["tokenizer.json", "bundled evaluation text"], "quantize", self.model, "-o", self.dir / "out", "--bits", 8)
        (self.model / "tokenizer.json").write_text("{}")
        self.judged_refusal(self.dir / "a.txt", ["tokenizer.json"])

    def test_text(self):
        """On the sample model, which has a tokenizer."""
        for content, words in ((b"", ["holds no tokens"]), (b"abc \xff def", ["UTF-8"]), (b"a", ["too few"])):
            with self.subTest(words=words):
                (self.dir / "a.txt").write_bytes(content)
                self.refused(3, ["a.txt", *words], "evaluate", quill(), "--data", self.dir / "a.txt")

    def test_tokenizer_of_another_model(self):
        """Ids of the text that the model has no embedding for."""
        shutil.copy(quill() / "tokenizer.json", self.model)
        (self.dir / "a.txt").write_text("The history of the city")
        self.judged_refusal(self.dir / "a.txt", ["a.txt", "expected a token id from 0 to 63"])

    def test_seqlen_over_the_context(self):
        self.refused(2, ["windows of 65 tokens", "context is 64"], *self.run_of("quantize", self.model, "--eval-seqlen", 65))
        self.assert_nothing_left(self.dir, "model", "two.yaml")


if __name__ == "__main__":
    support.main()
