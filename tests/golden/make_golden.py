#!/usr/bin/env python3
"""Makes the expectations stored in this folder, from Hugging Face's own libraries.

    python make_golden.py                    # everything
    python make_golden.py tiny tokenizer     # only these parts (tiny, tokenizer, ids)

Options: --out DIR (default: this folder), --shared DIR (default: <project>/shared or /work/shared;
`tokenizer` reads data/ there, `ids` also models/).

Parts
  tiny       tiny/<name>/: random checkpoints, input_ids.npy, logits.npy, logits64.npy; README.md
  tokenizer  tokenizer/: byte-level BPE cases for quill-7m and for two tokenizers made here
  ids        ids/: token ids of real text for models whose tokenizer is not byte-level BPE

Every random choice is seeded. Made with Python 3.11 (Unicode 14 character data), torch 2.13.0 CPU,
transformers 5.17.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6. Other versions may give
float32 logits that differ in the last bits, and another config.json.

logits.npy    what transformers computes in float32 with eager attention
logits64.npy  the same model in float64. `model.double()` alone is not enough: see `true_float64`.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import unicodedata
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers,
)
from transformers import (
    AutoConfig, AutoModelForCausalLM, BloomConfig, FalconConfig, Gemma2Config, Gemma3TextConfig, GemmaConfig, GPT2Config, GPTNeoXConfig, LlamaConfig,
    MistralConfig, MixtralConfig, Olmo2Config, OPTConfig, Phi3Config, Qwen2Config, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig, StableLmConfig,
)
from transformers.modeling_rope_utils import dynamic_rope_update
from transformers.models.falcon import modeling_falcon
from transformers.models.gemma import modeling_gemma
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.mixtral import modeling_mixtral
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2_moe import modeling_qwen2_moe
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe
from transformers.models.stablelm import modeling_stablelm

HERE = Path(__file__).resolve().parent
BATCH, POSITIONS = 2, 24


# ---------------------------------------------------------------- reference arithmetic


def _rms_norm_any_dtype(self, x):
    variance = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon))


@dynamic_rope_update
def _rotary_float32_angles(self, x, position_ids):
    """The angles are part of the model: float32 frequency times float32 position."""
    angles = position_ids[:, :, None].float() * self.inv_freq.float()[None, None, :]
    angles = torch.cat((angles, angles), dim=-1).to(x.dtype)
    return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


def _gemma_norm_any_dtype(self, x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


@dynamic_rope_update
def _gemma3_float32_angles(self, x, position_ids, layer_type=None):
    angles = position_ids[:, :, None].float() * getattr(self, f"{layer_type}_inv_freq").float()[None, None, :]
    angles = torch.cat((angles, angles), dim=-1).to(x.dtype)
    return angles.cos(), angles.sin()


def _softmax_any_dtype(x, dim=None, _stacklevel=3, dtype=None):
    return x.softmax(dim)


def _mixtral_router_any_dtype(self, x):
    logits = torch.nn.functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
    weights, experts = torch.topk(logits.softmax(-1), self.top_k, dim=-1)
    return logits, weights / weights.sum(dim=-1, keepdim=True), experts


# Of each architecture with rotary positions: its module, and how the names of its classes start.
ROTARY = {"llama": (modeling_llama, "Llama"), "mistral": (modeling_mistral, "Mistral"),
          "qwen2": (modeling_qwen2, "Qwen2"), "qwen3": (modeling_qwen3, "Qwen3"),
          "mixtral": (modeling_mixtral, "Mixtral"), "qwen2_moe": (modeling_qwen2_moe, "Qwen2Moe"), "qwen3_moe": (modeling_qwen3_moe, "Qwen3Moe"),
          "phi3": (modeling_phi3, "Phi3"), "stablelm": (modeling_stablelm, "StableLm"), "olmo2": (modeling_olmo2, "Olmo2"),
          "gemma": (modeling_gemma, "Gemma"), "gemma2": (modeling_gemma2, "Gemma2"),
          "gemma3_text": (modeling_gemma3, "Gemma3"), "gpt_neox": (modeling_gpt_neox, "GPTNeoX"), "falcon": (modeling_falcon, "Falcon")}


@contextlib.contextmanager
def _replaced(*replacements):
    """(owner, attribute, value) while it lasts."""
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


def true_float64():
    """Removes the float32 steps that transformers' Llama and its like keep even after `model.double()`:
    RMSNorm (input, variance and product), the softmax of attention and of routers, and cos/sin of the rotary angles.
    The angles themselves stay float32, because they define the model. GPT-2 has no such steps, OPT and BLOOM only the softmax."""
    replacements = [(torch.nn.functional, "softmax", _softmax_any_dtype),
                    (modeling_mixtral.MixtralTopKRouter, "forward", _mixtral_router_any_dtype)]
    for module, name in ROTARY.values():
        if norm := getattr(module, f"{name}RMSNorm", None):
            replacements.append((norm, "forward", _gemma_norm_any_dtype if "Gemma" in name else _rms_norm_any_dtype))
        angles = _gemma3_float32_angles if name == "Gemma3" else _rotary_float32_angles
        replacements.append((getattr(module, f"{name}RotaryEmbedding"), "forward", angles))
    return _replaced(*replacements)


def attention_of(config):
    """Falcon's eager attention adds ALiBi twice; what the models were trained with is its other one."""
    return "sdpa" if getattr(config, "alibi", False) else "eager"


def load_model(folder):
    """The checkpoint as float32, refusing anything missing, unexpected or newly initialised."""
    attention = attention_of(AutoConfig.from_pretrained(folder))
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, experts_implementation="eager", output_loading_info=True
    )
    problems = {key: value for key, value in info.items() if value}
    # The mask buffers of old GPT-2 checkpoints: `attn.bias` is ignored silently, this one with a warning.
    unexpected = problems.pop("unexpected_keys", ())
    if problems or not all(name.endswith(".attn.masked_bias") for name in unexpected):
        raise RuntimeError(f"{folder}: {info}")
    return model.eval()


@torch.no_grad()
def logits_of(model, input_ids):
    return model(torch.as_tensor(np.asarray(input_ids, dtype=np.int64)), use_cache=False).logits.numpy()


def reference_logits(folder, input_ids):
    """(float32 logits, float64 logits) of a checkpoint folder."""
    single = logits_of(load_model(folder), input_ids)
    with true_float64():
        double = logits_of(load_model(folder).double(), input_ids)
    return single, double


# ---------------------------------------------------------------- tiny checkpoints


def llama(**changes):
    settings = dict(
        vocab_size=112, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )
    return LlamaConfig(**(settings | changes))


def like_llama(make_config, **changes):
    settings = dict(
        vocab_size=112, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-6, rope_parameters=default_rope(1000000.0),
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )
    settings |= changes
    if "layer_norm_eps" in changes:
        del settings["rms_norm_eps"]
    return make_config(**settings)


def gpt2(**changes):
    settings = dict(
        vocab_size=112, n_embd=48, n_layer=2, n_head=4, n_positions=32,
        bos_token_id=0, eos_token_id=0,
    )
    return GPT2Config(**(settings | changes))


def default_rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def scaled_llama(context, **rope):
    """One whose 24 positions reach into what the scaling changes."""
    return llama(hidden_size=32, intermediate_size=40, vocab_size=64, max_position_embeddings=context,
                 rope_parameters={"rope_theta": 1000.0} | rope)


def small(make_config, **changes):
    """As like_llama, smaller."""
    settings = dict(hidden_size=32, intermediate_size=48, vocab_size=64, rope_parameters=default_rope(10000.0), pad_token_id=None)
    return like_llama(make_config, **(settings | changes))


def other(make_config, **changes):
    return make_config(vocab_size=64, hidden_size=32, bos_token_id=0, eos_token_id=1, pad_token_id=None, **changes)


def falcon(**changes):
    return other(FalconConfig, ffn_hidden_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, **changes)


def longrope(context):
    """Of four pairs: with 24 positions beyond that context the long factors, else the short ones."""
    return default_rope(1000.0) | {"rope_type": "longrope", "original_max_position_embeddings": context,
                                   "short_factor": [1.0, 1.05, 1.1, 1.25], "long_factor": [1.0, 1.5, 3.25, 7.0]}


def projected_opt(**changes):
    return OPTConfig(vocab_size=64, hidden_size=64, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32, word_embed_proj_dim=48,
                     bos_token_id=0, eos_token_id=1, pad_token_id=None, **changes)


def make_refined_falcon():
    """As falcon-rw-1b. Twelve heads: slopes of ALiBi that bfloat16 rounds."""
    return FalconConfig(vocab_size=64, hidden_size=48, ffn_hidden_size=64, num_hidden_layers=2, num_attention_heads=12, max_position_embeddings=64,
                        alibi=True, multi_query=False, parallel_attn=False, bias=True, bos_token_id=0, eos_token_id=1)


def make_odd_bloom():
    """Three heads: no power of two, whose slopes ALiBi has another rule for."""
    return BloomConfig(vocab_size=64, hidden_size=36, n_layer=1, n_head=3, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1)


# name -> (configuration, arguments of `save_checkpoint`)
TINY = {
    "llama-gqa-tied": (llama(hidden_size=64, intermediate_size=96), {}),
    "llama-mha-untied": (
        llama(num_key_value_heads=4, tie_word_embeddings=False, rope_parameters=default_rope(500000.0)), {}),
    "llama-headdim": (llama(hidden_size=40, head_dim=16, intermediate_size=72, rms_norm_eps=1e-3), {}),
    "llama-bias": (llama(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-6), {}),
    "llama-toplevel-theta": (
        llama(hidden_size=32, intermediate_size=56, vocab_size=96, num_hidden_layers=3,
              rope_parameters=default_rope(5000.0)), {"old_style_config": True}),
    "llama-bf16": (llama(hidden_size=64, intermediate_size=96), {"dtype": torch.bfloat16}),
    "llama-f16": (llama(tie_word_embeddings=False), {"dtype": torch.float16}),
    "llama-sharded": (llama(), {"shard_bytes": 60_000}),
    "llama-rope-linear": (scaled_llama(64, rope_type="linear", factor=4.0), {}),
    "llama-rope-dynamic": (scaled_llama(16, rope_type="dynamic", factor=3.0), {}),
    "llama-rope-yarn": (scaled_llama(64, rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=2.0, beta_slow=0.25), {}),
    "llama-rope-llama3": (
        scaled_llama(256, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=128), {"old_style_config": True}),
    "gpt2-tied": (gpt2(n_embd=32, n_layer=3), {}),
    "gpt2-untied": (
        gpt2(n_inner=104, tie_word_embeddings=False, activation_function="gelu", layer_norm_epsilon=1e-3), {}),
    "gpt2-noprefix": (gpt2(n_embd=32), {"original_gpt2_names": True}),
    "qwen2-untied": (like_llama(Qwen2Config, hidden_size=64, intermediate_size=96), {}),
    "qwen2-tied": (like_llama(Qwen2Config, num_hidden_layers=3, tie_word_embeddings=True), {"old_style_config": True}),
    "mistral-window": (like_llama(MistralConfig, sliding_window=7, head_dim=16), {}),
    "mistral-whole": (like_llama(MistralConfig, sliding_window=None, tie_word_embeddings=True), {}),
    "qwen3-untied": (like_llama(Qwen3Config, head_dim=16), {}),
    "qwen3-tied": (like_llama(Qwen3Config, head_dim=12, tie_word_embeddings=True, num_key_value_heads=4), {}),
    "phi3-whole": (small(Phi3Config), {}),
    "phi3-part": (small(Phi3Config, sliding_window=9, num_key_value_heads=4, tie_word_embeddings=True,
                        rope_parameters=default_rope(10000.0) | {"partial_rotary_factor": 0.5}), {}),
    "stablelm": (small(StableLmConfig, layer_norm_eps=1e-4), {}),
    "stablelm-bias": (small(StableLmConfig, layer_norm_eps=1e-5, use_qkv_bias=True, tie_word_embeddings=True,
                            partial_rotary_factor=0.5), {}),
    "olmo2": (small(Olmo2Config), {}),
    "gemma": (small(GemmaConfig, head_dim=12, tie_word_embeddings=True), {}),
    "gemma2": (small(Gemma2Config, head_dim=12, tie_word_embeddings=True, sliding_window=7, query_pre_attn_scalar=20,
                     attn_logit_softcapping=2.0, final_logit_softcapping=3.0, num_hidden_layers=3), {}),
    "gemma3": (small(Gemma3TextConfig, head_dim=12, tie_word_embeddings=True, sliding_window=5, query_pre_attn_scalar=20,
                     num_hidden_layers=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                     rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0},
                                      "sliding_attention": default_rope(10000.0)}), {}),
    "gpt-neox": (other(GPTNeoXConfig, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64), {}),
    "gpt-neox-sequential": (
        other(GPTNeoXConfig, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
              use_parallel_residual=False, tie_word_embeddings=True), {}),
    "opt": (other(OPTConfig, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32), {}),
    "opt-350m": (projected_opt(do_layer_norm_before=False), {}),
    "opt-narrow": (projected_opt(tie_word_embeddings=False), {}),
    "bloom": (other(BloomConfig, n_layer=2, n_head=4), {}),
    "bloom-untied": (make_odd_bloom(), {}),
    "stablelm-head-norms": (small(StableLmConfig, layer_norm_eps=1e-4, qk_layernorm=True, partial_rotary_factor=0.5), {}),
    "stablelm-parallel": (small(StableLmConfig, layer_norm_eps=1e-5, use_parallel_residual=True), {}),
    "falcon-refined": (make_refined_falcon(), {}),
    "falcon-heads": (falcon(multi_query=False, tie_word_embeddings=False), {}),
    "falcon-one-norm": (falcon(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1), {}),
    "phi3-longrope": (small(Phi3Config, original_max_position_embeddings=16, rope_parameters=longrope(16)), {}),
    "llama-rope-longrope": (
        llama(hidden_size=32, intermediate_size=40, vocab_size=64, rope_parameters=longrope(32) | {"attention_factor": 1.2}), {}),
    "falcon": (falcon(), {}),
    "falcon-groups": (falcon(new_decoder_architecture=True, num_kv_heads=2, bias=True, tie_word_embeddings=False), {}),
    "mixtral": (small(MixtralConfig, num_local_experts=4, num_experts_per_tok=2), {}),
    "mixtral-window": (small(MixtralConfig, num_local_experts=3, num_experts_per_tok=1, sliding_window=7,
                             tie_word_embeddings=True), {"old_style_config": True}),
    "qwen2-moe": (small(Qwen2MoeConfig, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32,
                        shared_expert_intermediate_size=48), {}),
    "qwen2-moe-normed": (small(Qwen2MoeConfig, num_experts=4, num_experts_per_tok=3, norm_topk_prob=True, moe_intermediate_size=16,
                               shared_expert_intermediate_size=32, qkv_bias=False, tie_word_embeddings=True), {}),
    "qwen3-moe": (small(Qwen3MoeConfig, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, moe_intermediate_size=32, head_dim=12), {}),
}


@torch.no_grad()
def randomise(model, generator):
    """Weights large enough that every part of the model moves the logits."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        is_norm = "norm" in name or ".ln_" in name
        is_layer_weight = noise.dim() == 2 and not any(part in name for part in ("embed", ".wte", ".wpe", "lm_head"))
        if is_norm and name.endswith(".weight"):
            parameter.copy_(0.25 * noise if "gemma" in model.config.model_type else 1 + 0.25 * noise)
        elif noise.dim() == 3:  # of all experts, [experts, out, in]
            parameter.copy_(0.8 / math.sqrt(noise.shape[2]) * noise)
        elif is_layer_weight:
            inputs = noise.shape[0 if model.config.model_type == "gpt2" else 1]  # GPT-2 stores [in, out]
            parameter.copy_(0.8 / math.sqrt(inputs) * noise)
        else:
            parameter.copy_(0.2 * noise)


def use_old_style_config(folder):
    """config.json as transformers 4 wrote it: rope_theta and torch_dtype at the top level."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = rope if rope.pop("rope_theta") and rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2"
    config.pop("head_dim", None)
    if config.pop("layer_types", None):  # a window that is there and not used
        config |= {"sliding_window": 32768, "max_window_layers": config["num_hidden_layers"] - 1}
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")


def use_original_gpt2_names(folder, config):
    """Tensor names without `transformer.`, and the mask buffers of the first GPT-2 checkpoints."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    n = config.n_positions
    for layer in range(config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, metadata={"format": "pt"})


def save_checkpoint(folder, config, generator, *, dtype=torch.float32, shard_bytes=None,
                    old_style_config=False, original_gpt2_names=False):
    for old in folder.glob("*"):
        old.unlink()
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config), experts_implementation="eager").eval()
    randomise(model, generator)
    for parameter in model.parameters():  # model.to(dtype) would round the rotary frequencies too
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_bytes or "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if shard_bytes:
        assert len(list(folder.glob("*.safetensors"))) >= 3
    if old_style_config:
        use_old_style_config(folder)
    if original_gpt2_names:
        use_original_gpt2_names(folder, config)
    for file in folder.iterdir():
        file.chmod(0o644)
    return model.float()


def max_abs(a, b):
    return float(np.max(np.abs(a.astype(np.float64) - b)))


def _rotary_float64_angles(self, x, position_ids):
    config = self.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    angles = position_ids[:, :, None].double() * config.rope_parameters["rope_theta"] ** -exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def make_tiny(out, shared):
    rows = []
    for name, (config, storage) in TINY.items():
        folder = out / "tiny" / name
        folder.mkdir(parents=True, exist_ok=True)
        seed = zlib.crc32(name.encode())
        generator = torch.Generator().manual_seed(seed)
        model = save_checkpoint(folder, config, generator, **storage)
        ids = np.random.default_rng(seed).integers(0, config.vocab_size, (BATCH, POSITIONS), dtype=np.int32)
        single, double = reference_logits(folder, ids)
        assert max_abs(logits_of(model, ids), single) == 0, f"{name}: the files do not hold the model"
        assert single.dtype == np.float32 and double.dtype == np.float64
        assert single.shape == double.shape == (BATCH, POSITIONS, config.vocab_size)
        assert 1.0 < double.std() < 5.0, (name, double.std())
        assert max_abs(single, double) < 5e-6, (name, max_abs(single, double))
        np.save(folder / "input_ids.npy", ids)
        np.save(folder / "logits.npy", single)
        np.save(folder / "logits64.npy", double)

        plain_double = logits_of(load_model(folder).double(), ids)
        row = {"name": name, "std": double.std(), "largest": np.abs(double).max(),
               "single": max_abs(single, double), "plain": max_abs(plain_double, double)}
        if config.model_type in ROTARY and config.rope_parameters.get("rope_type") == "default":
            module, prefix = ROTARY[config.model_type]
            with true_float64(), _replaced((getattr(module, f"{prefix}RotaryEmbedding"), "forward", _rotary_float64_angles)):
                row["rope"] = max_abs(logits_of(load_model(folder).double(), ids), double)
        rows.append(row)
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert size < 400_000, (name, size)
        print(f"{name:22} std {row['std']:.2f}  |f32-f64| {row['single']:.1e}  {size:,} bytes")
    write_tiny_readme(out, rows)


def write_tiny_readme(out, rows):
    """Replaces the table between the two marks in README.md."""
    lines = ["| model | std | largest | f32 | plain double | double angles |", "|---|---|---|---|---|---|"]
    for row in rows:
        rope = f"{row['rope']:.1e}" if "rope" in row else "–"
        lines.append(f"| `{row['name']}` | {row['std']:.2f} | {row['largest']:.1f} "
                     f"| {row['single']:.1e} | {row['plain']:.1e} | {rope} |")
    begin, end = "<!-- table: make_golden.py -->\n", "<!-- end of table -->"
    before, rest = (HERE / "README.md").read_text().split(begin)
    after = rest.split(end)[1]
    (out / "README.md").write_text(before + begin + "\n".join(lines) + "\n" + end + after)


# ---------------------------------------------------------------- tokenizers

HAND_WRITTEN = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "a",
    " a",
    "a ",
    "Hello world",
    "Hello, world! How are you?",
    " Hello world ",
    "   three spaces before and after   ",
    "two  spaces, three   spaces, four    spaces",
    "a\nb\n\nc\n\n\nd",
    "line one\r\nline two\r\n\r\nline four",
    "tab\tseparated\t\tvalues \t mixed \t",
    "trailing newline\n",
    "trailing spaces and newline   \n",
    "\n leading newline and space",
    " \n \n  \n",
    "\t\tindented\n\t\t\tmore\n    four\n",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n",
    "{\"key\": [1, 2.5, -3e10, null], \"b\": {\"c\": \"d\\\\n\"}}",
    "#include <vector>\nint main() { return a[0]->b; }",
    "<p class=\"x\">A &amp; B</p>",
    "https://example.org/a_b-c/d?e=f&g=%20h#i",
    "user.name+tag@example.org",
    # contractions: only lower case with a straight apostrophe are split off
    "it's they're we've I'm you'd he'll don't",
    "IT'S THEY'RE WE'VE I'M YOU'D HE'LL DON'T",
    "It’s they’re don’t",
    "'s 're 've 'm 'd 'll 't",
    "'S 'RE 'LL",
    "rock 'n' roll, the '90s, 'tis, dogs' bowls",
    "''s '''re 's's's",
    "x'sy x'rey x'lly x'd9",
    "a's\n'll",
    # numbers
    "0 1 12 123 1234 12345 1234567890",
    "3.14159 2,718,281 1e-5 0x1F 1/2 50% $3.50 #7",
    "2024-01-31T23:59:59Z +1 (555) 010-9999",
    "x1 1x x1x 1x1 a1b2c3",
    "½ ¼ ² ³ ⅷ Ⅻ ① ㊿ ٣ ३ ๓ 五 𝟘 𝟙",
    # punctuation
    "...!!!???---___***",
    " ... !!! ??? --- ",
    "“quoted” ‘single’ «guillemets» — – … • § ¶ †",
    "(a)[b]{c}<d>|e|~f~`g`^h^",
    "!@#$%^&*()_+-=[]{};':\",./<>?\\|`~",
    # scripts
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Ærøskøbing. Straße. Ελληνικά.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ще не вмерла України ні слава, ні воля. Ђ Ѓ Є Ї Љ",
    "السلام عليكم ورحمة الله وبركاته. العَرَبِيَّةُ ١٢٣",
    "שלום עולם. בְּרֵאשִׁית",
    "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。",
    "吾輩は猫である。名前はまだ無い。カタカナとひらがな、ﾊﾝｶｸ。",
    "안녕하세요 세계. 한국어 문장입니다.",
    "नमस्ते दुनिया। हिन्दी में क्षत्रिय ज्ञान।",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "გამარჯობა მსოფლიო. Բարեւ աշխարհ. ሰላም ለዓለም",
    "mixed漢字and latinかなtextрусский",
    "𐍈𐌰𐌹 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒯ℯ𝓍𝓉 𓀀𓁐 𠮷野家",
    # emoji
    "😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☃ ✈︎ 1️⃣ #️⃣",
    "ok😀ok 😀! a😀1",
    # combining marks are neither letters nor numbers
    "cafe\u0301 nai\u0308ve A\u030a o\u0302\u0301",
    "\u0301leading mark, \u0300\u0301\u0302 only marks",
    "Z\u0351\u036b\u0343a\u0321\u034a\u035dl\u0308\u0300g\u0352o\u0327",
    "é e\u0301 Å Å A\u030a ﬁ ﬀ Ω Ω",
    # every kind of white space, and what looks like it
    "a\u00a0b \u00a0c\u00a0 d\u00a0\u00a0e",
    "a\u2003b\u2002\u2009c\u3000d\u202fe\u205ff\u1680g",
    "a\u2028b\u2029c\u0085d\u000be\u000cf",
    " \u00a0 \u2003\u3000 ",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060word\u00adsoft",
    "\ufeffstarts with a byte order mark",
    "\u180e mongolian separator, \u200e\u200f marks",
    # control characters, private use, non-characters, ends of the planes
    "a\u0000b\u0001c\u001bd\u007fe\u0080f\u009f",
    "\u001c \u001d \u001e \u001f",
    "\ue000 \uf8ff \ufffd \ufffe \uffff \U0010ffff \U000f0000",
    "\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000",
    "Āā Ġ Ċ ĉ Ń Ġword",
    # long runs
    "a" * 100,
    " " * 64,
    "ab" * 50,
    "\n" * 33 + "x",
    "9" * 70,
    "=" * 50 + "\n" + "-" * 50,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX. tHe QuIcK",
    "supercalifragilistic" * 5,
]

AROUND_END_OF_TEXT = [
    "{}", "{}{}", "{}{}{}", "a{}b", "a {} b", "a\n{}\nb", " {} ", "  {}  ", "word{}", "{}word", "{} word",
    "one.{}Two.", "one. {} Two.\n{}\n\nThree{}", "it{}'s", "12{}34", "é{}é", "{}\n", "\n{}", "\t{}\t", "'{}'",
]

LOOKS_LIKE_END_OF_TEXT = [
    "<|endoftext|", "<|endoftext|>>", "<<|endoftext|>", "<|end<|endoftext|>oftext|>", "<|endoftext |>",
    "<|ENDOFTEXT|>", "<|endoftext|><|endoftext", "< |endoftext|>", "|endoftext|", "<|endofte\u200bxt|>",
]

# Blocks the random strings draw from; characters unassigned in Python 3.11's Unicode 14 are left out,
# so that the result does not depend on which version of the character tables a tokenizer uses.
RANDOM_BLOCKS = [
    (0x20, 0x7F), (0x20, 0x7F), (0x09, 0x0E), (0x00, 0x20), (0x80, 0x100), (0x100, 0x250), (0x2B0, 0x370), (0x370, 0x530),
    (0x590, 0x750), (0x900, 0xA00), (0xE00, 0xE80), (0x10A0, 0x1100), (0x1E00, 0x2000), (0x2000, 0x2070),
    (0x2070, 0x2190), (0x2190, 0x2800), (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4),
    (0xFB00, 0xFE70), (0xFF00, 0xFFF0), (0x10000, 0x10200), (0x1D400, 0x1D800), (0x1F300, 0x1FA00),
    (0x20000, 0x20100), (0xE0100, 0xE01F0),
]


def random_text(rng):
    blocks = rng.sample(RANDOM_BLOCKS, rng.randint(1, 4)) + [(0x20, 0x21)] * rng.randint(0, 2)
    characters = []
    length = rng.choice((1, 2, 3, 5, 8, 13, 21, 34, 55))
    while len(characters) < length:
        character = chr(rng.randrange(*rng.choice(blocks)))
        if unicodedata.category(character) not in ("Cn", "Cs"):
            characters += [character] * (rng.randint(2, 4) if rng.random() < 0.1 else 1)
    return "".join(characters)


def english_paragraphs(shared, count):
    text = (shared / "data/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    speeches = [speech for speech in text.split("\n\n") if 150 < len(speech) < 700]
    return random.Random(20).sample(speeches, count)


def encode_cases(tokenizer, texts):
    for text in texts:
        ids = tokenizer.encode(text).ids
        yield {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def write_jsonl(path, records):
    """ASCII only: the characters at stake survive any editor."""
    records = list(records)
    path.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    print(f"{path.relative_to(path.parents[2])}: {len(records)} cases, {path.stat().st_size:,} bytes")


def cut_token_sequences(tokenizer, texts, rng, count):
    """Token sequences that begin or end inside a character, to decode."""
    for _ in range(count):
        ids = tokenizer.encode(rng.choice(texts)).ids
        begin, end = sorted(rng.sample(range(len(ids) + 1), 2))
        ids = ids[begin:end]
        if rng.random() < 0.3:
            rng.shuffle(ids)
        yield {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def make_quill_cases(out, shared):
    tokenizer = Tokenizer.from_file(str(HERE.parents[1] / "sample_models/quill-7m/tokenizer.json"))
    rng = random.Random(7)
    mark = "<|endoftext|>"
    texts = list(HAND_WRITTEN)
    texts += [pattern.replace("{}", mark) for pattern in AROUND_END_OF_TEXT] + LOOKS_LIKE_END_OF_TEXT
    texts += english_paragraphs(shared, 40)
    for _ in range(150):
        text = random_text(rng)
        at = rng.randint(0, len(text))
        texts.append(text[:at] + mark + text[at:] if rng.random() < 0.1 else text)
    write_jsonl(out / "quill_cases.jsonl", encode_cases(tokenizer, texts))
    many_bytes = [text for text in texts if len(text) > 4 and not text.isascii()]
    write_jsonl(out / "quill_decode_cases.jsonl", cut_token_sequences(tokenizer, many_bytes, rng, 40))


def train_bpe(tokenizer, shared, vocab_size, special_tokens):
    text = (shared / "data/tinyshakespeare/input.txt").read_text(encoding="utf-8")[:60_000]
    accents = "café naïve Ångström crème brûlée façade jalapeño Straße Übung здравствуй 東京 한국 " * 4
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special_tokens, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text.splitlines(keepends=True) + [accents], trainer)


def make_prefix_space_tokenizer(folder, shared):
    """add_prefix_space, a BOS by template, added tokens of every kind, merges in the old "a b" form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    train_bpe(tokenizer, shared, 500, ["<s>", "</s>"])
    tokenizer.add_special_tokens([
        AddedToken("<left>", lstrip=True, normalized=False),
        AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("<s><s>", normalized=False),
    ])
    tokenizer.add_tokens([
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("plain", normalized=True),
        AddedToken("plainer", normalized=False),
        AddedToken("rightly <right>", normalized=True),
        AddedToken("<début>", normalized=False),  # decodes through the byte alphabet: é is byte E9
        AddedToken("two  words é", normalized=False),  # the space is not in the alphabet: decodes as it is
        AddedToken("one", single_word=True, lstrip=True, normalized=False),
    ])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["model"]["merges"] = [" ".join(pair) for pair in stored["model"]["merges"]]
    path.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return [
        "<s>", "</s>", "<s></s>", "<s><s>", "<s><s><s>", "a<s>b", "<s> a", " <s>a", "<s>  a  </s>  b",
        "a<left>b", "a <left> b", "a  \n\t<left>  b", "<left>", "  <left>", "<left><left>", "a<left> <left>b", "é\u00a0<left>",
        "a<right>b", "a <right> b", "a<right>  \n\tb", "<right>  ", "<right> <right> x", "<right>\u3000y",
        "a<both>b", "a <both> b", " <both> ", "a \n <both> \n b", "<both>  <left>", "<right>  <left>", "<right> <both> <left> z",
        "word", "words", "sword", "a word here", "word.", "(word)", "_word", "word_", "word1", "éword", "wordword", "word word",
        "word-word", "Word", "passwords word", "\u0301word", "漢word字 word",
        "plain", "plainer", "explain", "plainest plain plainplainer", "plai n",
        "rightly <right>", "rightly <right>  x", "rightly<right>", "rightly  <right>",
        "<début>", "a<début>b <début> c", "<debut>", "<de\u0301but>",
        "two  words é", "a two  words é b", "two words é",
        "one", "  one", "one two one", "someone one", "  one  one",
    ]


def make_ignore_merges_tokenizer(folder, shared):
    """NFC, ignore_merges, and the GPT-2 pattern as a Split of its own before ByteLevel."""
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train_bpe(tokenizer, shared, 500, [])
    # Whole words that the merges cannot build: found only because merges are ignored for them.
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    stored = json.loads(path.read_text(encoding="utf-8"))
    model = stored["model"]
    model["ignore_merges"] = True
    for word in ["Citizen", "ĠCoriolanus", "Ġproclaimed", "lyrics", "ĠcafÃ©", "æĿ±äº¬", "Ġ123", "Ġ!!!", "ĊĊĊ", "the"]:
        model["vocab"].setdefault(word, len(model["vocab"]))
    path.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    tokenizer.add_tokens([AddedToken("naïve", normalized=True), AddedToken("brûlée", normalized=False)])
    tokenizer.save(str(path))
    return [
        "Citizen", " Citizen", "Citizens", "First Citizen:", "Coriolanus", " Coriolanus", " Coriolanus's", " proclaimed",
        "proclaimed", "lyrics", " lyrics", " café", "café", " cafe\u0301", "cafe\u0301s", "東京", " 東京", "東京都", " 123", "123",
        " 1234", " !!!", "!!!", " !!!!", "\n\n\n", "x\n\n\n", "x\n\n\n\ny", "the", " the", "theme", "them the",
        "e\u0301", "\u212b \u2126 \u212a", "A\u030a", "o\u0323\u0302", "o\u0302\u0323", "q\u0307\u0323", "q\u0323\u0307",
        "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\ud55c\u11ab", "\u0958", "\u0344", "\ufb1d", "\u1e9b\u0323", "\u0041\u0300\u0301",
        "naïve", "nai\u0308ve", "a naïve b", "a nai\u0308ve b", "brûlée", "bru\u0302le\u0301e", "crème brûlée!",
        "a<|endoftext|>b", "<|endoftext|>e\u0301", "e<|endoftext|>\u0301", "it's IT'S we'll", "a  b   c \n d", "1 22 333 ½²",
    ]


def make_tokenizer(out, shared):
    folder = out / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    make_quill_cases(folder, shared)
    general = HAND_WRITTEN[9:] + english_paragraphs(shared, 2)
    for name, make in {"prefix-space": make_prefix_space_tokenizer,
                       "ignore-merges": make_ignore_merges_tokenizer}.items():
        (folder / name).mkdir(exist_ok=True)
        texts = ["", " ", "\n"] + make(folder / name, shared)
        tokenizer = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
        write_jsonl(folder / name / "cases.jsonl", encode_cases(tokenizer, texts + general[::4]))


# ---------------------------------------------------------------- token ids


STORY_MODELS = ("stories260K", "TinyStories-656K", "babyllama-tok361")
IDS_LIMIT = 40_000 // 2


def make_story_ids(folder, shared):
    """Each story is encoded by itself, so each begins with the BOS token."""
    text = (shared / "data/tinystories/sample.txt").read_text(encoding="utf-8")[:60_000]
    stories = [story.strip() for story in text.split("<|endoftext|>")]
    for name in STORY_MODELS:
        tokenizer = Tokenizer.from_file(str(shared / "models" / name / "tokenizer.json"))
        ids = [token for story in stories for token in tokenizer.encode(story).ids][: IDS_LIMIT - 64]
        assert ids[0] == 1 and max(ids) < tokenizer.get_vocab_size()
        save_ids(folder / f"{name}.tinystories.npy", ids)


def save_ids(path, ids):
    ids = np.asarray(ids, dtype=np.uint16)
    np.save(path, ids)
    size = path.stat().st_size
    assert size <= 40_000
    print(f"{path.name}: {ids.shape}, {size:,} bytes")


def make_sorting_ids(folder, shared):
    """Every input of gpt-nano-sort, followed by its six digits in order."""
    rows = [[*digits, *sorted(digits)] for digits in itertools.product(range(3), repeat=6)]
    ids = np.asarray(rows, dtype=np.uint16)
    logits = logits_of(load_model(shared / "models/gpt-nano-sort"), ids[:, :11])
    wrong = int(np.any(logits[:, 5:].argmax(-1) != ids[:, 6:], axis=1).sum())
    assert wrong == 0, f"{wrong} of {len(ids)} inputs are sorted wrongly"
    save_ids(folder / "gpt-nano-sort.npy", ids)


def make_ids(out, shared):
    folder = out / "ids"
    folder.mkdir(parents=True, exist_ok=True)
    make_story_ids(folder, shared)
    make_sorting_ids(folder, shared)


PARTS = {"tiny": make_tiny, "tokenizer": make_tokenizer, "ids": make_ids}


def main():
    project_shared = HERE.parents[1] / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--shared", type=Path,
                        default=project_shared if project_shared.exists() else Path("/work/shared"))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.out, arguments.shared)


if __name__ == "__main__":
    main()
