#!/usr/bin/env python3
"""Holds what llmc's evaluator says of a model to transformers: generated tokens, perplexities, answers to questions.

    python test_evaluator.py --llmc build/dev/llmc --model sample_models/quill-7m ... [--tiny tests/golden/tiny] [--text FILE] [--characters N]
        [--choices FILE ...]

Of every tiny model: the likeliest continuation of its first tokens. Of each model: the continuation of a prompt; perplexity of the text (the
model's held_out.txt, or FILE: of the first 60,000 characters, or N) in whole windows, with a stride, and over second halves, to 1e-4 of transformers' in f32; log-probabilities
behind the answers to the questions (a few here, or those of the FILEs). Of a model without a tokenizer: the same of random ids, but no questions.
Exit code: 0 all agree, 1 something differs, 77 the peers are not there.
"""

import argparse
import json
import math
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)

QUESTIONS = [{"sentence_good": "The king was in his castle.", "sentence_bad": "The king were in his castle."},
             {"sentence_good": "They walk to the river.", "sentence_bad": "They walks to the river."},
             {"context": "He opened the door and went into the", "choices": [" house.", " of.", " seven"], "answer": 0},
             {"context": "Once upon a", "choices": [" time", " the", " was there"], "answer": 0}]
WINDOW, STRIDE = 256, 96


class Peer:
    def __init__(self, path):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()

    def log_probabilities(self, ids):
        """Of each token but the first."""
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, :-1].double()
        return torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]

    def continue_greedily(self, ids, count):
        """With a cache, as transformers generates."""
        found, feed, cache = [], list(ids), None
        for _ in range(count):
            with torch.no_grad():
                answer = self.model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
            feed, cache = [int(answer.logits[0, -1].argmax())], answer.past_key_values
            found += feed
        return found


class Judge:
    def __init__(self, llmc):
        self.llmc = llmc
        self.failed = False

    def run(self, *args):
        done = subprocess.run([self.llmc, *map(str, args), "--json", "-q"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"llmc {args}: {done.stderr}")
        return json.loads(done.stdout)

    def told(self, what, same, detail=""):
        print(f"{'ok  ' if same else 'FAIL'} {what} {detail}")
        self.failed |= not same

    def close(self, what, found, expected):
        self.told(what, abs(found / expected - 1) < 1e-4, f"llmc {found:.6f}, transformers {expected:.6f}")


def check_continuation(judge, path, peer, ids, count):
    """`count` tokens, or as many as the context holds."""
    sample, = judge.run("generate", path, "--prompt-ids", ",".join(map(str, ids)), "--max-new-tokens", count, "--ignore-eos")["samples"]
    rope = getattr(peer.model.config, "rope_parameters", None) or {}
    longer = rope["factor"] if rope.get("rope_type") == "dynamic" else 1
    found, most = sample["tokens"], min(count, int(getattr(peer.model.config, "max_position_embeddings", 512) * longer) - len(ids))
    judge.told(f"{Path(path).name}: {most} tokens behind {len(ids)}", found == peer.continue_greedily(ids, most), str(found[:8]))


def check_perplexities(judge, path, peer, ids, file, first):
    """Of a file, and of the ids it stands for; texts begin with the id `first`, if there is one."""
    name, context = Path(path).name, getattr(peer.model.config, "max_position_embeddings", WINDOW)
    window, stride = (WINDOW, STRIDE) if context >= WINDOW else (context, max(1, context * STRIDE // WINDOW))
    whole = [ids[i:i + window] for i in range(0, len(ids) - window + 1, window)]
    nll = torch.cat([-peer.log_probabilities(part) for part in whole])
    ask = lambda *flags: judge.run("evaluate", path, "--data", file, "--seqlen", window, *flags)["quality"]["perplexity"]
    judge.close(f"{name}: perplexity, {len(whole)} windows of {window}", ask(), math.exp(nll.mean()))
    parts, scored = [], 0
    for start in range(0, len(ids), stride):  # as transformers' page on perplexity does it
        end = min(start + window, len(ids))
        parts.append(-peer.log_probabilities(ids[start:end])[max(scored, 1 + start) - start - 1:])
        scored = end
        if end == len(ids):
            break
    judge.close(f"{name}: perplexity, windows {stride} apart", ask("--stride", stride), math.exp(torch.cat(parts).mean()))
    if first is not None:
        ids = [first] + ids
    halves = [[first] + ids[i + 1:i + window] if first is not None and i else ids[i:i + window] for i in range(0, len(ids) - window + 1, window)]
    nll = torch.cat([-peer.log_probabilities(part)[window // 2:] for part in halves])
    judge.close(f"{name}: perplexity, second halves", ask("--convention", "second-half"), math.exp(nll.mean()))


def find_first(tokenizer):
    """The id that texts begin with, or none."""
    with_first, plain = (tokenizer.encode("a", add_special_tokens=special) for special in (True, False))
    return with_first[0] if with_first[1:] == plain else None


def check_model(judge, path, args):
    peer = Peer(path)
    with tempfile.TemporaryDirectory() as folder:
        if not (Path(path) / "tokenizer.json").exists():
            source = random.Random(1)
            ids = [source.randrange(peer.model.config.vocab_size) for _ in range(20 * WINDOW)]
            file = Path(folder) / "ids.u16"
            file.write_bytes(struct.pack(f"<{len(ids)}H", *ids))
            check_continuation(judge, path, peer, ids[:4], 48)
            check_perplexities(judge, path, peer, ids, file, None)
            return
        tokenizer = AutoTokenizer.from_pretrained(path)
        check_continuation(judge, path, peer, tokenizer.encode("The old king looked at the sea and said"), 48)
        text = Path(args.text or Path(path) / "held_out.txt").read_text(encoding="utf-8")[:args.characters]
        file = Path(folder) / "text.txt"
        file.write_text(text, encoding="utf-8")
        check_perplexities(judge, path, peer, tokenizer.encode(text, add_special_tokens=False), file, find_first(tokenizer))
    begin = peer.model.config.bos_token_id
    check_choices(judge, path, peer, tokenizer, args.choices, [] if begin is None else [begin])


def check_choices(judge, path, peer, tokenizer, files, begin):
    with tempfile.TemporaryDirectory() as folder:
        if not files:
            files = [Path(folder) / "questions.jsonl"]
            files[0].write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
        found = judge.run("evaluate", path, "--choices", *files)["models"][0]["choices"]
        for file, result in zip(files, found):
            right, questions = 0, [json.loads(line) for line in Path(file).read_text().splitlines()]
            for question in questions:
                context = question.get("context", "")
                texts = question.get("choices") or [question["sentence_good"], question["sentence_bad"]]
                sums = []
                for text in texts:
                    before, ids = (tokenizer.encode(t, add_special_tokens=False) for t in (context, context + text))
                    shared = next((i for i, (a, b) in enumerate(zip(before, ids)) if a != b), min(len(before), len(ids)))
                    sums.append(float(peer.log_probabilities(begin + ids)[max(shared + len(begin), 1) - 1:].sum()))
                right += sums.index(max(sums)) == question.get("answer", 0)
            judge.told(f"{Path(path).name}: {Path(file).name}: answers to {len(questions)} questions", abs(result["accuracy"]["value"] - right / len(questions)) < 1e-9, f"{right} right")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", required=True)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--tiny")
    parser.add_argument("--text")
    parser.add_argument("--characters", type=int, default=60_000)
    parser.add_argument("--choices", nargs="*", default=[])
    args = parser.parse_args()
    judge = Judge(args.llmc)
    for path in sorted(Path(args.tiny).iterdir()) if args.tiny else []:
        if (path / "config.json").exists():
            config = AutoConfig.from_pretrained(path)
            rope = getattr(config, "rope_parameters", None) or {}  # where factors change as a sequence grows, llmc wants it grown before
            length = rope["original_max_position_embeddings"] + 1 if rope.get("rope_type") == "longrope" else 6
            check_continuation(judge, path, Peer(path), [(7 * i + 3) % config.vocab_size for i in range(length)], 12)

    for path in args.model:
        check_model(judge, path, args)
    sys.exit(judge.failed)


main()
