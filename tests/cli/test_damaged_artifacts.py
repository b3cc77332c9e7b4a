"""Artifacts: no second compression, scales that do not fit their type, and artifacts damaged after they were written."""

import json
import struct

import support
from support import Tensor, floats, ids, llama, llama_config, llama_shapes, make_llama, random_tensors, read_header, read_safetensors, write_checkpoint, write_file, write_safetensors
from test_compress import RUNS
from test_fail_closed import UP, Damaged


class Compressed(Damaged):
    def test_second_compression(self):
        """Codes are rounded again only when that is asked for; pruned floats are floats."""
        for made, flags, rounding in (("quantize", [], "W4A16-g16-symmetric"), ("quantize", ["--format", "packed"], "W4A16-g16-symmetric"), ("compress", [], "W4A16-g16-symmetric")):
            self.ok(*self.run_of(made, None, "--force", *flags, name="artifact"))
            self.ok("export", self.dir / "artifact", "--dense", "-o", self.dir / "dense", "--force")
            meant = {n: t.raw for n, t in read_safetensors(self.dir / "dense")[0].items()}
            for command in RUNS:
                with self.subTest(made=made, flags=flags, command=command):
                    for extra in ([], ["--dry-run"]):
                        self.refused(3, [self.dir / "artifact", f"is {rounding} already", "--allow-requantize"], *self.run_of(command, self.dir / "artifact", *extra))
                    self.assertFalse((self.dir / "out").exists())
            self.ok(*self.run_of("quantize", self.dir / "artifact", "--allow-requantize", "--force", name="again"))
            self.ok(*self.run_of("quantize", self.dir / "dense", "--force", name="from-dense"))
            if made == "quantize":  # else only the first knows which zeros were pruned
                self.assertEqual({n: t.raw for n, t in read_safetensors(self.dir / "again")[0].items()}, {n: t.raw for n, t in read_safetensors(self.dir / "from-dense")[0].items()})
            self.ok("prune", self.dir / "artifact", "-o", self.dir / "pruned", "--sparsity", 0.7, "--allow-requantize", "--force", "--format", "hf", "--eval-data", ids())
            pruned = read_safetensors(self.dir / "pruned")[0]
            self.assertEqual(pruned["model.norm.weight"].raw, meant["model.norm.weight"])
            self.assertTrue(all(v in (0, w) for v, w in zip(pruned[UP].values(), Tensor("F32", [48, 32], meant[UP]).values())))
            self.assertEqual(json.loads((self.dir / "pruned/config.json").read_text())["dtype"], "float32")
            self.ok("convert", self.dir / "artifact", "-o", self.dir / "floats.gguf", "--type", "F32", "--force", "--eval-data", ids())  # only writes down what the codes mean
            self.ok("imatrix", self.dir / "artifact", "-o", self.dir / "imatrix.gguf", "--force", "--calibration", ids(), "--nsamples", 2, "--seqlen", 16)
        self.ok(*self.run_of("prune", name="zeros"))
        self.ok(*self.run_of("quantize", self.dir / "zeros", "--force", name="both"))

    def test_scales_that_do_not_fit(self):
        """A row of f16 weights so small that its scale would be 0 in f16; f32 weights whose range overflows."""
        tensors = random_tensors(llama_shapes(self.config), "F16")
        tensors[UP] = floats("F16", [48, 32], [0.1] * 32 * 5 + [1e-6, -1e-6] * 16 + [0.1] * 32 * 42)
        model = write_checkpoint(self.dir / "small", llama_config(dtype="float16"), tensors)
        for flags in ([], ["--scheme", "linear"]):
            self.refused(3, [f"tensor {UP}", "row 5", "scale of 0 in F16", "finite one that is not 0"], "quantize", model, "-o", self.dir / "out", "--bits", 8, "--eval-data", ids(), *flags)
        self.tensors[UP] = floats("F32", [48, 32], [0.1] * 32 * 47 + [3e38, -3e38] * 16)
        write_checkpoint(self.model, self.config, self.tensors)
        self.refused(3, [f"tensor {UP}", "row 47", "scale of inf in F32"], "quantize", self.model, "-o", self.dir / "out", "--bits", 8, "--scheme", "linear", "--eval-data", ids())
        self.assertFalse((self.dir / "out").exists())


class Artifacts(Damaged):
    """Artifacts that were damaged after they were written."""

    def make(self, command, *flags, model=None):
        self.ok(*self.run_of(command, model, *flags))
        self.artifact = self.dir / "out"
        self.whole = (self.artifact / "model.safetensors").read_bytes()
        self.said = (self.artifact / "config.json").read_text()

    def restore(self):
        (self.artifact / "model.safetensors").write_bytes(self.whole)
        (self.artifact / "config.json").write_text(self.said)

    def spoil(self, name, at, value, start=0):
        """Changes stored bytes of a tensor."""
        self.restore()
        header, _ = read_header(self.artifact / "model.safetensors")
        begin = len(self.whole) - max(row["data_offsets"][1] for n, row in header.items() if n != "__metadata__") + header[name]["data_offsets"][0]
        spoilt = bytearray(self.whole)
        spoilt[begin + at:begin + at + len(value)] = value
        self.assertNotEqual(bytes(spoilt), self.whole)
        (self.artifact / "model.safetensors").write_bytes(spoilt)

    def rewrite(self, change):
        """Changes the header; `change` gets it with the metadata's tensor rows parsed."""
        self.restore()
        header, data = read_header(self.artifact / "model.safetensors")
        rows = json.loads(header["__metadata__"].get("llmc.tensors", "{}"))
        change(header, rows)
        if rows:
            header["__metadata__"]["llmc.tensors"] = json.dumps(rows)
        write_file(self.artifact / "model.safetensors", header, data)

    def not_loaded(self, *words):
        self.refused(3, [self.artifact, *words], "evaluate", self.artifact, "--data", ids())

    def test_mask(self):
        self.make("prune")
        header, data = read_header(self.artifact / "model.safetensors")
        mask = data[header[UP + ":mask"]["data_offsets"][0] + 20]
        self.spoil(UP + ":mask", 20, bytes([mask ^ 4]))
        self.refused(3, [f"tensor {UP}", "part values", "expected F32 [76", "found F32 [768]"], "evaluate", self.artifact, "--data", ids())
        self.refused(3, [f"tensor {UP}", "part values"], "export", self.artifact, "--dense", "-o", self.dir / "dense")
        self.refused(3, [f"tensor {UP}", "part values"], "inspect", self.artifact)

    def test_bits_behind_the_mask(self):
        """84 weights: the last byte of the mask has four bits that mean nothing and must be 0."""
        model = make_llama(self.dir / "odd", hidden_size=12, intermediate_size=7, num_attention_heads=2, num_key_value_heads=1)
        self.make("prune", model=model)
        header, data = read_header(self.artifact / "model.safetensors")
        last = data[header[UP + ":mask"]["data_offsets"][1] - 1]
        self.spoil(UP + ":mask", 10, bytes([last | 0x20]))
        self.refused(3, [f"tensor {UP}", "part mask", "bit 85 is set", "84 elements"], "evaluate", self.artifact, "--data", ids())

    def test_masked_codes(self):
        self.make("compress")
        header, data = read_header(self.artifact / "model.safetensors")
        begin, end = header[UP + ":places"]["data_offsets"]
        self.spoil(UP + ":places", 0, b"\xff" * (end - begin))
        self.refused(3, [f"tensor {UP}", "part places", "expected less than"], "evaluate", self.artifact, "--data", ids())

    def test_scales(self):
        for command, flags, part, patterns in (("quantize", ["--bits", 8], ".weight_scale", [b"\0\0\xc0\x7f", b"\0\0\x80\x7f"]), ("quantize", ["--bits", 8, "--format", "packed"], ".weight:scales", [b"\0\0\xc0\xff"]), ("compress", [], ".weight:scale_base", [b"\x80\x7f"])):
            if command == "quantize":
                self.ok("quantize", llama(), "-o", self.dir / "out", "--force", "--eval-data", ids(), *flags)
                self.artifact, self.whole, self.said = self.dir / "out", (self.dir / "out" / "model.safetensors").read_bytes(), (self.dir / "out" / "config.json").read_text()
            else:
                self.make(command, "--force")
            for pattern in patterns:
                with self.subTest(command=command, flags=flags, pattern=pattern):
                    self.spoil(UP.removesuffix(".weight") + part, 0 if part.endswith("base") else 3 * len(pattern), pattern)
                    for args in (["evaluate", self.artifact, "--data", ids()], ["inspect", self.artifact], ["export", self.artifact, "--dense", "-o", self.dir / "dense"]):
                        refusal = self.refused(3, [f"tensor {UP}", "scale " if part.endswith("base") else "scale 3 is "], *args)
                        self.assertRegex(refusal.err, "nan|inf")
                    self.assertFalse((self.dir / "dense").exists())

    def test_truncated(self):
        for command in RUNS:
            self.make(command, "--force")
            for size in (len(self.whole) - 1, len(self.whole) // 2, 100, 7, 0):
                with self.subTest(command=command, size=size):
                    (self.artifact / "model.safetensors").write_bytes(self.whole[:size])
                    self.not_loaded("bytes")

    def test_packed_metadata(self):
        self.make("compress")
        self.ok("evaluate", self.artifact, "--data", ids())
        def pop(*path):
            def change(header, rows):
                place = {"header": header, "meta": header["__metadata__"], "rows": rows}[path[0]]
                for key in path[1:-1]:
                    place = place[key]
                place.pop(path[-1])
            return change
        def put(*path):
            def change(header, rows):
                place = {"header": header, "meta": header["__metadata__"], "rows": rows}[path[0]]
                for key in path[1:-2]:
                    place = place[key]
                place[path[-2]] = path[-1]
            return change
        for change, words in ((pop("meta", "llmc.format"), ["llmc.format", "missing"]), (pop("meta", "llmc.version"), ["llmc.version", "missing"]), (put("meta", "llmc.version", "2"), ["version 2", "reads version 1"]), (put("meta", "llmc.format", "zip"), ["llmc.format", "expected llmc-packed", "found zip"]),
                              (pop("rows", UP), [UP, "is part of no tensor"]), (put("rows", UP, "codec", "lzma"), [f"tensor {UP}", "codec lzma is not known"]), (pop("rows", UP, "scheme"), [f"tensor {UP}", "scheme", "missing"]), (put("rows", UP, "scheme", "W9A16"), [f"tensor {UP}", "2 to 8"]), (put("rows", UP, "scheme", "W4A16-g13"), [f"tensor {UP}", "13"]), (put("rows", UP, "scheme", "W3A16-g16"), [f"tensor {UP}", "part codes"]), (put("rows", UP, "scheme", "W4A16-g16-linear"), [f"tensor {UP}", "part zero_points is missing"]),
                              (put("rows", UP, "scheme", "W4A16-g32"), [f"tensor {UP}", "part scale_steps", "expected U8 [", "found U8 ["]), (put("rows", UP, "shape", [48, 33]), [f"tensor {UP}"]), (put("rows", UP, "shape", [32, 48]), [f"tensor {UP}", "expected shape [48, 32], found [32, 48]"]), (put("rows", UP, "shape", [-48, -32]), [f"tensor {UP}", "not a possible size"]), (put("rows", UP, "shape", [2 ** 40, 2 ** 40]), [f"tensor {UP}", "not a possible size"]), (put("rows", UP, "shape", "all"), [f"tensor {UP}", "shape"]),
                              (put("rows", UP, "dtype", "I8"), [f"tensor {UP}", "I8"]), (put("rows", UP, "transposed", True), [f"tensor {UP}", "transposed"]), (put("rows", UP, "mystery", 1), [f"tensor {UP}", 'unknown field "mystery"']), (put("rows", "model.extra.weight", {"codec": "dense", "dtype": "F32", "shape": [2]}), ["tensor model.extra.weight"]), (put("header", UP + ":codes", "dtype", "I8"), [f"tensor {UP}", "part codes", "expected U8"])):
            with self.subTest(words=words):
                self.rewrite(change)
                self.refused(3, words, "evaluate", self.artifact, "--data", ids())
        for text, words in (("[]", ["llmc.tensors", "not an object"]), ("{", ["llmc.tensors", "not valid JSON"]), ('{"a": 1, "a": 2}', ['"a" appears twice'])):
            self.restore()
            header, data = read_header(self.artifact / "model.safetensors")
            header["__metadata__"]["llmc.tensors"] = text
            write_file(self.artifact / "model.safetensors", header, data)
            self.not_loaded(*words)
        self.restore()
        config = json.loads(self.said)
        for changes, words in (({"quantization_config": ...}, ["problems", f"tensor {UP}: missing"]), ({"quantization_config": {"llmc_format": "llmc-zipped"}}, ["llmc-zipped", "not supported"])):
            (self.artifact / "config.json").write_text(json.dumps({k: v for k, v in {**config, **changes}.items() if v is not ...}))
            self.not_loaded(*words)

    def test_compressed_tensors_config(self):
        self.make("quantize")
        self.ok("evaluate", self.artifact, "--data", ids())
        for path, value, words in ((["weights", "num_bits"], 9, ["2 to 8", "9"]), (["weights", "num_bits"], 3, ["weight_packed"]), (["weights", "num_bits"], 2 ** 32 + 4, ["num_bits"]), (["weights", "num_bits"], ..., ["num_bits", "missing"]), (["weights", "type"], "float", ["pack-quantized", "type"]), (["weights", "strategy"], "block", ["strategy", "block"]), (["weights", "strategy"], "channel", ["weight_scale", "expected BF16 [32, 1]"]), (["weights", "group_size"], 8, ["weight_scale"]), (["weights", "group_size"], 0, ["group_size", "found 0"]), (["weights", "group_size"], 13, ["13"]),
                                   (["weights", "symmetric"], False, ["weight_zero_point is missing"]), *((["weights", "actorder"], order, [f"actorder {json.dumps(order)} is not supported", "weight_g_idx", "weight, static or null"]) for order in ("group", "dynamic", True, "random")), (["weights", "dynamic"], True, ["dynamic"]), (["weights"], None, ["weights", "missing"]), (["input_activations"], {"num_bits": 8}, ["part input_scale is missing"]), (["input_activations"], {"num_bits": 5}, ["5"]), (["format"], "marlin-24", ["marlin-24"]), (["format"], "int-quantized", ["part weight_packed is there, but", "int-quantized has none"]), (["targets"], ["lm_head"], ["no config group targets it"])):
            with self.subTest(path=path, value=value):
                config = json.loads(self.said)
                place = config["quantization_config"]["config_groups"]["group_0"]
                for key in path[:-1]:
                    place = place[key]
                if value is ...:
                    del place[path[-1]]
                else:
                    place[path[-1]] = value
                (self.artifact / "config.json").write_text(json.dumps(config))
                self.refused(3, words, "evaluate", self.artifact, "--data", ids())
        for order in ("static", "weight", None, False):  # how the codes were found, not where they lie
            config = json.loads(self.said)
            config["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"] = order
            (self.artifact / "config.json").write_text(json.dumps(config))
            self.ok("evaluate", self.artifact, "--data", ids())
        config = json.loads(self.said)
        config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8}
        (self.artifact / "config.json").write_text(json.dumps(config))
        self.not_loaded("key/value cache")
        del config["quantization_config"]
        (self.artifact / "config.json").write_text(json.dumps(config))
        self.not_loaded(f"tensor {UP}: missing", "down_proj.weight_packed: found")

    def test_compressed_tensors_parts(self):
        self.make("quantize")
        module = UP.removesuffix(".weight")
        tensors, _ = read_safetensors(self.artifact)
        for part, tensor, words in (("weight_shape", Tensor("I64", [2], struct.pack("<2q", 48, 31)), [UP]), ("weight_shape", Tensor("I64", [2], struct.pack("<2q", -48, -32)), ["weight_shape", "not a possible size"]), ("weight_shape", Tensor("I64", [2], struct.pack("<2q", 2 ** 40, 2 ** 40)), ["weight_shape"]), ("weight_shape", Tensor("I32", [2], bytes(8)), ["weight_shape", "expected I64 [2]", "found I32 [2]"]), ("weight_shape", None, ["weight_shape"]),
                                    ("weight_scale", None, ["part weight_scale is missing"]), ("weight_scale", Tensor("I32", [48, 2], bytes(384)), ["weight_scale", "F32, F16 or BF16", "I32"]), ("weight_packed", None, ["weight"]), ("weight_packed", Tensor("I32", [48, 3], bytes(48 * 12)), ["weight_packed", "expected I32 [48, 4], found I32 [48, 3]"]), ("weight_surplus", Tensor("F32", [1], bytes(4)), ["weight_surplus"])):
            with self.subTest(part=part, words=words):
                changed = {n: t for n, t in {**tensors, f"{module}.{part}": tensor}.items() if t is not None}
                write_safetensors(self.artifact / "model.safetensors", changed)
                self.refused(3, words, "evaluate", self.artifact, "--data", ids())

    def test_parts_that_do_not_go_together(self):
        """What the scheme has no use for is not dropped in silence; codes without a scale are no weights."""
        module, other = UP.removesuffix(".weight"), "model.layers.0.mlp.down_proj"
        def remove(name):
            return lambda tensors: tensors.pop(name)
        def put(name, tensor):
            return lambda tensors: tensors.update({name: tensor})
        packed, fp8 = ["--bits", 4, "--group-size", 16], ["--preset", "FP8A16"]
        for flags, change, words in ((packed, put(UP, floats("F32", [48, 32], [0.0] * 1536)), [f"tensor {UP}: part weight is there, but W4A16-g16-symmetric in the format pack-quantized has none"]), (["--bits", 8], put(f"{module}.weight_packed", Tensor("I32", [48, 8], bytes(48 * 32))), ["part weight_packed is there"]),
                                     (packed, put(f"{module}.weight_zero_point", Tensor("I8", [48, 2], bytes(95) + b"\1")), [f"tensor {UP}: part weight_zero_point is there"]), (packed, put(f"{module}.weight_zero_point", Tensor("I8", [48, 2], bytes(96))), None), (fp8, put(f"{module}.weight_global_scale", floats("F32", [1], [1.0])), ["part weight_global_scale is there"]),
                                     (fp8, remove(f"{module}.weight_scale"), [f"tensor {UP}: config group group_0 targets it, but it is F8_E4M3 without a weight_scale"]), (["--bits", 8], remove(f"{module}.weight_scale"), [f"tensor {UP}: config group group_0 targets it, but it is I8 without a weight_scale"]),
                                     (packed, remove(f"{module}.weight_scale"), [f"tensor {UP}", "part weight_scale is missing"]), (packed, put(f"{module}.weight_g_idx", Tensor("I32", [32], bytes(128))), [f"tensor {module}.weight_g_idx: found"])):
            with self.subTest(flags=flags, words=words):
                self.ok("quantize", llama(), "-o", self.dir / "out", "--force", "--eval-data", ids(), *flags)
                tensors, _ = read_safetensors(self.dir / "out")
                change(tensors)
                write_safetensors(self.dir / "out/model.safetensors", tensors)
                for command in (["inspect", self.dir / "out"], ["export", self.dir / "out", "--dense", "-o", self.dir / "dense", "--force"]):
                    self.refused(3, [self.dir / "out", *words], *command) if words else self.ok(*command)
        self.ok("quantize", llama(), "-o", self.dir / "out", "--force", "--eval-data", ids(), "--bits", 8)
        config = (self.dir / "out/config.json").read_text()
        dense = read_safetensors(llama())[0]
        write_safetensors(self.dir / "out/model.safetensors", dense)
        self.refused(3, [self.dir / "out/config.json", f"tensor {other}.weight: config group group_0 targets it, but it is F32 without a weight_scale", "ignore"], "inspect", self.dir / "out")
        said = json.loads(config)
        said["quantization_config"]["ignore"] = ["re:.*"]
        (self.dir / "out/config.json").write_text(json.dumps(said))
        self.ok("inspect", self.dir / "out")

    def test_codes_beyond_their_bits(self):
        """int-quantized says how many bits its int8 codes have."""
        self.ok("quantize", llama(), "-o", self.dir / "out", "--force", "--eval-data", ids(), "--bits", 8)
        config = json.loads((self.dir / "out/config.json").read_text())
        config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4
        (self.dir / "out/config.json").write_text(json.dumps(config))
        told = self.refused(3, [self.dir / "out", f"tensor {UP}: the code at row ", "W4A16-channel-symmetric has codes from -8 to 7"], "inspect", self.dir / "out")
        self.assertRegex(told.err, r"column \d+ is -?\d+;")

    def test_groups_and_their_targets(self):
        self.make("quantize")
        config_path = self.artifact / "config.json"
        def write(change):
            config = json.loads(self.said)
            change(config["quantization_config"], config["quantization_config"]["config_groups"])
            config_path.write_text(json.dumps(config))
        def add(targets, **weights):
            def change(_, groups):
                groups["group_1"] = {**groups["group_0"], "targets": targets, "weights": {**groups["group_0"]["weights"], **weights}}
            return change
        def retarget(*targets):
            return lambda _, groups: groups["group_0"].update(targets=list(targets))
        for change, words in ((add(["Linear"], num_bits=3), ["config_groups group_0 (target \"Linear\") and group_1 (target \"Linear\") give it different schemes", f"tensor {UP}"]), (add(["Linear"]), None), (add(["re:.*mlp.up_proj"], num_bits=3), [f"tensor {UP}", "weight_packed: expected I32 [48, 3]"]), (add(["Embedding"], num_bits=3), None),
                              (retarget("re:.*("), [config_path, 'config_groups.group_0.targets: "re:.*("', "missing"]), (retarget("re:(([a-z._0-9]+)+)+[!?]"), [config_path, "group_0.targets", "cannot be matched"]), (lambda config, _: config.update(ignore=["re:[a-"]), [config_path, 'quantization_config.ignore: "re:[a-"']),
                              (lambda config, _: config.update(sparsity_config={"format": "sparse-24-bitmask"}), ["sparsity_config: format 'sparse-24-bitmask' is not supported; expected dense"]), (lambda config, _: config.update(sparsity_config={"format": "dense"}), None), (lambda config, _: config.update(sparsity_config={}), None), (lambda config, _: config.update(transform_config={"config_groups": {"u": {}}}), ["transform_config"]), (lambda config, _: config.update(transform_config={}), None)):
            write(change)
            self.refused(3, words, "inspect", self.artifact) if words else self.ok("inspect", self.artifact)


if __name__ == "__main__":
    support.main()
