#!/usr/bin/env python3
"""Compares llmc's GGUF files of every architecture with what llama.cpp makes: keys and tensors of convert_hf_to_gguf.py, logits, token ids.

    python test_gguf_architectures.py --llmc build/dev/llmc --tiny tests/golden/tiny --tokenizers tests/golden/tokenizer
        [--llama-cpp SOURCES] [--sentencepiece tokenizer.model …] [--no-llama]

SOURCES is llama.cpp's folder, which has convert_hf_to_gguf.py; without it nothing is converted. --no-llama leaves out what runs
in llama.cpp. Further files of --sentencepiece are compared like the bundled one.

Exit code: 0 all agree, 1 something differs, 77 a package is not installed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path

sys.dont_write_bytecode = True

if "--llama-cpp" in sys.argv:  # its converter wants its own gguf package
    sources = sys.argv[sys.argv.index("--llama-cpp") + 1]
    sys.path[:0] = [sources, sources + "/gguf-py"]

try:
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
    import gguf
except ImportError as error:
    print(f"skipped: {error} (see tests/interop/requirements.txt)")
    sys.exit(77)
from llama_cpp_logits import compare_logits, run

UNTIED = {"tie_word_embeddings": False}  # llama.cpp loads them with a head of their own only
WHOLE = {"query_pre_attn_scalar": 12}  # what llama.cpp takes for heads of 12
ROTARY = {"rotary_pct": 0.25}  # the converter's word for what the tiny model says elsewhere
# Tiny model, changes of its config, bound of the difference of logits over the largest logit. ggml reads GELU from a table in F16;
# Falcon and GPT-NeoX run with its tanh approximation there, which is off by up to 5e-4 near ±2.
EXACT, GELU, TANH = 2e-5, 3e-3, 3e-3
CASES = [("llama-gqa-tied", {}, EXACT), ("llama-headdim", {}, EXACT), ("mistral-whole", {}, EXACT), ("mistral-window", {"max_position_embeddings": 7}, EXACT), ("qwen2-untied", {}, EXACT), ("qwen3-tied", {}, EXACT), ("gpt2-tied", {"n_ctx": 32}, GELU), ("gpt2-untied", {"n_ctx": 32}, TANH),
         ("gemma", {}, GELU), ("gemma2", WHOLE, GELU), ("gemma2", WHOLE | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}, GELU),
         ("gemma3", WHOLE | {"layer_types": ["sliding_attention"] * 3}, GELU), ("gemma3", WHOLE, GELU), ("phi3-whole", {}, EXACT), ("phi3-part", {"sliding_window": None}, EXACT),
         ("stablelm", {}, EXACT), ("stablelm-bias", UNTIED, EXACT), ("stablelm-parallel", {}, EXACT), ("olmo2", {}, EXACT), ("gpt-neox", ROTARY, TANH), ("gpt-neox", ROTARY | {"hidden_act": "gelu_fast"}, GELU), ("gpt-neox-sequential", UNTIED | ROTARY, TANH),
         ("bloom", {}, GELU), ("bloom-untied", {}, GELU), ("falcon", {"num_kv_heads": 1}, TANH), ("falcon-groups", {"bias": False}, TANH), ("falcon-heads", {}, TANH), ("falcon-one-norm", {}, TANH)]
# Keys of the converter that we do not write, and why nothing is lost.
NOT_OURS = {"phi3.rope.scaling.original_context_length": "no scaling", "falcon.tensor_data_layout": "for people"}
# Keys whose values differ.
OTHERWISE = {"falcon.context_length": "always 2048 there", "falcon.feed_forward_length": "four times the hidden size there", "bloom.context_length": "the hidden size there, where seq_length is missing"}


def copy_changed(model, changes, folder):
    """The tiny model with another config; a config without biases has no tensors of them."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    if changes.get("bias") is False:
        tensors = {name: value for name, value in tensors.items() if not name.endswith(".bias") or "ln_" in name or "layernorm" in name}
    if changes.get("tie_word_embeddings") is False:
        embedding, head = ("gpt_neox.embed_in", "embed_out") if config["model_type"] == "gpt_neox" else ("model.embed_tokens", "lm_head")
        tensors[head + ".weight"] = tensors[embedding + ".weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def convert(model, out, keeps_vocabulary=False):
    """convert_hf_to_gguf.py, without a vocabulary where the directory has none. Says how it failed, or None."""
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    kind = get_model_class(get_model_architecture(ModelBase.load_hparams(model, False), ModelType.TEXT))
    if not keeps_vocabulary:
        kind = type(kind.__name__, (kind,), {"set_vocab": lambda self: self._set_vocab_none(), "model_arch": kind.model_arch})
        config = json.loads((model / "config.json").read_text())  # Gemma 3's converter counts the tokens of this file
        (model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(config["vocab_size"])}}, "added_tokens": []}))
    try:
        with torch.inference_mode():
            converter = kind(model, gguf.LlamaFileType.ALL_F32, out)
            converter.hparams.setdefault("rotary_pct", json.loads((model / "config.json").read_text()).get("rotary_pct"))  # lost in transformers 5
            converter.write()
    except (KeyError, ValueError, RuntimeError, NotImplementedError, AssertionError) as problem:
        return f"{type(problem).__name__}: {problem}"
    finally:
        if not keeps_vocabulary:
            (model / "tokenizer.json").unlink()
    return None


def read(path):
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return keys, {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def same(a, b):
    return a == b or isinstance(a, float) and isinstance(b, (int, float)) and np.float32(a) == np.float32(b)


def compare_files(ours, theirs, prefixes):
    """What of the converter's keys and tensors is otherwise in ours."""
    (keys, tensors), (other_keys, other_tensors) = read(ours), read(theirs)
    wrong = []
    for key, value in other_keys.items():
        if not key.startswith(prefixes) or key in NOT_OURS:
            continue
        if key not in keys:
            wrong.append(f"key {key} is missing")
        elif key == "tokenizer.ggml.token_type" and [1 if kind == 4 else kind for kind in keys[key]] == [1 if kind == 4 else kind for kind in value]:
            continue  # a tokenizer.model's user-defined pieces are normal ones to the converter; SentencePiece finds them in texts
        elif not same(keys[key], value) and key not in OTHERWISE:
            wrong.append(f"key {key} is {str(keys[key])[:80]}, theirs {str(value)[:80]}")
    if set(tensors) != set(other_tensors):
        wrong.append(f"tensors: only ours {sorted(set(tensors) - set(other_tensors))}, only theirs {sorted(set(other_tensors) - set(tensors))}")
    for name in set(tensors) & set(other_tensors):
        if tensors[name].shape != other_tensors[name].shape or not np.array_equal(tensors[name], other_tensors[name]):
            wrong.append(f"tensor {name} differs")
    if wrong:
        raise AssertionError("; ".join(wrong))
    return len(other_tensors)


def make_llama(folder, vocabulary):
    """A directory with a small random Llama of so many tokens."""
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    shapes = {"model.embed_tokens": (vocabulary, 32), "model.norm": (32,)} | {f"model.layers.0.{name}": shape for name, shape in {"input_layernorm": (32,), "post_attention_layernorm": (32,), "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32), "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}.items()}
    save_file({name + ".weight": torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


class Ids:
    """llama.cpp's ids of a text."""

    def __init__(self, path):
        import llama_cpp
        from llama_cpp_logits import silence

        silence()
        self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def of(self, text, special):
        return self.model.tokenize(text.encode(), add_bos=False, special=special)


def texts_of(folder):
    """Hand-written texts, and English of a page a piece."""
    texts = [text for text in json.loads((folder / "texts.json").read_text())["texts"] if unicodedata.normalize("NFC", text) == text]  # which llama.cpp does not do
    page = (folder.parents[2] / "docs/tokenizers.md").read_text()
    return [text for text in texts if text and "\0" not in text] + [page[start:start + 500] for start in range(0, 5000, 500)]


def compare_tokenizer(llmc, work, name, install, encode, vocabulary, texts, options):
    """A directory with that tokenizer, its GGUF file, and llama.cpp's ids from it; and what the converter writes."""
    folder = make_llama(work / name, vocabulary)
    install(folder)
    path = work / f"{name}.gguf"
    data = work / f"{name}.npy"
    np.save(data, np.arange(48, dtype=np.int32)[None] % vocabulary)
    run(llmc, "convert", folder, "-o", path, "--type", "F32", "--eval-data", data)
    said = ""
    if options.llama_cpp and (folder / "tokenizer.model").exists():
        problem = convert(folder, work / "theirs.gguf", keeps_vocabulary=True)
        if problem:
            raise AssertionError(problem)
        compare_files(path, work / "theirs.gguf", ("tokenizer.",))
        said = ", keys are the converter's"
    if not options.no_llama:
        ids = Ids(path)
        special = not (folder / "tokenizer.model").exists()  # SentencePiece takes no text for a control token
        wrong = [text for text in texts if ids.of(text, special) != encode(text)]
        if wrong:
            raise AssertionError(f"{len(wrong)} of {len(texts)} texts have other ids in llama.cpp, the first {wrong[0]!r}: {ids.of(wrong[0], special)[:20]}, expected {encode(wrong[0])[:20]}")
        said += f", {len(texts)} texts have the same ids in llama.cpp"
    print(f"tokenizer {name}{said}", flush=True)


def compare_tokenizers(options, work):
    failures = 0
    texts = texts_of(options.tokenizers)
    cases = []
    try:
        import sentencepiece
        for number, file in enumerate([options.tokenizers / "sentencepiece-bpe" / "tokenizer.model", *options.sentencepiece]):
            model = sentencepiece.SentencePieceProcessor()
            model.LoadFromFile(str(file))
            cases.append((f"sentencepiece-{number}", lambda folder, file=file: shutil.copy(file, folder / "tokenizer.model"), model.encode, model.vocab_size()))
    except ImportError as problem:
        print(f"left out: {problem}")
    from tokenizers import Tokenizer
    for family in ("llama3", "qwen2", "starcoder", "deepseek", "falcon", "tekken"):
        text = (options.tokenizers / family / "tokenizer.json").read_text()
        if family == "tekken":
            text = json.dumps(json.loads(text) | {"model": json.loads(text)["model"] | {"ignore_merges": True}})
        tokenizer = Tokenizer.from_str(text)

        def install(folder, text=text):
            (folder / "tokenizer.json").write_text(text)
        cases.append((family, install, lambda text, tokenizer=tokenizer: tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.get_vocab_size()))
    for name, install, encode, vocabulary in cases:
        try:
            compare_tokenizer(options.llmc, work, name, install, encode, vocabulary, texts, options)
        except AssertionError as problem:
            print(f"FAILED tokenizer {name}: {problem}")
            failures += 1
    return failures


def main():
    parser = argparse.ArgumentParser()
    for name in ("--llmc", "--tiny", "--tokenizers"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--sentencepiece", type=Path, nargs="*", default=[])
    parser.add_argument("--no-llama", action="store_true")
    options = parser.parse_args()
    if not options.no_llama:
        try:
            import llama_cpp  # noqa: F401
        except ImportError as error:
            print(f"skipped: {error} (see tests/interop/requirements.txt)")
            return 77
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for number, (name, changes, bound) in enumerate(CASES):
            try:
                model = copy_changed(options.tiny / name, changes, work / f"{number}-{name}")
                data = model / "input_ids.npy"
                path = work / f"{number}.gguf"
                run(options.llmc, "convert", model, "-o", path, "--type", "F32", "--eval-data", data)
                said = f"{name} {json.dumps(changes) if changes else ''}:"
                if options.llama_cpp:
                    problem = convert(model, work / "theirs.gguf")
                    if problem:
                        said += f" the converter fails ({problem})"
                    else:
                        architecture = gguf.GGUFReader(path).get_field("general.architecture").contents()
                        said += f" {compare_files(path, work / 'theirs.gguf', architecture + '.')} tensors and the keys are the converter's,"
                if not options.no_llama:
                    length = min(24, json.loads((model / "config.json").read_text()).get("max_position_embeddings", 24))
                    said += f" logits within {compare_logits(options.llmc, path, np.load(data).reshape(-1)[:length].astype(np.int32), work, bound):.1e} of the largest (bound {bound:.0e})"
                print(said, flush=True)
            except AssertionError as problem:
                print(f"FAILED {name} {changes}: {problem}")
                failures += 1
        failures += compare_tokenizers(options, work)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
