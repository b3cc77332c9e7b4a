#!/usr/bin/env python3
"""The bundle of `llmc export --for-distillation`: its PyTorch script and `llmc distill --from-bundle` reach the same loss.

    python test_distillation_bundle.py --llmc PATH [--work DIR]

Exits with 77 where torch, transformers or safetensors is not installed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import safetensors  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as problem:
    print(f"skipped: {problem}")
    sys.exit(77)

TINY = Path(__file__).resolve().parent.parent / "golden" / "tiny"
STEPS = 30


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llmc", required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/llmc-bundle-test"))
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    data = options.work / "data.u16"
    data.write_bytes(b"".join(((7 * i * i + 3 * i) % 112).to_bytes(2, "little") for i in range(16 * 24)))

    def run(*command):
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for teacher, student, training in ((TINY / "llama-mha-untied", TINY / "gpt2-tied", ("--batch", 16, "--lr", "3e-3")), (TINY / "gpt2-tied", TINY / "llama-gqa-tied", ("--batch", 4, "--lr", "3e-3"))):
        bundle, ours, theirs = (options.work / f"{student.name}-{kind}" for kind in ("bundle", "llmc", "torch"))
        run(options.llmc, "export", teacher, "--for-distillation", "--student", student, "-o", bundle, "--data", data, "--seqlen", 24, "--top-k", 12)
        report = json.loads(run(options.llmc, "distill", teacher, "--from-bundle", bundle, "-o", ours, "--steps", STEPS, *training, "--training-precision", "f32", "--eval-data", TINY / "llama-mha-untied" / "input_ids.npy", "--eval-seqlen", 16, "--json"))
        found = next(step for step in report["steps"] if step["name"] == "distill")["details"]["training"]["loss"]
        expected = [float(loss) for loss in re.findall(r"loss ([\d.]+)", run(sys.executable, bundle / "train.py", theirs, "--steps", STEPS, *training))]
        assert len(found) == len(expected) == STEPS
        if 16 in training:  # every step sees all samples, so that the order does not matter
            assert max(abs(x / y - 1) for x, y in zip(found, expected)) < 2e-3, list(zip(found, expected))
        epoch = slice(-4, None)  # the last batches together are all samples
        assert abs(sum(found[epoch]) / sum(expected[epoch]) - 1) < 0.1, (found[epoch], expected[epoch])
        assert expected[-1] < 0.7 * expected[0]
        trained = transformers.AutoModelForCausalLM.from_pretrained(theirs)
        assert trained.config.model_type == ("gpt2" if "gpt2" in student.name else "llama")
        print(f"{student.name}: llmc {found[0]:.5f} → {found[-1]:.5f}, PyTorch {expected[0]:.5f} → {expected[-1]:.5f}")


if __name__ == "__main__":
    main()
