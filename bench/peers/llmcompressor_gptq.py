"""Compresses a model with llm-compressor's GPTQ, on given token ids; prints its own seconds. Run by compare.py."""

import sys
import time

import torch
from common import read_job, write_result

job = read_job(sys.argv[1])
torch.set_num_threads(job["threads"])

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: E402
from datasets import Dataset  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
samples = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in job["samples"]])
weights = QuantizationArgs(num_bits=job["bits"], type="int", symmetric=True, strategy="group", group_size=job["group_size"])
recipe = GPTQModifier(config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"])

start = time.perf_counter()
oneshot(model=model, dataset=samples, recipe=recipe, max_seq_length=len(job["samples"][0]), num_calibration_samples=len(job["samples"]), shuffle_calibration_samples=False)
seconds = time.perf_counter() - start
model.save_pretrained(job["out"], save_compressed=True)
write_result(job, seconds)
