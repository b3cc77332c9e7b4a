"""--logits and --junit: what they may replace, said before the work; perplexities that are not finite."""

import json
import os
import stat
import subprocess

import support
from support import floats, ids, llama, llama_config, llama_shapes, make_llama, random_tensors, write_checkpoint
from test_compress import Compress


class ResultFiles(Compress):
    def evaluate(self, logits, *flags, model=None):
        return ["evaluate", model or llama(), "--data", ids(), "--max-windows", 1, "--logits", logits, *flags]

    def commands(self, path):
        return self.evaluate(path), self.run_of("quantize", None, "--junit", path, name="no")

    def test_files_that_are_none_of_theirs_stay(self):
        (self.dir / "thesis.txt").write_text("the only copy")
        (self.dir / "link").symlink_to(self.dir / "thesis.txt")
        (self.dir / "loose").symlink_to(self.dir / "absent")
        (self.dir / "loop").symlink_to(self.dir / "loop")
        (self.dir / "folder").mkdir()
        for name, words in (("thesis.txt", "replaces only"), ("link", "no regular file"), ("loose", "no regular file"), ("loop", "Too many levels"), ("folder", "no regular file"), ("thesis.txt/x", "thesis.txt"), ("absent/x", "does not exist"), ("x" * 300, "too long")):
            for args in self.commands(self.dir / name):
                with self.subTest(name=name, command=args[0]):
                    self.refused(4, [words], *args)
        self.assertEqual((self.dir / "thesis.txt").read_text(), "the only copy")
        self.assert_nothing_left(self.dir, "folder", "link", "loop", "loose", "thesis.txt", "two.yaml")

    def test_an_earlier_one_or_an_empty_file_is_replaced(self):
        for command, path in (("logits", self.dir / "x.npy"), ("junit", self.dir / "gates.xml")):
            path.touch()
            for _ in range(2):
                self.ok(*(self.evaluate(path) if command == "logits" else self.run_of("quantize", None, "--junit", path, "--force")))
            self.assertGreater(path.stat().st_size, 50)

    def test_what_the_run_reads_or_writes(self):
        model = make_llama(self.dir / "model")
        data = self.dir / "data.u16"
        data.write_bytes(ids().read_bytes())
        before = (model / "model.safetensors").read_bytes()
        for path in (model / "model.safetensors", model / "new.npy", model):
            self.refused(2, ["--logits", "choose another place"], *self.evaluate(path, model=model))
            self.refused(2, ["--logits", "choose another place"], *self.evaluate(path, "--reference", model))
            self.refused(2, ["--junit", "choose another place"], *self.run_of("prune", model, "--junit", path))
        self.refused(2, ["--logits", "choose another place"], "evaluate", model, "--data", data, "--logits", data)
        self.refused(2, ["--junit", "choose another place"], *self.run_of("prune", model, "--junit", data, data=data))
        self.refused(2, ["--junit", "choose another place"], *self.run_of("prune", model, "--junit", self.dir / "out" / "gates.xml"))
        self.ok("convert", model, "-o", self.dir / "model.gguf", "--eval-data", ids())
        self.refused(2, ["--logits", "choose another place"], *self.evaluate(self.dir / "model.gguf", model=self.dir / "model.gguf"))
        self.assertEqual((model / "model.safetensors").read_bytes(), before)
        self.assertEqual(sorted(os.listdir(model)), ["config.json", "model.safetensors"])

    def test_devices_are_written_to(self):
        for path in ("/dev/null", "/dev/stdout"):
            done = subprocess.run([str(a) for a in [support.LLMC, *self.evaluate(path)]], capture_output=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(b"\x93NUMPY" in done.stdout, path == "/dev/stdout")
        told = self.ok(*self.run_of("quantize", None, "--junit", "/dev/stdout"))
        self.assertIn("<testsuites>", told.out)
        for args in self.commands("/dev/full"):
            self.assertEqual(support.run(*args).code, 4)
        for path in ("/dev/null", "/dev/full"):
            self.assertTrue(stat.S_ISCHR(os.stat(path).st_mode))


class NotFinite(Compress):
    def test_a_perplexity_that_is_not_finite_is_a_miss(self):
        config = llama_config()
        tensors = random_tensors(llama_shapes(config))
        for name in tensors:
            if "proj" in name:
                tensors[name] = floats("F32", tensors[name].shape, [3e38] * (len(tensors[name].raw) // 4))
        broken = write_checkpoint(self.dir / "broken", config, tensors)
        for flags in ([broken], [broken, "--reference", llama()], [llama(), "--reference", broken]):
            with self.subTest(flags=flags):
                told = self.ok("evaluate", *flags, "--data", ids(), "--max-windows", 1, code=1)
                self.assertIn(f"{broken}: perplexity is nan, expected a finite one", told.err)
                self.assertIn(" nan", told.out)
                self.assertNotIn("-nan", told.out + told.err)
        self.assertIsNone(json.loads(self.ok("evaluate", broken, "--data", ids(), "--json", code=1).out)["quality"]["perplexity"])


if __name__ == "__main__":
    support.main()
