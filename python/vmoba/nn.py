# SPDX-License-Identifier: Apache-2.0
"""Modules: self-attention of a video transformer whose softmax is VMoBA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._error import Error
from ._types import Block, Grids, Policy, Text, Threshold
from .functional import attention


class Attention(torch.nn.Module):
    """q, k, v projection in one matrix, VMoBA attention, output projection.

    Args:
        width: channels of a token, W.
        heads: H query heads.
        block, policy: as in vmoba.attention; attributes, may be changed between calls (policy=Dense() for dense).
        kv_heads: G key/value heads, divides heads; heads unless given.
        dim: D channels a head; width / heads unless given.
        bias: of both projections.
        qk_norm: RMS norm of q and k over the whole width, as in Wan 2.1.
        scale: of the logits; 1/sqrt(D) unless given.

    Shapes: x [B, R, W] and the result alike; R counts text tokens too where text is passed.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        block: Block,
        policy: Policy = Threshold(),
        kv_heads: int | None = None,
        dim: int | None = None,
        bias: bool = True,
        qk_norm: bool = False,
        scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or (dim is None and width % heads != 0):
            raise Error(f"vmoba: heads = {heads} does not divide width = {width}; use a divisor, or pass dim")
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads != 0:
            raise Error(f"vmoba: kv_heads = {kv_heads} does not divide heads = {heads}; use a divisor of heads")
        self.dim = width // heads if dim is None else dim
        self.block = block
        self.policy = policy
        self.scale = scale
        inner = self.dim * (heads + 2 * self.kv_heads)
        self.qkv = torch.nn.Linear(width, inner, bias=bias, device=device, dtype=dtype)
        self.out = torch.nn.Linear(self.dim * heads, width, bias=bias, device=device, dtype=dtype)
        self.norm_q: torch.nn.Module = torch.nn.Identity()
        self.norm_k: torch.nn.Module = torch.nn.Identity()
        if qk_norm:
            self.norm_q = torch.nn.RMSNorm(self.dim * heads, eps=1e-6, device=device, dtype=dtype)
            self.norm_k = torch.nn.RMSNorm(self.dim * self.kv_heads, eps=1e-6, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        grid: Grids,
        *,
        text: Text | None = None,
        position: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x [B, R, W] to [B, R, W]. position rotates q and k, each [B, R, heads, D], before they meet (RoPE)."""
        if x.dim() != 3:
            raise Error(f"vmoba: x.shape = {list(x.shape)} is not three-dimensional; pass [batch, tokens, width]")
        sizes = [self.dim * self.heads, self.dim * self.kv_heads, self.dim * self.kv_heads]
        q, k, v = self.qkv(x).split(sizes, dim=-1)  # views: attention reads them with their strides
        q = self.norm_q(q).unflatten(-1, (self.heads, self.dim))
        k = self.norm_k(k).unflatten(-1, (self.kv_heads, self.dim))
        v = v.unflatten(-1, (self.kv_heads, self.dim))
        if position is not None:
            q, k = position(q), position(k)
        result: Tensor = self.out(self.core(q, k, v, grid, text=text).flatten(-2))
        return result

    def core(self, q: Tensor, k: Tensor, v: Tensor, grid: Grids, *, text: Text | None = None) -> Tensor:
        """The attention alone, without projections: q [B, R, H, D], k, v [B, R, G, D] to [B, R, H, D]."""
        return attention(q, k, v, grid=grid, block=self.block, policy=self.policy, text=text, scale=self.scale)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, dim={self.dim}, block={self.block}, policy={self.policy}"
