#!/usr/bin/env python3
"""Checks that the installed transformers, tokenizers and gguf still answer what tests/golden stores.

    python test_golden_is_current.py [--golden DIR]

Writes nothing. Exit code: 0 all agree, 1 something differs, 77 the peers are not installed.
"""

import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "golden"))
sys.dont_write_bytecode = True

try:
    import gguf
    import numpy as np
    import transformers
    from tokenizers import Tokenizer
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

import make_golden

FLOAT32_TOLERANCE = 2e-5  # another CPU sums in another order
FLOAT64_TOLERANCE = 2e-6  # the rotary angles are float32 in either run


def check_tiny(folder):
    ids = np.load(folder / "input_ids.npy")
    single, double = make_golden.reference_logits(folder, ids)
    errors = (make_golden.max_abs(single, np.load(folder / "logits.npy")),
              make_golden.max_abs(double, np.load(folder / "logits64.npy")))
    print(f"{folder.name}: float32 {errors[0]:.1e}, float64 {errors[1]:.1e}")
    return errors[0] <= FLOAT32_TOLERANCE and errors[1] <= FLOAT64_TOLERANCE


def differs(tokenizer, case):
    if "text" in case and tokenizer.encode(case["text"]).ids != case["ids"]:
        return True
    return tokenizer.decode(case["ids"], skip_special_tokens=False) != case["decoded"]


def check_tokenizer(tokenizer_json, cases_jsonl):
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    cases = [json.loads(line) for line in cases_jsonl.read_text().splitlines()]
    wrong = [case for case in cases if differs(tokenizer, case)]
    name = f"{cases_jsonl.parent.name}/{cases_jsonl.name}"
    print(f"{name}: {len(cases)} cases, {len(wrong)} differ", *map(repr, wrong[:3]))
    return bool(cases) and not wrong


def check_gguf(folder):
    wrong = []
    files = sorted(folder.glob("*.bytes.npy"))
    for path in files:
        name = path.name.removesuffix(".bytes.npy")
        stored = np.load(folder / f"{name}.values.npy")
        values = gguf.dequantize(np.load(path), gguf.GGMLQuantizationType[name]).astype(np.float32)
        if values.tobytes() != stored.tobytes():
            wrong.append(name)
    print(f"gguf: {len(files)} types, {len(wrong)} differ", *wrong)
    return bool(files) and not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=TESTS / "golden")
    golden = parser.parse_args().golden.resolve()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    results = [check_tiny(golden / "tiny" / name) for name in make_golden.TINY]
    quill = TESTS.parent / "sample_models/quill-7m/tokenizer.json"
    for cases in ("quill_cases.jsonl", "quill_decode_cases.jsonl"):
        results.append(check_tokenizer(quill, golden / "tokenizer" / cases))
    for name in ("prefix-space", "ignore-merges"):
        folder = golden / "tokenizer" / name
        results.append(check_tokenizer(folder / "tokenizer.json", folder / "cases.jsonl"))
    results.append(check_gguf(golden / "gguf"))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
