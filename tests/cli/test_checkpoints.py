"""What checkpoints are made of: shards in and out, element types, links."""

import array
import hashlib
import json
import os
import shutil
import struct
import time

import support
from support import COMPRESSING, Tensor, covers, encode, floats, ids, llama, llama_config, llama_shapes, make_llama, random_tensors, read_safetensors, write_checkpoint, write_safetensors
from test_compress import Compress

UP = "model.layers.0.mlp.up_proj.weight"


def read_shards(folder):
    """The index, and all tensors by file; every tensor is where the index says."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {name: read_safetensors(folder / name) for name in sorted(set(index["weight_map"].values()))}
    assert {n: f for f, (tensors, _) in files.items() for n in tensors} == index["weight_map"]
    return index, files


class Shards(Compress):
    @covers(COMPRESSING + " distill export", "--shard-size")
    def test_output_in_shards(self):
        """The same tensors as in one file, in files of at most that size, named as Hugging Face names them."""
        for command, flags in (("quantize", []), ("quantize", ["--format", "packed"]), ("prune", []), ("compress", []), ("export", None), ("distill", None)):
            with self.subTest(command=command, flags=flags):
                def args(name):
                    if command == "export":
                        return ["export", llama(), "--dense", "-o", self.dir / name, "--force"]
                    if command == "distill":
                        return ["distill", llama(), "-o", self.dir / name, "--force", "--student-layers", 1, "--steps", 1, "--data", ids(), "--seqlen", 16, "--eval-data", ids()]
                    return self.run_of(command, None, "--force", *flags, name=name)
                self.ok(*args("whole"))
                report = self.json(*args("cut"), "--shard-size", "5kB")
                self.assertFalse((self.dir / "cut/model.safetensors").exists())
                index, files = read_shards(self.dir / "cut")
                whole, metadata = read_safetensors(self.dir / "whole")
                self.assertEqual({n: t for tensors, _ in files.values() for n, t in tensors.items()}, whole)
                self.assertEqual(list(files), [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))])
                self.assertGreater(len(files), 2)
                self.assertEqual(list(files.values())[0][1], metadata)
                for tensors, said in list(files.values())[1:]:
                    self.assertEqual(said, {"format": "pt"})
                for tensors, _ in files.values():
                    self.assertTrue(sum(len(t.raw) for t in tensors.values()) <= 5_000 or len({n.replace(":", ".").rsplit(".", 1)[0] for n in tensors}) == 1)
                self.assertEqual(index["metadata"]["total_size"], sum(len(t.raw) for t in whole.values()))
                text = (self.dir / "cut/model.safetensors.index.json").read_text()
                self.assertEqual(text, json.dumps(index, indent=2, sort_keys=True) + "\n")
                self.assertEqual(report["artifact"]["bytes"], sum((self.dir / "cut" / f).stat().st_size for f in files))
                told = [self.json("evaluate", self.dir / name, "--data", ids())["quality"] for name in ("whole", "cut")]
                self.assertEqual(*told)

    def test_what_fits_is_not_cut(self):
        self.ok(*self.run_of("quantize", None, "--shard-size", "5GB"))
        self.assertTrue((self.dir / "out/model.safetensors").exists())
        self.assertFalse((self.dir / "out/model.safetensors.index.json").exists())

    def test_the_recipe_says_it(self):
        """recipe.yaml of a run gives the same files again."""
        self.ok(*self.run_of("quantize", None, "--shard-size", "5kB"))
        self.ok("compress", llama(), "-o", self.dir / "again", "--recipe", self.dir / "out/recipe.yaml", "--eval-data", ids())
        for file in sorted(os.listdir(self.dir / "out")):
            if file.startswith("model"):
                self.assertEqual((self.dir / "again" / file).read_bytes(), (self.dir / "out" / file).read_bytes())
        self.assertIn("shard_size", json.loads((self.dir / "out/llmc.json").read_text())["recipe"])

    def test_sizes_that_make_no_sense(self):
        for size in ("0", "-1", "many", "5XB"):
            self.refused(2, "--shard-size", *self.run_of("quantize", None, "--shard-size", size))
        self.refused(2, ["--shard-size", "--for-distillation"], "export", llama(), "--for-distillation", "--student", llama(), "-o", self.dir / "out", "--shard-size", "1kB")

    def test_sixty_shards(self):
        """One for each tensor, named by links as in the hub's cache."""
        config = llama_config(num_hidden_layers=7)
        tensors = random_tensors(llama_shapes(config))
        self.assertGreater(len(tensors), 60)
        whole = write_checkpoint(self.dir / "whole", config, tensors)
        cut, blobs = self.dir / "cut", self.dir / "blobs"
        cut.mkdir(), blobs.mkdir()
        (cut / "config.json").write_text(json.dumps(config))
        names = {name: f"model-{i + 1:05}-of-{len(tensors):05}.safetensors" for i, name in enumerate(tensors)}
        for name, file in names.items():
            write_safetensors(blobs / f"{hash(name):x}", {name: tensors[name]})
            (cut / file).symlink_to(f"../blobs/{hash(name):x}")
        (cut / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        self.ok(*self.run_of("quantize", whole, name="a"))
        self.ok(*self.run_of("quantize", cut, name="b"))
        self.assertEqual(self.weights("a"), self.weights("b"))

    def test_links_that_lead_to_no_file(self):
        model = make_llama(self.dir / "model")
        file = model / "model.safetensors"
        file.unlink()
        for target in ("absent", "model.safetensors", ".", "/dev/zero", "/dev/stdin"):
            with self.subTest(target):
                file.symlink_to(target)
                self.refused(3, [file], "inspect", model)
                file.unlink()
        os.mkfifo(file)
        start = time.monotonic()
        self.refused(3, [file, "not a regular file"], "inspect", model)
        self.assertLess(time.monotonic() - start, 30)  # nobody will ever write into it


    def test_side_files_that_cannot_be_read(self):
        """A link that leads nowhere or to itself is there, so it is not passed over; a folder and a pipe are no files."""
        model = make_llama(self.dir / "model")
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"):
            side = model / name
            for make, undo in ((lambda: side.symlink_to("nowhere"), side.unlink), (lambda: side.symlink_to(name), side.unlink), (side.mkdir, side.rmdir), (lambda: os.mkfifo(side), side.unlink)):
                make()
                self.refused(3, [side], *self.run_of("quantize", model))
                self.assertFalse((self.dir / "out").exists())
                undo()
        self.ok(*self.run_of("quantize", model))
        loop = self.dir / "loop"
        loop.symlink_to("loop")
        self.refused(3, [loop, "not a directory"], "inspect", loop)

    def test_the_cache_of_the_hub(self):
        """snapshots/REVISION/NAME → ../../blobs/HASH, for every file."""
        whole = support.tiny("llama-sharded")
        snapshot, blobs = self.dir / "hub/snapshots/main", self.dir / "hub/blobs"
        snapshot.mkdir(parents=True), blobs.mkdir()
        for file in sorted(whole.iterdir()):
            blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
        self.ok(*self.run_of("quantize", whole, name="a"))
        self.ok(*self.run_of("quantize", snapshot, name="b"))
        self.assertEqual(self.weights("a"), self.weights("b"))
        self.assertEqual(sorted(os.listdir(self.dir / "a")), sorted(os.listdir(self.dir / "b")))

    def test_names_of_shards(self):
        whole = support.tiny("llama-sharded")
        model = self.dir / "model"
        shutil.copytree(whole, model)
        index = model / "model.safetensors.index.json"
        names = json.loads(index.read_text())["weight_map"]
        first = sorted(names)[0]
        for name in ("", ".", "..", "../" + names[first], "./" + names[first], names[first] + "\0.old", names[first] + "\n", "\x7f", "x" * 5000 + "/"):
            index.write_text(json.dumps({"weight_map": {**names, first: name}}))
            told = self.refused(3, [index, f"tensor {first}: shard ", "is not a plain file name"], "inspect", model)
            self.assertLess(len(told.err), 1000)
        for value, words in (([], 'field "weight_map": expected an object, found []'), (None, 'field "weight_map" is missing')):
            index.write_text(json.dumps({"weight_map": value}))
            self.refused(3, [index, words], "inspect", model)
        index.write_bytes(json.dumps({"weight_map": names}).encode() + b"\0 and more")
        self.refused(3, [index, "not valid JSON: a zero byte at"], "inspect", model)

    def test_messages_about_the_config(self):
        """The file is named once, and what it holds is cut short."""
        for changes, words in (({"hidden_size": "x"}, ['field "hidden_size": expected an integer, found "x"']), ({"model_type": "evil" * 100_000}, ["model_type", "is not supported"]), ({"mystery": [0] * 100_000}, ['field "mystery"', "is not understood"]), ({"m" * 100_000: 1}, ["is not understood"]), ({"quantization_config": {"quant_method": "x" * 100_000}}, ["quant_method", "not supported"])):
            model = write_checkpoint(self.dir / "model", {**llama_config(), **changes}, {})
            told = self.refused(3, [model / "config.json", *words], "inspect", model)
            self.assertEqual(told.err.count("config.json"), 1)
            self.assertLess(len(told.err), 2000)


class Types(Compress):
    """Every float type holds weights; F8 values are exact in BF16, and these F64 values in F32, so the models are the same."""

    def models(self):
        config = llama_config()
        exact = random_tensors(llama_shapes(config))
        eighth = {name: [round(v * 8) / 8 for v in tensor.values()] for name, tensor in exact.items()}  # eighths up to 2 have three digits in E4M3, two in E5M2 below 1
        halves = {name: [max(-1.75, min(1.75, round(v * 4) / 4)) for v in tensor.values()] for name, tensor in exact.items()}
        for dtype, values in (("F64", eighth), ("F8_E4M3", halves), ("F8_E5M2", halves)):
            plain = {name: floats("F32", exact[name].shape, values[name]) for name in exact}
            yield dtype, values, write_checkpoint(self.dir / f"{dtype}-plain", config, plain), write_checkpoint(self.dir / dtype, config, {name: self.tensor(dtype, exact[name].shape, values[name]) for name in exact})

    @staticmethod
    def tensor(dtype, shape, values):
        if dtype == "F64":
            return Tensor("F64", list(shape), array.array("d", values).tobytes())
        halves = encode("F16", values)  # E5M2 is its upper half; E4M3 has a bias of 7 and a digit more
        if dtype == "F8_E5M2":
            return Tensor(dtype, list(shape), halves[1::2])
        raw = bytearray()
        for bits, in struct.iter_unpack("<H", halves):
            sign, exponent, mantissa = bits >> 8 & 0x80, bits >> 10 & 31, bits >> 7 & 7
            raw.append(sign | (exponent - 8 << 3 | mantissa if exponent else 0))
        return Tensor(dtype, list(shape), bytes(raw))

    @covers("export", "--dtype")
    def test_weights(self):
        for dtype, values, plain, model in self.models():
            with self.subTest(dtype):
                told = [self.json("evaluate", m, "--data", ids())["quality"] for m in (plain, model)]
                self.assertEqual(told[0]["perplexity"], told[1]["perplexity"])
                self.ok("export", model, "--dense", "-o", self.dir / "same", "--force")
                self.assertEqual(read_safetensors(self.dir / "same")[0], read_safetensors(model)[0])  # carried over as they are
                self.ok("export", model, "--dense", "-o", self.dir / "f32", "--dtype", "F32", "--force")
                self.assertEqual({n: list(t.values()) for n, t in read_safetensors(self.dir / "f32")[0].items()}, values)
                self.ok(*self.run_of("quantize", model, "--force", name="quantized"))
                self.ok(*self.run_of("prune", model, "--force", name="pruned"))
                self.ok("export", self.dir / "pruned", "--dense", "-o", self.dir / "zeros", "--force")
                pruned = read_safetensors(self.dir / "zeros")[0][UP]
                self.assertEqual(pruned.dtype, dtype)
                zero = bytes(support.SIZES[dtype])
                self.assertTrue(all(new in (old, zero) for new, old in zip(pruned.elements(), read_safetensors(model)[0][UP].elements())))
                self.ok("convert", model, "-o", self.dir / "f16.gguf", "--force", "--eval-data", ids())

    @covers("export", "--dtype")
    def test_conversion(self):
        source = read_safetensors(llama())[0]
        for dtype, torch in (("F16", "float16"), ("BF16", "bfloat16"), ("F64", "float64"), ("F32", "float32")):
            self.ok("export", llama(), "--dense", "--dtype", dtype, "-o", self.dir / dtype)
            found = read_safetensors(self.dir / dtype)[0]
            self.assertEqual({t.dtype for t in found.values()}, {dtype})
            self.assertEqual(json.loads((self.dir / dtype / "config.json").read_text())["dtype"], torch)
            step = {"F16": 2 ** -11, "BF16": 2 ** -8, "F64": 0, "F32": 0}[dtype]  # half a unit in the last place of 1, relative
            for name, tensor in found.items():
                self.assertTrue(all(abs(a - b) <= step * abs(b) + (2 ** -25 if dtype == "F16" else 0) for a, b in zip(tensor.values(), source[name].values())), name)
        large = {**source, UP: floats("F32", [48, 32], [70000.0] + [0.1] * (48 * 32 - 1))}
        model = write_checkpoint(self.dir / "large", llama_config(), large)
        self.refused(3, [f"tensor {UP}", "70000", "F16 cannot hold"], "export", model, "--dense", "--dtype", "F16", "-o", self.dir / "out")
        self.assertFalse((self.dir / "out").exists())

    def test_what_is_not_finite(self):
        config = llama_config()
        exact = random_tensors(llama_shapes(config))
        for dtype, kinds in (("F64", [struct.pack("<d", v) for v in (float("nan"), float("inf"), -1e39)]), ("F8_E4M3", [b"\x7f", b"\xff"]), ("F8_E5M2", [b"\x7c", b"\xfd"])):
            for bad in kinds:
                raw = bytearray(48 * 32 * len(bad))
                raw[517 * len(bad):518 * len(bad)] = bad
                model = write_checkpoint(self.dir / "model", config, {**exact, UP: Tensor(dtype, [48, 32], bytes(raw))})
                self.refused(3, [f"tensor {UP}: element 517 is " + ("-1e+39, which is beyond f32" if bad == struct.pack("<d", -1e39) else "NaN or infinite")], "inspect", model)


class Quantized(Compress):
    def test_naive_quantized(self):
        """A name that other writers give the layouts of int-quantized and float-quantized."""
        for flags in (["--bits", 8], ["--preset", "FP8A16"]):
            with self.subTest(flags):
                self.ok("quantize", llama(), "-o", self.dir / "out", "--force", "--eval-data", ids(), *flags)
                said = [self.json("evaluate", self.dir / "out", "--data", ids())["quality"]]
                config = json.loads((self.dir / "out/config.json").read_text())
                config["quantization_config"]["format"] = config["quantization_config"]["config_groups"]["group_0"]["format"] = "naive-quantized"
                (self.dir / "out/config.json").write_text(json.dumps(config))
                said.append(self.json("evaluate", self.dir / "out", "--data", ids())["quality"])
                self.assertEqual(*said)


if __name__ == "__main__":
    support.main()
