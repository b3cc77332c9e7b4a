#!/usr/bin/env python3
"""Makes pruning/*.npy: Wanda and SparseGPT on a small matrix, in float64, written from the papers.

    python make_pruning.py [--out DIR]

Wanda: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", section 3: the weights with the
least |W_ij| * ||X_j||_2 go, compared within each output row. SparseGPT: Frantar & Alistarh 2023, "Massive Language Models Can
Be Accurately Pruned in One-Shot", algorithm 1, with B = B_s = 128; N:M as in section 3.4: the mask of M columns is chosen when
the recursion reaches them. Damping: 1 % of the mean of the diagonal. Of n candidates exactly round(share * n) go; the 128
columns of a block are one candidate set over all rows.

    weights.npy [rows, in], second_moment.npy [in, in]: inputs, float32
    wanda-<what>.npy, sparsegpt-<what>.npy: the pruned weights, float32
"""

import argparse
from pathlib import Path

import numpy as np

ROWS, IN, TOKENS = 20, 136, 400
BLOCK = 128
DAMPING = 0.01


def inputs():
    random = np.random.default_rng(20231)
    sizes = np.exp(random.normal(size=IN))
    x = (random.normal(size=(TOKENS, IN)) @ (np.eye(IN) + 0.4 * random.normal(size=(IN, IN)) / np.sqrt(IN) * 3)) * sizes
    weights = random.normal(size=(ROWS, IN)).astype(np.float32)
    return weights, (x.T @ x / TOKENS).astype(np.float32)


def lowest(scores, count):
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def wanda(weights, moment, share=None, n=0, m=0):
    scores = np.abs(weights) * np.sqrt(np.diag(moment))
    pruned = weights.copy()
    width, count = (m, m - n) if m else (IN, round(share * IN))
    for row in range(ROWS):
        for first in range(0, IN, width):
            pruned[row, first : first + width][lowest(scores[row, first : first + width], count)] = 0
    return pruned


def sparsegpt(weights, moment, share=None, n=0, m=0):
    w = weights.copy()
    h = moment + DAMPING * np.mean(np.diag(moment)) * np.eye(IN)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T  # H^-1 = U^T U
    gone_so_far = 0
    for first in range(0, IN, BLOCK):
        last = min(IN, first + BLOCK)
        errors = np.zeros((ROWS, last - first))
        if not m:
            upto = round(share * ROWS * last)
            mask = lowest((w[:, first:last] / np.diag(upper)[first:last]) ** 2, upto - gone_so_far)
            gone_so_far = upto
        else:
            mask = np.zeros((ROWS, last - first), bool)
        for j in range(first, last):
            if m and j % m == 0:
                scores = (w[:, j : j + m] / np.diag(upper)[j : j + m]) ** 2
                for row in range(ROWS):
                    mask[row, j - first : j - first + m] = lowest(scores[row], m - n)
            kept = np.where(mask[:, j - first], 0, w[:, j])
            errors[:, j - first] = (w[:, j] - kept) / upper[j, j]
            w[:, j] = kept
            w[:, j + 1 : last] -= np.outer(errors[:, j - first], upper[j, j + 1 : last])
        w[:, last:] -= errors @ upper[first:last, last:]
    return w


CASES = {"unstructured-50": {"share": 0.5}, "unstructured-70": {"share": 0.7}, "2of4": {"n": 2, "m": 4}, "4of8": {"n": 4, "m": 8}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    out = parser.parse_args().out / "pruning"
    out.mkdir(parents=True, exist_ok=True)
    weights, moment = inputs()
    np.save(out / "weights.npy", weights)
    np.save(out / "second_moment.npy", moment)
    for name, case in CASES.items():
        for method in (wanda, sparsegpt):
            np.save(out / f"{method.__name__}-{name}.npy", method(weights.astype(np.float64), moment.astype(np.float64), **case).astype(np.float32))


if __name__ == "__main__":
    main()
