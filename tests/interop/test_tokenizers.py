#!/usr/bin/env python3
"""Compares llmc's tokenizers with Hugging Face's, token for token.

    python test_tokenizers.py --encoder build/dev/tests/llmc_encode_text --golden tests/golden/tokenizer --model sample_models/quill-7m
                              [--shared DIR] [--threads N] [--speed]

Of every tokenizer.json (the golden ones, the sample model's, and those below DIR/models and DIR/data/tokenizers), and of every vocab.json with merges.txt there: ids and decoded
text of 10,000 random texts and of 2 MB of text in several scripts from DIR/data, or else of the calibration text. Of every
tokenizer.model: ids of the same, by the sentencepiece package. Of llama.cpp's ggml-vocab-*.gguf that llmc reads: the ids of the texts beside
them. Also whether the installed libraries still answer what the golden files store. Long texts are
encoded with one thread and with N (2), to the same ids, and the speeds of both stand beside those of Hugging Face's encode_batch_fast with as many: the
fastest of three. --speed: fails where llmc's is lower. Exit code: 0 all agree, 1 something differs, 77 the peers are not there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
sys.dont_write_bytecode = True

try:
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

import make_tokenizers

PIECE = 40_000  # characters of a text
SOURCES = {"data/multilingual/test_2016_flickr.*": 70_000, "data/multilingual/zh-poems.txt": 140_000, "data/wikitext-2/wiki.test.raw": 500_000,
           "data/tinystories/sample.txt": 400_000, "data/corpus/books.test.txt": 400_000, "data/corpus/wiki.test.txt": 300_000}


def corpus(shared):
    texts = [path.read_text(encoding="utf-8")[:most] for pattern, most in SOURCES.items() for path in sorted(shared.glob(pattern))]
    texts = texts or [make_tokenizers.CORPUS.read_text(encoding="utf-8")]
    return [text[i:i + PIECE] for text in texts for i in range(0, len(text), PIECE)]


def run_encoder(encoder, tokenizer, texts, folder, threads=None):
    """What llmc answers; and, of all texts together on some threads, its seconds."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([encoder, tokenizer, *([folder / "seconds", str(threads)] if threads else [])], input=lines, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]], float((folder / "seconds").read_text()) if threads else None


def time_batch(tokenizer, texts, threads):
    """Hugging Face's seconds, the least of three. Its pool has RAYON_NUM_THREADS threads from its first use on."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def read_gpt2(folder):
    """As transformers makes a GPT2Tokenizer of the two files."""
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def check(encoder, path, random_texts, long_texts, folder, threads):
    """Texts that differ, and of each number of threads llmc's and Hugging Face's seconds, of one tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(path)) if path.name == "tokenizer.json" else read_gpt2(path.parent)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    answers, _ = run_encoder(encoder, path, random_texts, folder)
    wrong, times = [], []
    for count in (1, threads):
        long_answers, seconds = run_encoder(encoder, path, long_texts, folder, count)
        times.append((seconds, time_batch(tokenizer, long_texts, count)))
        if count == 1:
            with_one = long_answers
    if long_answers != with_one:
        wrong.append(("", "other ids with several threads"))
    for text, answer in zip(random_texts + long_texts, answers + long_answers, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if answer.get("ids") != ids or answer["text"] != tokenizer.decode(ids, skip_special_tokens=False):
            wrong.append((text, answer))
    return wrong, times


def check_sentencepiece(encoder, path, texts, folder):
    """Texts of which ids differ from SentencePiece's, which does not find special tokens in texts."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [text for text in texts if not any(token in text for token in ("<s>", "</s>", "<unk>"))]
    answers, _ = run_encoder(encoder, path, texts, folder)
    return [(text, answer) for text, answer in zip(texts, answers, strict=True) if answer.get("ids") != model.encode(text)]


GGUF_VOCABULARIES = ("ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf", "ggml-vocab-phi-3.gguf")
GGUF_SEPARATOR = "\n__ggml_vocab_test__\n"


def check_gguf(encoder, path, folder):
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split(GGUF_SEPARATOR)
    lines = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    answers, _ = run_encoder(encoder, path, texts, folder)
    return [(text, answer) for text, line, answer in zip(texts, lines, answers) if answer.get("ids") != [int(word) for word in line.split()]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=ROOT / "shared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("names", nargs="*", help="folders of tokenizers; default: all")
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    failed = False
    texts = json.loads((args.golden / "texts.json").read_text())
    for stored in sorted(args.golden.glob("*/expected.json")):
        if args.names and stored.parent.name not in args.names:
            continue
        if make_tokenizers.expect_of(stored.parent, texts) != json.loads(stored.read_text()):
            print(f"{stored}: the library answers otherwise")
            failed = True

    random_texts, long_texts = list(make_tokenizers.random_texts(texts["ranges"])), corpus(args.shared)
    size = sum(len(text.encode()) for text in long_texts)
    paths = sorted(args.golden.glob("*/tokenizer.json")) + [args.model / "tokenizer.json"]
    paths += sorted(args.shared.glob("models/*/tokenizer.json")) + sorted(args.shared.glob("data/tokenizers/*/tokenizer.json"))
    paths += sorted(args.shared.glob("data/tokenizers/*/vocab.json"))
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            if args.names and path.parent.name not in args.names:
                continue
            wrong, times = check(args.encoder, path, random_texts, long_texts, Path(folder), args.threads)
            speeds = "; ".join(f"{count} threads {size / 1e6 / seconds:.1f} MB/s, Hugging Face {size / 1e6 / others:.1f} MB/s" for count, (seconds, others) in zip((1, args.threads), times))
            print(f"{path.parent.name}: {len(wrong)} of {len(random_texts)} + {len(long_texts)} texts differ; {speeds}", flush=True)
            for text, answer in wrong[:3]:
                print(f"  {text[:80]!r}: {str(answer)[:200]}")
            failed |= bool(wrong) or (args.speed and any(seconds > others for seconds, others in times))
        for path in sorted(args.golden.glob("*/tokenizer.model")) + sorted(args.shared.glob("data/tokenizers/*/tokenizer.model")):
            if args.names and path.parent.name not in args.names:
                continue
            wrong = check_sentencepiece(args.encoder, path, random_texts + long_texts, Path(folder))
            print(f"{path.parent.name}/tokenizer.model: {len(wrong)} of {len(random_texts) + len(long_texts)} texts differ", *(f"\n  {text[:80]!r}: {str(answer)[:200]}" for text, answer in wrong[:3]), flush=True)
            failed |= bool(wrong)
        for name in GGUF_VOCABULARIES:
            path = args.shared / "data/tokenizers" / name
            if not path.exists() or (args.names and name not in args.names):
                continue
            wrong = check_gguf(args.encoder, path, Path(folder))
            print(f"{name}: {len(wrong)} texts differ", *(f"\n  {text[:80]!r}: {str(answer)[:200]}" for text, answer in wrong[:3]), flush=True)
            failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
