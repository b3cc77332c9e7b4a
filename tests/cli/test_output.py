"""Outputs appear whole or not at all: whatever is in their place, a full disk, kill -9 at any moment, Ctrl-C."""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

import support
from support import COMPRESSING, covers, ids, llama, llama_config, llama_shapes, make_llama, quill, random_tensors, run, tiny, write_checkpoint
from test_compress import RUNS, Compress

ARTIFACT = ["config.json", "llmc.json", "model.safetensors", "recipe.yaml", "report.json"]


def content(folder):
    return {file: (folder / file).read_bytes() for file in os.listdir(folder)}


class Targets(Compress):
    @covers(COMPRESSING + " export", "--output")
    def test_places_where_nothing_can_be(self):
        (self.dir / "file").write_text("a file")
        for command in RUNS:
            with self.subTest(command):
                self.refused(4, [self.dir / "absent" / "out", "does not exist"], *self.run_of(command, name="absent/out"))
                self.refused(4, [self.dir / "file" / "out"], *self.run_of(command, name="file/out"))
                self.refused(4, ["already exists"], *self.run_of(command, name="file"))
        self.refused(4, [self.dir / "absent" / "out", "does not exist"], "export", llama(), "--dense", "-o", self.dir / "absent" / "out")
        self.assert_nothing_left(self.dir, "file", "two.yaml")

    def test_the_model_itself(self):
        model = make_llama(self.dir / "model")
        (self.dir / "link").symlink_to(model)
        before = content(model)
        for command in RUNS:
            for name in ("model", "model/", "./model", "link", ".", "model/../model"):
                for flags in ([], ["--force"]):
                    with self.subTest(command=command, name=name, flags=flags):
                        self.refused(2, ["the model's own directory or holds it"], *self.run_of(command, model, *flags, name=name))
        self.refused(2, ["the model's own directory"], "export", model, "--dense", "-o", self.dir / "link", "--force")
        self.assertEqual(content(model), before)
        self.ok(*self.run_of("quantize", model, name="model/compressed"))  # inside it is no harm
        self.assertEqual(content_of_files(model), before)

    def test_force_keeps_the_old_output_when_the_run_fails(self):
        self.ok(*self.run_of("quantize"))
        before = content(self.dir / "out")
        broken = make_llama(self.dir / "broken")
        (broken / "model.safetensors").write_bytes(b"")
        for args in (self.run_of("quantize", broken, "--force"), self.run_of("prune", None, "--force", "--include", "nothing"), self.run_of("quantize", None, "--force", data=self.dir / "absent.u16"), ["export", broken, "--dense", "-o", self.dir / "out", "--force"]):
            self.assertIn(run(*args).code, (2, 3))
            self.assertEqual(content(self.dir / "out"), before)
        self.assert_nothing_left(self.dir, "broken", "out", "two.yaml")

    def test_a_missed_gate_still_replaces(self):
        self.ok(*self.run_of("quantize"))
        self.ok(*self.run_of("prune", None, "--force", "--min-ratio", 50), code=1)
        self.assertEqual(json.loads((self.dir / "out" / "llmc.json").read_text())["command"], "prune")
        self.assert_nothing_left(self.dir, "out", "two.yaml")

    def test_a_parent_that_cannot_be_written(self):
        with ReadOnly(self.dir / "parent") as parent:
            for args in (self.run_of("quantize", name="parent/out"), ["export", llama(), "--dense", "-o", parent / "out"]):
                self.refused(4, [parent, "cannot create"], *args)
            self.assertEqual(os.listdir(parent), [])

    def test_leftovers_of_a_killed_run(self):
        """What has the name of a staging folder of this target and no living owner goes; everything else stays."""
        for name in (".out.llmc-partial-123", ".out2.llmc-partial-5", ".out.llmc-partial-7"):
            (self.dir / name / "sub").mkdir(parents=True)
            (self.dir / name / "model.safetensors").write_bytes(b"half")
        (self.dir / ".out.llmc-partial-note").write_text("a file, none of ours")
        owned = os.open(self.dir / ".out.llmc-partial-7", os.O_RDONLY | os.O_DIRECTORY)  # its writer lives
        self.addCleanup(os.close, owned)
        fcntl.flock(owned, fcntl.LOCK_EX)
        self.ok(*self.run_of("quantize"))
        self.assert_nothing_left(self.dir, ".out.llmc-partial-7", ".out.llmc-partial-note", ".out2.llmc-partial-5", "out", "two.yaml")
        self.assertEqual((self.dir / ".out.llmc-partial-7" / "model.safetensors").read_bytes(), b"half")

    def test_files_of_the_users_in_an_old_output(self):
        """--force removes nothing that llmc did not write."""
        self.ok(*self.run_of("quantize"))
        (self.dir / "out" / "notes.md").write_text("mine")
        before = content(self.dir / "out")
        for args in (self.run_of("prune", None, "--force"), ["export", llama(), "--dense", "-o", self.dir / "out", "--force"]):
            self.refused(4, ["holds notes.md", "choose another output"], *args)
        self.assertEqual(content(self.dir / "out"), before)
        (self.dir / "out" / "notes.md").unlink()
        self.ok(*self.run_of("prune", None, "--force"))

    def test_foreign_files_in_the_place_of_a_gguf_file_and_its_report(self):
        convert = ["convert", llama(), "-o", self.dir / "out.gguf", "--eval-data", ids()]
        imatrix = ["imatrix", llama(), "-o", self.dir / "out.gguf", "--calibration", ids(), "--nsamples", 2, "--seqlen", 16]
        for name in ("out.report.json", "out.training.svg"):
            (self.dir / name).write_text("mine")
            self.refused(4, [name, "already exists"], *convert)
            self.refused(4, [name, "--force replaces only"], *convert, "--force")
            self.assertEqual((self.dir / name).read_text(), "mine")
            (self.dir / name).unlink()
        (self.dir / "out.gguf").write_text("the only copy")
        for args in (convert, imatrix, ["quantize", *convert[1:], "--type", "Q8_0"]):
            self.refused(4, ["out.gguf", "no GGUF file"], *args, "--force")
        self.assertEqual((self.dir / "out.gguf").read_text(), "the only copy")
        (self.dir / "out.gguf").write_text("")
        self.ok(*convert, "--force")
        model = (self.dir / "out.gguf").read_bytes()
        self.refused(4, ["out.gguf", "general.type", "only an earlier imatrix"], *imatrix, "--force")
        self.assertEqual((self.dir / "out.gguf").read_bytes(), model)
        self.ok(*convert, "--force")
        self.assert_nothing_left(self.dir, "out.gguf", "out.report.json", "two.yaml")

    def test_export_writes_no_folder_named_as_a_file(self):
        for name in ("e.gguf", "e.gguf/"):
            self.refused(2, ["e.gguf", "llmc convert"], "export", llama(), "--dense", "-o", f"{self.dir}/{name}")
        self.refused(2, ["b.gguf", "llmc convert"], "export", llama(), "--for-distillation", "--student", llama(), "-o", self.dir / "b.gguf")
        self.assert_nothing_left(self.dir, "two.yaml")

    def test_long_names(self):
        self.ok(*self.run_of("quantize", name="d" * 255))
        self.ok(*self.run_of("prune", None, "--force", name="d" * 255))
        self.ok("convert", llama(), "-o", self.dir / ("g" * 238 + ".gguf"), "--eval-data", ids())
        self.refused(4, ["report.json", "too long"], "convert", llama(), "-o", self.dir / ("g" * 250 + ".gguf"), "--eval-data", ids())
        self.refused(4, ["too long"], *self.run_of("quantize", name="d" * 256))
        self.assert_nothing_left(self.dir, "d" * 255, "g" * 238 + ".gguf", "g" * 238 + ".report.json", "two.yaml")

    def test_paths_that_cannot_be_looked_at(self):
        (self.dir / "loop").symlink_to(self.dir / "loop")
        for name in ("loop/x", "n" * 5000, "loop/x.gguf"):
            told = support.run("convert" if name.endswith("gguf") else "export", llama(), *([] if name.endswith("gguf") else ["--dense"]), "-o", self.dir / name)
            self.assertEqual(told.code, 4, told.err)
            if "gguf" not in name:
                self.refused(4, ["oo"], *self.run_of("quantize", name=name))
        for flags in ([], ["--force"]):
            self.refused(4, ["loop"], *self.run_of("quantize", None, *flags, name="loop"))
        for path in (self.dir / "loop", self.dir / "loop" / "model", self.dir / ("n" * 5000)):
            self.refused(3, [], "inspect", path)
            self.refused(3, [], *self.run_of("quantize", path))
            self.refused(3, [], "evaluate", llama(), "--reference", path, "--data", ids())
        model = make_llama(self.dir / "model")
        for name in ("tokenizer.json", "generation_config.json"):
            (model / name).symlink_to(model / name)
            self.refused(3, [name], "export", model, "--dense", "-o", self.dir / "no")
            (model / name).unlink()
        self.assert_nothing_left(self.dir, "loop", "model", "two.yaml")

    def test_two_runs_with_one_target(self):
        """Whoever is last to finish is told; the artifact is whole."""
        children = [subprocess.Popen([str(a) for a in [support.LLMC, *self.run_of("quantize", None, "-q")]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
        codes = sorted((child.communicate(), child.returncode)[1] for child in children)
        self.assertEqual(codes, [0, 4, 4, 4])
        self.assert_nothing_left(self.dir, "out", "two.yaml")
        self.assertEqual(sorted(os.listdir(self.dir / "out")), ARTIFACT)


def content_of_files(folder):
    return {file: (folder / file).read_bytes() for file in os.listdir(folder) if (folder / file).is_file()}


class Mounted:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        subprocess.run(["umount", self.path], check=True)


class ReadOnly:
    """A folder that nobody can write to: root needs a mount for that."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.path.mkdir()
        if os.geteuid() == 0:
            mount(self.path, "ro")
        else:
            self.path.chmod(0o555)
        return self.path

    def __exit__(self, *_):
        if os.geteuid() == 0:
            subprocess.run(["umount", self.path], check=True)
        else:
            self.path.chmod(0o755)


def mount(path, options):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if done.returncode != 0:
        raise unittest.SkipTest(f"no file system can be mounted here: {done.stderr.strip()}")


class FullDisk(Compress):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("a small file system can be mounted by root only")
        self.disk = self.dir / "disk"
        self.disk.mkdir()

    def disk_of(self, size):
        """A file system of this many bytes at self.disk, for a `with`."""
        mount(self.disk, f"size={size}")
        return Mounted(self.disk)

    def test_too_small_for_the_weights(self):
        with self.disk_of(12288):
            for command in RUNS:
                self.refused(4, [self.disk, "free disk space"], *self.run_of(command, name="disk/out"))
                self.assert_nothing_left(self.disk)
            self.refused(4, [self.disk, "free disk space"], "export", llama(), "--dense", "-o", self.disk / "out")
            self.assert_nothing_left(self.disk)

    def test_full_after_the_weights(self):
        """Room for the weights, none for what follows: the check before writing passes, a write fails."""
        reached = set()
        for command in RUNS:
            self.ok(*self.run_of(command, name=command))
            pages = -(-(self.dir / command / "model.safetensors").stat().st_size // 4096)
            for extra in range(5):  # config.json, recipe.yaml and llmc.json need a page each, report.json some
                with self.subTest(command=command, extra=extra), self.disk_of(4096 * (pages + extra)):
                    refusal = self.refused(4, [self.disk, "No space left on device"], *self.run_of(command, name="disk/out"))
                    reached.add(refusal.err.splitlines()[-1].split(": cannot")[0].rsplit("/", 1)[-1])
                    self.assert_nothing_left(self.disk)
        self.assertGreaterEqual(len(reached), 3, reached)  # several files were the one that did not fit

    def test_old_output_survives(self):
        with self.disk_of(2 ** 17):
            self.ok(*self.run_of("quantize", name="disk/out"))
            before = content(self.disk / "out")
            (self.disk / "ballast").write_bytes(bytes(4096 * (os.statvfs(self.disk).f_bavail - 2)))
            for command in RUNS:
                self.refused(4, [self.disk], *self.run_of(command, None, "--force", name="disk/out"))
                self.assertEqual(content(self.disk / "out"), before)
                self.assert_nothing_left(self.disk, "ballast", "out")
            (self.disk / "ballast").unlink()
            self.ok(*self.run_of("quantize", None, "--force", name="disk/out"))
            self.assert_nothing_left(self.disk, "out")

    def test_junit_and_logits(self):
        with self.disk_of(12288):
            (self.disk / "ballast").write_bytes(bytes(4096 * os.statvfs(self.disk).f_bavail))
            late = self.ok(*self.run_of("quantize", None, "--junit", self.disk / "junit.xml"), code=4)
            self.assertIn("No space left on device", late.err)
            told = self.ok("evaluate", llama(), "--data", ids(), "--logits", self.disk / "x.npy", code=4)
            self.assertIn("No space left on device", told.err)
            self.assert_nothing_left(self.disk, "ballast")


class Limits(Compress):
    def test_a_limit_of_file_sizes(self):
        for args in (self.run_of("quantize"), ["export", llama(), "--dense", "-o", self.dir / "out"], ["convert", llama(), "-o", self.dir / "out.gguf", "--eval-data", ids()]):
            self.refused(4, ["File too large"], *args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
            self.assert_nothing_left(self.dir, "two.yaml")

    def test_a_limit_of_memory(self):
        """Too little memory is no bug of llmc's."""
        if b"__asan_init" in Path(support.LLMC).read_bytes():
            self.skipTest("a sanitizer needs much address space")
        told_so = 0
        for megabytes in range(60, 200, 10):
            limit = megabytes << 20
            told = run("quantize", quill(), "-o", self.dir / "out", "--bits", 4, "--group-size", 32, "--threads", 1, "--max-windows", 2, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
            self.assertNotEqual(told.code, 70, told.err)
            told_so += told.code == 4 and "the memory did not suffice" in told.err
            shutil.rmtree(self.dir / "out", ignore_errors=True)
            self.assert_nothing_left(self.dir, "two.yaml")
        self.assertGreater(told_so, 0)


class Messages(Compress):
    def test_control_characters_and_long_names(self):
        config = llama_config()
        config["flux\u001b[2J\u0000\u009b" + "x" * 100000] = 1
        model = write_checkpoint(self.dir / "model", config, random_tensors(llama_shapes(config)))
        told = run("inspect", model)
        self.assertEqual(told.code, 3)
        self.assertIn("\\x1b[2J\\x00", told.err)
        self.assertLess(len(told.err), 9000)
        self.assertFalse([c for c in told.err if ord(c) < 32 and c != "\n" or 127 <= ord(c) < 160])
        told = run("inspect", self.dir / ("a" * 100 + "\x1b[31m/" + "n/" * 10000))
        self.assertEqual(told.code, 3)
        self.assertIn("bytes more", told.err)
        self.assertNotIn("\x1b", told.err)


class EveryCall(Compress):
    """With a library that lets the n-th call that changes the disk fail, or be the last: for every n."""

    def setUp(self):
        super().setUp()
        compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
        if not compiler:
            self.skipTest("no C compiler for kill_at.c")
        if b"libasan" in subprocess.run(["ldd", support.LLMC], capture_output=True).stdout or b"__asan_init" in Path(support.LLMC).read_bytes():
            self.skipTest("a sanitizer wants to be the first library")
        self.library = self.dir / "kill_at.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self.library, Path(__file__).with_name("kill_at.c"), "-ldl"], check=True)
        self.place = self.dir / "place"
        self.place.mkdir()
        self.model = make_llama(self.dir / "one", num_hidden_layers=1)

    def struck(self, args, at, how):
        environment = {**os.environ, "LD_PRELOAD": str(self.library), "LLMC_AT": str(at), "LLMC_HOW": how, "LLMC_UNDER": str(self.place)}
        return run(*args, env=environment)

    def runs(self):
        """Command lines that write to the place, and the bytes of the weights they make."""
        args = self.run_of("compress", self.model, name="place/out")
        self.ok(*self.run_of("compress", self.model, "--force", name="artifact"))
        yield args, self.weights("artifact")
        self.ok("export", self.dir / "artifact", "--dense", "--force", "-o", self.dir / "dense")
        yield ["export", self.dir / "artifact", "--dense", "-o", self.place / "out"], self.weights("dense")

    def check_whole(self, weights, told):
        """Everything that the command writes is there."""
        out = self.place / "out"
        self.assertEqual((out / "model.safetensors").read_bytes(), weights, told)
        made = json.loads((out / "llmc.json").read_text())["command"]
        self.assertEqual(sorted(os.listdir(out)), ARTIFACT if made == "compress" else ["config.json", "llmc.json", "model.safetensors"], told)
        for file in set(os.listdir(out)) - {"model.safetensors", "recipe.yaml"}:
            json.loads((out / file).read_text())

    def test_into_an_empty_place(self):
        for how in ("kill", "fail"):
            for args, weights in self.runs():
                for at in range(1, 1000):
                    result = self.struck(args, at, how)
                    left = [n for n in os.listdir(self.place) if n != "out"]
                    told = f"{how} {args[0]} at call {at}: exit {result.code}, left {left}\n{result.err}"
                    is_there = (self.place / "out").exists()  # then the call was one after the renaming, or there was no such call
                    if is_there:
                        self.check_whole(weights, told)
                        shutil.rmtree(self.place / "out")
                    if result.code == 0:
                        self.assertTrue(is_there, told)
                        self.assertEqual(left, [], told)
                        break
                    self.assertEqual(result.code, -signal.SIGKILL if how == "kill" else 4, told)
                    self.assertEqual("No space left on device" in result.err, how == "fail", told)
                    if how == "fail":
                        self.assertEqual(left, [], told)
                    elif left:
                        self.assertRegex(left[0], r"^\.out\.llmc-partial-\d+$")
                        if at % 4 == 0:  # the next run removes it; and, the other times, the next but one
                            self.ok(*args)
                            self.assert_nothing_left(self.place, "out")
                            shutil.rmtree(self.place / "out")
                self.assertGreater(at, 12, args)  # a folder, files written and flushed, the folder flushed, a renaming: else the library was not there
                self.assertLess(at, 999)

    def test_over_an_old_output(self):
        self.ok("quantize", self.model, "-o", self.dir / "old", "--bits", 8, "--eval-data", ids(), "-q")
        for how in ("kill", "fail"):
            for args, weights in self.runs():
                for at in range(1, 1000):
                    shutil.rmtree(self.place / "out", ignore_errors=True)
                    shutil.copytree(self.dir / "old", self.place / "out")
                    result = self.struck([*args, "--force"], at, how)
                    left = [n for n in os.listdir(self.place) if n != "out"]
                    told = f"{how} {args[0]} at call {at}: exit {result.code}, left {left}\n{result.err}"
                    self.assertIn(result.code, (0, -signal.SIGKILL if how == "kill" else 4), told)
                    is_old = content(self.place / "out") == content(self.dir / "old")
                    if not is_old:
                        self.check_whole(weights, told)
                    if result.code == 0:
                        self.assertFalse(is_old, told)
                        if not left:
                            break
                    if left and at % 4 == 0:
                        self.ok(*args, "--force")
                        self.assert_nothing_left(self.place, "out")
                self.assertGreater(at, 12, args)
                self.assertLess(at, 999)


class Signals(Compress):
    """On the sample model, whose runs take long enough to be hit in the middle."""

    ARGS = ["--bits", 4, "--group-size", 32, "--max-windows", 2, "--eval-seqlen", 256]

    def setUp(self):
        super().setUp()
        self.args = [str(a) for a in [support.LLMC, "quantize", quill(), "-o", self.dir / "out", *self.ARGS]]
        start = time.monotonic()
        subprocess.run([*self.args, "-q"], check=True, stdout=subprocess.DEVNULL)
        self.seconds = time.monotonic() - start
        self.expected = self.weights()
        shutil.rmtree(self.dir / "out")
        self.random = random.Random(1)

    def struck(self, number, delay, *flags):
        child = subprocess.Popen([*self.args, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(delay)
        child.send_signal(number)
        _, told = child.communicate()
        return child.returncode, told.decode()

    def when_staged(self, number, delay, *flags):
        """Strikes some time after the weight file appears in the staging folder."""
        child = subprocess.Popen([*self.args, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while child.poll() is None and not list(self.dir.glob(".out.llmc-partial-*/model.safetensors")):
            time.sleep(0.0005)
        time.sleep(delay)
        child.send_signal(number)
        _, told = child.communicate()
        return child.returncode, told.decode()

    def strikes(self, times):
        for i in range(times):
            yield (self.struck, self.random.uniform(0, self.seconds)) if i % 2 else (self.when_staged, self.random.uniform(0, 0.1 * self.seconds))

    def left(self):
        return sorted(os.listdir(self.dir))

    @support.long_under_sanitizers
    def test_kill_leaves_nothing_or_all(self):
        killed = left_over = 0
        for strike, delay in self.strikes(12):
            code, told = strike(signal.SIGKILL, delay)
            killed += code == -signal.SIGKILL
            if (self.dir / "out").exists():
                self.assertEqual(self.weights(), self.expected)
                self.assertEqual(sorted(set(ARTIFACT) - set(os.listdir(self.dir / "out"))), [])
                shutil.rmtree(self.dir / "out")
            partial = [n for n in self.left() if n != "two.yaml"]
            self.assertLessEqual(len(partial), 1)  # the one before it went when this run began
            left_over += len(partial)
        self.assertGreater(killed, 3)
        self.assertGreater(left_over, 2)  # else no run was hit in the middle
        subprocess.run([*self.args, "-q"], check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.left(), ["out", "two.yaml"])
        self.assertEqual(self.weights(), self.expected)

    @support.long_under_sanitizers
    def test_kill_keeps_the_old_output(self):
        self.ok("prune", tiny("llama-bf16"), "-o", self.dir / "out", "--sparsity", "0.5", "--eval-data", tiny("llama-bf16") / "input_ids.npy")
        old = content(self.dir / "out")
        kept = 0
        for strike, delay in self.strikes(8):
            strike(signal.SIGKILL, delay, "--force")
            now = content(self.dir / "out")
            kept += now == old
            if now != old:
                self.assertEqual(now["model.safetensors"], self.expected)
                json.loads(now["report.json"])
                break
        self.assertGreater(kept, 0)

    @support.long_under_sanitizers
    def test_interrupt_cleans_up(self):
        codes = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for strike, delay in self.strikes(8):
                code, told = strike(number, 0.05 + 0.9 * delay if strike == self.struck else delay)
                codes.append(code)
                self.assertIn(code, (130, 0, -number), told)
                if code == -number:  # it came before the program listened
                    self.assertEqual(self.left(), ["two.yaml"])
                elif code == 130:
                    self.assertIn("llmc: error: interrupted; nothing was written", told)
                    self.assertEqual(self.left(), ["two.yaml"])
                else:
                    self.assertEqual(self.weights(), self.expected)
                    shutil.rmtree(self.dir / "out")
                    self.assertEqual(self.left(), ["two.yaml"])
        self.assertGreater(codes.count(130), 6)

    def test_a_closed_terminal(self):
        """SIGHUP, which may come twice; under nohup it is nothing."""
        child = subprocess.Popen(self.args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while child.poll() is None and not list(self.dir.glob(".out.llmc-partial-*/model.safetensors")):
            time.sleep(0.0005)
        for _ in range(3):
            child.send_signal(signal.SIGHUP)
            time.sleep(0.002)
        _, told = child.communicate()
        self.assertEqual(child.returncode, 130, told)
        self.assertEqual(self.left(), ["two.yaml"])
        child = subprocess.Popen(self.args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        while child.poll() is None and not list(self.dir.glob(".out.llmc-partial-*/model.safetensors")):
            time.sleep(0.0005)
        child.send_signal(signal.SIGHUP)
        _, told = child.communicate()
        self.assertEqual(child.returncode, 0, told)
        self.assertEqual(self.weights(), self.expected)

    def test_interrupt_keeps_the_old_output(self):
        self.ok("prune", tiny("llama-bf16"), "-o", self.dir / "out", "--sparsity", "0.5", "--eval-data", tiny("llama-bf16") / "input_ids.npy")
        old = content(self.dir / "out")
        code, _ = self.when_staged(signal.SIGINT, 0, "--force")
        self.assertEqual(code, 130)
        self.assertEqual(content(self.dir / "out"), old)
        self.assertEqual(self.left(), ["out", "two.yaml"])

    def test_interrupt_of_an_evaluation(self):
        child = subprocess.Popen([str(support.LLMC), "evaluate", str(quill()), "--data", str(quill() / "held_out.txt")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.5 * self.seconds + 0.3)
        child.send_signal(signal.SIGINT)
        out, told = child.communicate()
        self.assertEqual((child.returncode, out), (130, b""), told)


if __name__ == "__main__":
    support.main()
