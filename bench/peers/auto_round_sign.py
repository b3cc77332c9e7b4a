"""Compresses a model with auto-round (SignRound), on given token ids; prints its own seconds. Run by compare.py."""

import sys
import time

import torch
from common import read_job, write_result

job = read_job(sys.argv[1])
torch.set_num_threads(job["threads"])

from auto_round import AutoRound  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(job["model"])
batch = 8  # auto-round's own default
samples = torch.tensor(job["samples"])
batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in samples.split(batch)]

rounding = AutoRound(model, tokenizer=tokenizer, scheme="W4A16", bits=job["bits"], group_size=job["group_size"], sym=True, iters=job["iterations"], dataset=batches, nsamples=len(samples), seqlen=samples.shape[1], batch_size=batch, device_map="cpu")
start = time.perf_counter()
rounding.quantize()
seconds = time.perf_counter() - start
rounding.save_quantized(job["out"], format="auto_round")
write_result(job, seconds)
