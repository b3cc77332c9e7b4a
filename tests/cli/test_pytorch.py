"""pytorch_model.bin: read like the safetensors it was made from; a pickle that would do anything is refused by name."""

import io
import json
import os
import pickle
import shutil
import zipfile

import support
from support import Case, ids, read_safetensors, tiny


def golden(name):
    return support.SOURCE / "tests/golden/pytorch" / name


class Attack:
    """What pickle.loads would run."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Pytorch(Case):
    def setUp(self):
        super().setUp()
        self.model = self.dir / "model"
        shutil.copytree(golden("llama"), self.model)
        self.file = self.model / "pytorch_model.bin"

    def is_refused(self, *words):
        self.refused(3, words, "inspect", self.model)

    def rewrite(self, compression=zipfile.ZIP_STORED, **changes):
        """The archive anew, entries by their last name changed (None: left out)."""
        out = io.BytesIO()
        with zipfile.ZipFile(self.file) as old, zipfile.ZipFile(out, "w", compression) as new:
            for entry in old.infolist():
                key = entry.filename.rsplit("/", 1)[1].replace(".", "_")
                content = changes.get(key, old.read(entry)) if key in changes else old.read(entry)
                if content is not None:
                    new.writestr(entry.filename, content)
        self.file.write_bytes(out.getvalue())

    def test_the_same_model(self):
        """Whole and in shards: the same tensors, the same bytes of an artifact, the same figures."""
        outs = {}
        for name, model in (("safetensors", tiny("llama-sharded")), ("whole", golden("llama")), ("shards", golden("llama-sharded"))):
            self.ok("export", model, "--dense", "-o", self.dir / f"{name}-dense")
            report = self.json("quantize", model, "-o", self.dir / name, "--bits", 4, "--group-size", 16, "--eval-data", ids())
            outs[name] = ({n: t.raw for n, t in read_safetensors(self.dir / f"{name}-dense")[0].items()}, (self.dir / name / "model.safetensors").read_bytes(), report["quality"])
        self.assertEqual(outs["whole"], outs["safetensors"])
        self.assertEqual(outs["shards"], outs["safetensors"])
        files = json.loads((self.dir / "shards/llmc.json").read_text())["source_sha256"]
        self.assertEqual(len([f for f in files if f.endswith(".bin")]), 3)

    def test_safetensors_go_first(self):
        """As transformers reads it; a notice says so."""
        told = self.ok("inspect", self.model, "-v").err
        self.assertNotIn("is read, as", told)
        for file in tiny("llama-sharded").glob("model*"):
            shutil.copy(file, self.model)
        self.file.write_bytes(b"never looked at")
        self.assertIn("both model.safetensors.index.json and pytorch_model.bin are there; the first is read", self.ok("inspect", self.model, "-v").err)

    def test_pickles_that_do_something(self):
        """Made by Python's own pickle; none runs, each is refused by the name of what it would call."""
        marker = self.dir / "marker"
        for value, name in ((Attack(os.system, f"touch {marker}"), "posix.system"), (Attack(eval, f"open({str(marker)!r}, 'w')"), "__builtin__.eval"), (Attack(exec, "pass"), "__builtin__.exec"),
                            (Attack(shutil.rmtree, str(self.dir)), "shutil.rmtree"), (Attack(getattr, 1, "real"), "__builtin__.getattr"), (Attack(pickle.loads, b"N."), "pickle.loads")):
            with self.subTest(name):
                self.rewrite(data_pkl=pickle.dumps({"model.norm.weight": value}, protocol=2))
                self.is_refused(self.file, f"global {name} is refused", "nothing is executed")
        self.assertFalse(marker.exists())
        for protocol in (0, 1, 3, 4, 5):
            self.rewrite(data_pkl=pickle.dumps({"a": Attack(os.system, "true")}, protocol=protocol))
            self.is_refused(self.file, "pickle of protocol 2" if protocol < 2 else f"protocol {protocol}; expected 2")
        self.rewrite(data_pkl=pickle.dumps({"model.norm.weight": 1.5}, protocol=2))
        self.is_refused(self.file, "opcode 0x47")

    def test_names_that_are_no_text(self):
        """Half of a surrogate pair, which Python lets into its texts."""
        self.rewrite(data_pkl=pickle.dumps({"\udc80x": 1}, protocol=2))
        self.is_refused(self.file, "pickle: text that is not UTF-8 from its byte 0 on")

    def test_archives(self):
        whole = self.file.read_bytes()
        self.rewrite(compression=zipfile.ZIP_DEFLATED)
        self.is_refused(self.file, "is compressed (method 8", "expected it stored")
        self.file.write_bytes(whole)
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
            new.writestr("model/data.pkl", bytes(50_000_000))
        self.file.write_bytes(bomb.getvalue())
        self.is_refused(self.file, "entry model/data.pkl: is compressed", "50000000 bytes from")
        for content, words in ((b"", ["no ZIP archive"]), (whole[:-1], ["no ZIP archive, or a truncated one"]), (whole[:1000], ["no ZIP archive"]), (whole[1:], ["ZIP"]), (pickle.dumps({}, protocol=2), ["bare pickle, as PyTorch before 1.6"])):
            self.file.write_bytes(content)
            self.is_refused(self.file, *words)
        self.file.write_bytes(whole)
        self.rewrite(data_pkl=None)
        self.is_refused(self.file, "no entry FOLDER/data.pkl")
        self.file.write_bytes(whole)
        self.rewrite(**{"0": b"1234"})
        self.is_refused(self.file, "its storage pytorch_model/data/0: expected", "found 4 bytes")
        self.file.write_bytes(whole)
        self.rewrite(**{"0": None})
        self.is_refused(self.file, "its storage pytorch_model/data/0 is not in the archive")
        self.file.write_bytes(whole)
        self.rewrite(byteorder=b"big")
        self.is_refused(self.file, "byteorder: expected little, found big")

    def test_shards_that_disagree(self):
        shutil.rmtree(self.model)
        shutil.copytree(golden("llama-sharded"), self.model)
        index = self.model / "pytorch_model.bin.index.json"
        self.ok("inspect", self.model)
        names = json.loads(index.read_text())["weight_map"]
        first, shards = sorted(names)[0], sorted(set(names.values()))
        index.write_text(json.dumps({"weight_map": {**names, first: shards[-1]}}))
        self.is_refused(index, f"tensor {first}: the index expects it in {shards[-1]}, found in {names[first]}")
        index.write_text(json.dumps({"weight_map": {**names, first: "../" + names[first]}}))
        self.is_refused(index, f"tensor {first}", "is not a plain file name")
        index.write_text(json.dumps({"weight_map": names}))
        (self.model / shards[0]).unlink()
        self.is_refused(index, shards[0], "cannot open")


if __name__ == "__main__":
    support.main()
