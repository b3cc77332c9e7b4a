#!/usr/bin/env python3
"""Loads structurally pruned checkpoints in the stock class of Hugging Face transformers and compares the logits.

    python test_structured.py --llmc BUILD/llmc --model DIR --work TMP

No tensor is missing, unexpected or of another shape, and logits and perplexity are those of `llmc evaluate`.
Exit code: 0 all agree, 1 something differs, 77 the peers are not installed.
"""

import argparse
import json
import sys
from pathlib import Path

import test_compressed_tensors as peers

# Model (None: --model), flags, and what config.json says afterwards.
CASES = {
    "ffn": (None, ["--structured", "ffn=30%"], {"intermediate_size": 544}),
    "heads": (None, ["--structured", "heads=50%"], {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}),
    "layers": (None, ["--structured", "layers=2"], {"num_hidden_layers": 6}),
    "hidden": (None, ["--structured", "hidden=12.5%"], {"hidden_size": 224, "head_dim": 32}),
    "all": (None, ["--structured", "hidden=25%", "--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "layers=3,"], {"hidden_size": 192, "intermediate_size": 576, "num_attention_heads": 4, "num_hidden_layers": 7}),
    "gpt2": ("gpt2-tied", ["--structured", "ffn=25%", "--structured", "layers=0,"], {"n_layer": 2}),
    "qwen2": ("qwen2-untied", ["--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "layers=1,"], {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 1, "layer_types": ["full_attention"]}),
    "qwen3": ("qwen3-untied", ["--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "hidden=25%"], {"num_attention_heads": 2, "head_dim": 16, "hidden_size": 36}),
    "phi3": ("phi3-part", ["--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "hidden=25%"], {"num_attention_heads": 2, "head_dim": 8, "hidden_size": 24}),
    "stablelm": ("stablelm", ["--structured", "ffn=25%", "--structured", "layers=0,"], {"intermediate_size": 36}),
    "olmo2": ("olmo2", ["--structured", "ffn=25%", "--structured", "hidden=25%"], {"hidden_size": 24}),
    "gemma3": ("gemma3", ["--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "layers=0,"], {"num_attention_heads": 2, "layer_types": ["full_attention", "sliding_attention"]}),
    "gpt-neox": ("gpt-neox", ["--structured", "ffn=25%", "--structured", "layers=1,"], {"intermediate_size": 36, "num_hidden_layers": 1}),
    "opt": ("opt", ["--structured", "ffn=25%"], {"ffn_dim": 36}),
    "bias": ("llama-bias", ["--structured", "ffn=25%", "--structured", "heads=50%", "--structured", "hidden=25%"], {}),
}


def check(llmc, model, work, flags, expected):
    ids, out = peers.token_ids(model), work / "out"
    few = ["--nsamples", "8", "--seqlen", "128"] if (model / "tokenizer.json").exists() else ["--nsamples", "2", "--seqlen", "8", "--calibration", model / "input_ids.npy", "--eval-data", model / "input_ids.npy"]
    llmc.run("prune", model, "-o", out, "--max-windows", "1", *few, *flags)
    found = {key: peers.read_config(out)[key] for key in expected}
    peers.require(found == expected, f"config.json says {found}, expected {expected}")
    theirs = peers.load(out)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (peers.load(model), theirs))
    peers.require(after < before, f"{after} parameters of {before}")
    return peers.compare(llmc, out, theirs, ids, work)[1] + f", {after} of {before} parameters"


def check_vocabulary(llmc, model, work):
    """The smaller tokenizer cuts the texts that it was made for into the same tokens, here and in Hugging Face tokenizers."""
    texts, out = work / "texts.txt", work / "out"
    paragraphs = [json.loads(line)["text"] for line in (peers.GOLDEN / "tokenizer/quill_cases.jsonl").read_text().splitlines()]
    texts.write_text("\n".join(text for text in paragraphs if len(text) > 150), encoding="utf-8")
    llmc.run("prune", model, "-o", out, "--structured", f"vocab={texts}", "--max-windows", "1")
    before, after = (peers.Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (model, out))
    cut, expected = after.encode(texts.read_text(encoding="utf-8")), before.encode(texts.read_text(encoding="utf-8"))
    peers.require(cut.tokens == expected.tokens, "the texts are cut into other tokens")
    peers.require(after.decode(cut.ids) == before.decode(expected.ids), "the tokens mean another text")
    peers.require(before.encode("<|endoftext|>").tokens == after.encode("<|endoftext|>").tokens, "special tokens went")
    small, whole = peers.load(out), peers.load(model)
    window = slice(0, peers.WINDOW)
    rows = [before.token_to_id(after.id_to_token(i)) for i in range(after.get_vocab_size())]
    difference = float(abs(peers.logits_of(small, peers.np.asarray(cut.ids[window])) - peers.logits_of(whole, peers.np.asarray(expected.ids[window]))[:, rows]).max())
    peers.require(difference <= peers.LARGEST_LOGIT_ERROR, f"logits of the tokens that stayed differ by {difference:.1e}")
    return peers.compare(llmc, out, small, peers.np.asarray(cut.ids[window]), work)[1] + f", {len(rows)} of {before.get_vocab_size()} tokens"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="quill-7m")
    parser.add_argument("--work", type=Path, required=True, help="a folder for outputs")
    arguments = parser.parse_args()
    peers.transformers.utils.logging.set_verbosity_error()
    peers.transformers.utils.logging.disable_progress_bar()
    llmc = peers.Llmc(arguments.llmc.resolve())
    cases = {name: lambda work, case=case: check(llmc, peers.GOLDEN / "tiny" / case[0] if case[0] else arguments.model.resolve(), work, *case[1:]) for name, case in CASES.items()}
    cases["vocabulary"] = lambda work: check_vocabulary(llmc, arguments.model.resolve(), work)
    return peers.run_cases({f"structured-{name}": run for name, run in cases.items()}, arguments.work.resolve())


if __name__ == "__main__":
    sys.exit(main())
