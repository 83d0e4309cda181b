# SPDX-License-Identifier: Apache-2.0
"""Ulysses sequence parallelism: tokens are split over ranks outside attention, heads inside.

VMoBA composes with it unchanged in the scopes "head" and "query", because each rank then holds all tokens of its heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._error import Error
from ._types import Block, Grids, Policy, Threshold, check_tensor
from .functional import attention


def _apply(x: Tensor, group: Any, gather_tokens: bool) -> Tensor:
    result: Tensor = _Exchange.apply(x, group, gather_tokens)  # type: ignore[no-untyped-call]
    return result


class _Exchange(torch.autograd.Function):
    """[B, R / P, H, D] to [B, R, H / P, D] over P ranks, or back; the gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, gather_tokens: bool) -> Tensor:
        ctx.group, ctx.gather_tokens = group, gather_tokens
        return _exchange(x, group, gather_tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(gradients[0], ctx.group, not ctx.gather_tokens), None, None


def _exchange(x: Tensor, group: Any, gather_tokens: bool) -> Tensor:
    ranks = dist.get_world_size(group)
    axis = 2 if gather_tokens else 1
    send = torch.stack(x.chunk(ranks, dim=axis)).contiguous()  # [P, ...] one part a rank
    receive = torch.empty_like(send)
    dist.all_to_all_single(receive, send, group=group)
    return torch.cat(list(receive.unbind()), dim=1 if gather_tokens else 2)


def ulysses(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grids,
    block: Block,
    policy: Policy = Threshold(),
    scale: float | None = None,
    group: Any = None,
) -> Tensor:
    """attention over tokens that are split in raster order over the ranks of group.

    Args:
        q: [B, R / P, H, D], this rank's tokens; k, v [B, R / P, G, D]. P divides R, H and G.
        grid: of the whole sequence, all ranks together.
        group: a torch.distributed process group; the default one unless given.

    Returns:
        out [B, R / P, H, D], this rank's tokens. Differentiable.
    """
    check_tensor(q, "q")
    check_tensor(k, "k")
    scope = getattr(policy, "scope", "head")
    if scope in ("block", "all"):
        raise Error(
            f"vmoba: policy.scope = {scope!r} shares one budget between heads that lie on different ranks; use scope "
            "'head' or 'query'"
        )
    ranks = dist.get_world_size(group)
    for name, heads in (("q", q.shape[2]), ("k", k.shape[2])):
        if heads % ranks != 0:
            raise Error(f"vmoba: {name} has {heads} heads, which {ranks} ranks do not divide; use a divisor of {heads}")
    whole = [_apply(x, group, True) for x in (q, k, v)]
    out = attention(whole[0], whole[1], whole[2], grid=grid, block=block, policy=policy, scale=scale)
    return _apply(out, group, False)


def ring(*_: Any, **__: Any) -> Tensor:
    """Refused: a selection over all keys cannot be made from the keys of one rank."""
    raise Error("vmoba: ring attention does not compose with a selection over all keys; use vmoba.distributed.ulysses")
