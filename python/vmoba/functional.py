# SPDX-License-Identifier: Apache-2.0
"""attention, select, attend, and what they would do: explain, info.

Layouts everywhere: q [B, R, H, D]; k, v [B, R, G, D] with G dividing H; R counts a sample's video tokens in raster
order (t, then y, then x) and its text tokens. D must be contiguous, all other strides are free: slices of a fused
projection and transposed [B, H, R, D] tensors are used as they are. Several grids mean a packed batch:
q [1, all rows, H, D].
Dtypes float32, bfloat16, float16; float64 runs on the reference backend and exists for gradient checks.
Threads are torch's (torch.set_num_threads); results do not depend on their number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ._error import Error, call
from ._library import ops
from ._types import (
    Block,
    Grids,
    Policy,
    Text,
    Threshold,
    check_tensor,
    flat_block,
    flat_grid,
    flat_policy,
    flat_text,
)
from .selection import Selection

_dtype_names = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64"}


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grids,
    block: Block,
    policy: Policy = ...,
    text: Text | None = ...,
    scale: float | None = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grids,
    block: Block,
    policy: Policy = ...,
    text: Text | None = ...,
    scale: float | None = ...,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grids,
    block: Block,
    policy: Policy = Threshold(),
    text: Text | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "",
) -> Tensor | tuple[Tensor, Tensor]:
    """VMoBA attention (arXiv 2506.23858): select, then attend.

    Every query scores every block of keys by its mean key, keeps the blocks that the policy chooses and its own, and
    takes one softmax over their keys.

    Args:
        q: [B, R, H, D]: samples, tokens of a sample in raster order (t, then y, then x; text before or behind), heads,
            channels a head. float32, bfloat16 or float16; float64 on the reference backend. D contiguous, a multiple
            of 8 up to 256 (any on the reference backend); other strides are free.
        k, v: [B, R, G, D] in q's dtype, G dividing H: key/value head h / (H / G) serves query head h.
            q, k, v are differentiable; the selection is a constant in the backward pass.
        grid: (t, y, x) token grid after patchify, in tokens; or one triple a sample for a packed batch
            (q [1, all rows, H, D]).
        block: extents (t, y, x) of a key block in tokens, None for a whole axis, or Run(tokens). The last block of an
            axis is shorter when the axis does not divide.
        policy: Threshold (the paper's), TopK or Dense.
        text: text tokens in the sequence, if any: Text.
        scale: of the logits; 1/sqrt(D) unless given.
        return_lse: also the log-sum-exp of the logits.
        backend: "" chooses the best that takes the problem; "cpu", "cpu:haswell", "reference" force one.

    Returns:
        out [B, R, H, D] in q's dtype; with return_lse also lse [B, R, H], fp32, natural log (float64 for float64 q).

    Raises:
        Error: an argument breaks a rule, or no backend takes the problem; the message names both and the way out.

    Results do not depend on the number of threads (torch.set_num_threads), and a batch gives the bits of its samples run
    one by one. Works under torch.compile(fullgraph=True) and autocast.

    Example:
        q, k, v = (torch.randn(1, 4 * 8 * 8, 2, 64, requires_grad=True) for _ in range(3))
        out = vmoba.attention(q, k, v, grid=(4, 8, 8), block=(2, 4, 4), policy=vmoba.Threshold(0.25))
        out.sum().backward()
    """
    check_tensor(q, "q")
    grids = flat_grid(grid)
    count, at, valid = flat_text(text, q.shape[1], grids)
    out, lse = call(
        ops.attention, q, k, v, grids, flat_block(block), *flat_policy(policy), scale, count, at, valid, backend
    )
    return (out, lse) if return_lse else out


def select(
    q: Tensor,
    k: Tensor,
    *,
    grid: Grids,
    block: Block,
    policy: Policy = Threshold(),
    text: Text | None = None,
    backend: str = "",
) -> Selection:
    """Chooses which query tokens attend which key blocks (paper sections 3.3 and 3.4). Not differentiable.

    Arguments as in attention. Ties go to the lower block, then the lower token; a batch gives the bits of its samples
    run one by one.
    """
    check_tensor(q, "q")
    grids = flat_grid(grid)
    blocks = flat_block(block)
    count, at, _ = flat_text(text, q.shape[1], grids)
    bits = call(ops.select, q, k, grids, blocks, *flat_policy(policy), count, at, backend)
    batch = q.shape[0] if len(grids) == 3 else len(grids) // 3
    return Selection(bits, batch, q.shape[2], tuple(grids), tuple(blocks))


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selection: Selection,
    *,
    text: Text | None = ...,
    scale: float | None = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selection: Selection,
    *,
    text: Text | None = ...,
    scale: float | None = ...,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selection: Selection,
    *,
    text: Text | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "",
) -> Tensor | tuple[Tensor, Tensor]:
    """One softmax over the keys of the selected blocks and all valid text: out = softmax(scale q k^T) v.

    Arguments and results as in attention. Differentiable in q, k, v through out and lse, so partial results can be
    merged: with m = max(lse1, lse2), out = (e^(lse1-m) out1 + e^(lse2-m) out2) / (e^(lse1-m) + e^(lse2-m)).
    A row that attends nothing gives out 0, lse -inf and zero gradients.
    """
    check_tensor(q, "q")
    if not isinstance(selection, Selection):
        raise Error(
            f"vmoba: selection is a {type(selection).__name__}, not a vmoba.Selection; pass what vmoba.select "
            "returned, or use vmoba.attention with policy=vmoba.Dense()"
        )
    grids = list(selection.grids)
    if len(grids) == 3 and selection.batch > 1 and q.shape[0] == 1:
        grids = grids * selection.batch  # the same samples, packed
    count, at, valid = flat_text(text, q.shape[1], grids)
    out, lse = call(
        ops.attend, q, k, v, selection.bits, grids, list(selection.extents), scale, count, at, valid, backend
    )
    return (out, lse) if return_lse else out


@dataclass(frozen=True)
class Explanation:
    """What a call would do. print() it for a table."""

    backend: str  # chosen; "" when none takes the problem
    backends: dict[str, str]  # name: the reason it refuses, "" when it would run
    tokens: int  # video tokens of the first sample
    rows: int  # with its text
    blocks: int
    smallest_block: int  # tokens
    largest_block: int  # tokens
    policy: str
    budget: str  # what the policy will keep, in words
    dense_flops: float  # of one dense forward, all samples
    gate_flops: float
    selection_bytes: int
    scratch_bytes: int
    path: str  # "sparse", or "dense" with the reason
    costs: str  # whose costs the two below are predicted from
    forward: dict[str, Any]  # density, select_, sparse_ and dense_seconds, break_even_tokens, crossover_density, quicker
    training: dict[str, Any]  # the same of a forward with its backward
    text: str  # the table

    def __str__(self) -> str:
        return self.text


def explain(
    *,
    grid: Grids,
    block: Block,
    heads: int,
    dim: int,
    policy: Policy = Threshold(),
    kv_heads: int | None = None,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    text: Text | None = None,
    scale: float | None = None,
    backend: str = "",
) -> Explanation:
    """Partition, budget, costs, chosen backend and the refusals of the others, without computing anything."""
    if dtype not in _dtype_names:
        raise Error(f"vmoba: dtype = {dtype} is not a dtype of attention; use float32, bfloat16, float16 or float64")
    if text is not None and text.count is None:
        raise Error("vmoba: text.count = None says nothing without tensors; pass the number of text tokens")
    grids = flat_grid(grid)
    answer = call(
        ops.explain,
        grids,
        flat_block(block),
        *flat_policy(policy),
        batch,
        heads,
        kv_heads or 0,
        dim,
        _dtype_names[dtype],
        scale,
        0 if text is None else text.count,
        "rear" if text is None else text.at,
        backend,
    )
    return Explanation(**json.loads(answer))


@dataclass(frozen=True)
class Backend:
    """One row of info(): unavailable says why this machine or build cannot run it, "" when it can."""

    name: str
    description: str
    unavailable: str


@dataclass(frozen=True)
class Info:
    """What runs here. print() it for a table."""

    version: str
    built_with_torch: str
    threads: int
    backends: tuple[Backend, ...]  # best first

    def __str__(self) -> str:
        lines = [
            f"vmoba {self.version}, built with torch {self.built_with_torch}, running with {torch.__version__}, "
            f"{self.threads} threads"
        ]
        width = max((len(backend.name) for backend in self.backends), default=0)
        for backend in self.backends:
            state = f"no: {backend.unavailable}" if backend.unavailable else "runs here"
            lines.append(f"  {backend.name:<{width}}  {state}; {backend.description}")
        return "\n".join(lines)


def info() -> Info:
    """Version, threads and backends, best first."""
    values = json.loads(ops.info())
    values["backends"] = tuple(Backend(**backend) for backend in values["backends"])
    return Info(**values)
