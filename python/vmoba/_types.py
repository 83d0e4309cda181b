# SPDX-License-Identifier: Apache-2.0
"""What a call is made of: runs, text, policies; and how they travel to the operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

import torch
from torch import Tensor

from ._error import Error

Scope = Literal["head", "query", "block", "all"]


@dataclass(frozen=True)
class Run:
    """A block of ``tokens`` consecutive tokens in raster order (t, then y, then x); the last one may be short."""

    tokens: int


@dataclass(frozen=True)
class Threshold:
    """VMoBA's rule (paper section 3.4): the best blocks until a share of the gate's sum is reached.

    Args:
        tau: share of the sum of min-max normalised gates that the selection keeps, own blocks counted first; above 1
            selects everything. Density follows tau: .15/.25/.35/.50 keep about .13/.19/.27/.39 of the pairs.
        scope: who shares one budget: all pairs of a ``"head"`` (the paper's), of a ``"query"``, of a ``"block"`` of
            queries over all heads, or ``"all"`` pairs of a sample.
        min_blocks: blocks every query attends at least, its own counted.
        max_blocks: blocks every query attends at most, its own counted.
    """

    tau: float = 0.25
    scope: Scope = "head"
    min_blocks: int = 1
    max_blocks: int | None = None


@dataclass(frozen=True)
class TopK:
    """The k best blocks a query on average over the scope, own blocks counted and always taken.

    Scope ``"query"`` gives every query exactly min(k, N); scope ``"block"`` is refused.
    """

    k: int = 1
    scope: Scope = "query"
    min_blocks: int = 1
    max_blocks: int | None = None


@dataclass(frozen=True)
class Dense:
    """Every query attends every key."""


Policy = Union[Threshold, TopK, Dense]
Grid = Union[tuple[int, int, int], Sequence[int]]
Grids = Union[Grid, Sequence[Grid]]
Block = Union[Run, Sequence[Union[int, None]]]


@dataclass(frozen=True, eq=False)
class Text:
    """Text tokens of joint attention (HunyuanVideo, CogVideoX), the same number in every sample, padding included.

    Every query attends all valid text keys, text queries attend everything; text takes no part in gate or budget.

    Args:
        count: L, text tokens a sample. None: what the tokens of q leave over the grid, so that compiled code need not
            know it.
        at: ``"front"`` for [text; video] (CogVideoX), ``"rear"`` for [video; text] (HunyuanVideo).
        valid: whole numbers [B] in 0..L, the text tokens of each sample that are not padding. Padding is attended by
            nobody and gives out 0 and lse -inf. None: all are valid.
    """

    count: int | None = None
    at: Literal["front", "rear"] = "rear"
    valid: Tensor | Sequence[int] | None = None


def flat_grid(grid: Grids) -> list[int]:
    """(t, y, x) or a list of such triples, one after another."""
    numbers: list[int] = []
    for entry in grid:
        if isinstance(entry, (tuple, list)):
            if len(entry) != 3:
                raise Error(f"vmoba: grid = {grid!r} has an entry that is not a triple; pass (t, y, x) in tokens")
            numbers.extend(entry)
        else:
            numbers.append(entry)  # type: ignore[arg-type]
    if len(numbers) == 0 or len(numbers) % 3 != 0:
        raise Error(
            f"vmoba: grid = {grid!r} is not a triple; pass (t, y, x) in tokens after patchify, or a list of "
            "such triples"
        )
    return numbers


def flat_block(block: Block) -> list[int]:
    """Three extents with -1 for a whole axis, or one number for a run."""
    if isinstance(block, Run):
        return [block.tokens]
    if not isinstance(block, (tuple, list)) or len(block) != 3:
        raise Error(
            f"vmoba: block = {block!r} is neither three extents nor a run; pass (t, y, x) in tokens with None for a "
            "whole axis, or vmoba.Run(tokens)"
        )
    extents: list[int] = []
    for extent in block:
        if extent is None:
            extents.append(-1)
        elif extent < 1:
            raise Error(
                f"vmoba: block = {block!r} has an extent below 1; use 1 or more tokens, or None for the whole axis"
            )
        else:
            extents.append(extent)
    return extents


def block_of(numbers: Sequence[int]) -> Block:
    """The inverse of flat_block."""
    if len(numbers) == 1:
        return Run(numbers[0])
    return tuple(None if extent == -1 else extent for extent in numbers)


def flat_policy(policy: Policy) -> tuple[str, float, str, int, int | None]:
    """name, amount, scope, min_blocks, max_blocks."""
    if isinstance(policy, Threshold):
        return "threshold", policy.tau, policy.scope, policy.min_blocks, policy.max_blocks
    if isinstance(policy, TopK):
        return "topk", policy.k, policy.scope, policy.min_blocks, policy.max_blocks
    if isinstance(policy, Dense):
        return "dense", 0.0, "head", 1, None
    raise Error(f"vmoba: policy = {policy!r} is not a policy; pass vmoba.Threshold, vmoba.TopK or vmoba.Dense")


def policy_from(values: dict[str, Any]) -> Policy:
    """A policy from the engine's JSON: name, amount (tau or k), scope, min_blocks, max_blocks."""
    if values["name"] == "dense":
        return Dense()
    common = (values["scope"], values["min_blocks"], values["max_blocks"])
    return (
        Threshold(values["amount"], *common) if values["name"] == "threshold" else TopK(int(values["amount"]), *common)
    )


def policy_to(policy: Policy) -> dict[str, Any]:
    """The inverse of policy_from."""
    name, amount, scope, min_blocks, max_blocks = flat_policy(policy)
    if name == "dense":
        return {"name": name}
    return {"name": name, "amount": amount, "scope": scope, "min_blocks": min_blocks, "max_blocks": max_blocks}


def check_tensor(value: Any, name: str) -> None:
    """Refuses what is not a [B, R, H, D] tensor before its shape is read."""
    if not isinstance(value, Tensor):
        raise Error(f"vmoba: {name} is a {type(value).__name__}, not a tensor; pass [batch, tokens, heads, head dim]")
    if value.dim() != 4:
        raise Error(
            f"vmoba: {name}.shape = {list(value.shape)} is not four-dimensional; pass [batch, tokens, heads, head dim]"
        )


def flat_text(text: Text | None, rows: int, grid: Sequence[int]) -> tuple[int, str, Tensor | None]:
    """count, place, valid. rows: of one sample, or of all packed samples together."""
    if text is None:
        return 0, "rear", None
    count = text.count
    if count is None:
        tokens = 0
        for i in range(0, len(grid), 3):
            tokens = tokens + grid[i] * grid[i + 1] * grid[i + 2]
        samples = len(grid) // 3
        count = (rows - tokens) // samples if samples > 1 else rows - tokens
    valid = text.valid
    if valid is not None and not isinstance(valid, Tensor):
        valid = torch.tensor(valid, dtype=torch.int64)
    return count, text.at, valid
