# SPDX-License-Identifier: Apache-2.0
"""Random problems, and attention written out in float64."""

from __future__ import annotations

import math

import torch


def dense_mask(selection, text=0, at="rear", valid=None):
    """bool [B, H, R, R]: query row may attend key row, text included, of a uniform selection."""
    mask = selection.mask()[..., selection.labels()]
    batch, heads, tokens, _ = mask.shape
    rows = tokens + text
    video = slice(text, rows) if at == "front" else slice(0, tokens)
    begin = 0 if at == "front" else tokens
    full = torch.zeros(batch, heads, rows, rows, dtype=torch.bool)
    full[:, :, video, video] = mask
    for b in range(batch):
        count = text if valid is None else int(valid[b])
        full[b, :, :, begin : begin + count] = True
        full[b, :, begin : begin + count, video] = True
        full[b, :, begin + count : begin + text, :] = False
    return full


def naive(q, k, v, mask, scale=None):
    """out [B, R, H, D], lse [B, R, H] in float64 for q [B, R, H, D], k, v [B, R, G, D], mask [B, H, R, R]."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    logits = (q @ k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    logits = logits.masked_fill(~mask, -math.inf)
    lse = logits.logsumexp(-1)
    weights = torch.where(mask, (logits - lse.clamp_min(-1e300)[..., None]).exp(), 0.0)
    return (weights @ v).transpose(1, 2), lse.transpose(1, 2)


def random_qkv(batch, rows, heads, kv_heads, dim, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, rows, h, dim) for h in (heads, kv_heads, kv_heads)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
