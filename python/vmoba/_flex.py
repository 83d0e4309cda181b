# SPDX-License-Identifier: Apache-2.0
"""FlexAttention under torch.compile on selections of VMoBA; `vmoba bench` runs it as `python -m vmoba._flex JSON`.

Prints one JSON object: the times of FlexAttention, of torch SDPA and of vmoba.attend beside it, or {"skipped": reason}.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE = 128  # FlexAttention's usual tile: queries and keys


@dataclass(frozen=True)
class Pairs:
    """The same query-key pairs for both: a selection of ours, and a BlockMask over tokens in the order of their blocks."""

    name: str
    selection: Any
    order: Tensor  # int64 [S]
    mask: Any


def block_of(text: str) -> Any:
    """ "7x5x13", "3xfullxfull" or "run:1024" as the functions of the package want it."""
    import vmoba

    if text.startswith("run:"):
        return vmoba.Run(int(text[4:]))
    return tuple(None if extent == "full" else int(extent) for extent in text.split("x"))


def by_query(q: Tensor, k: Tensor, grid: tuple[int, int, int], block: Any, tau: float) -> Pairs:
    """What VMoBA selects. Tokens in the order of their blocks, so that whole tiles fall away where they can."""
    import vmoba
    from torch.nn.attention.flex_attention import create_block_mask

    selection = vmoba.select(q, k, grid=grid, block=block, policy=vmoba.Threshold(tau))
    labels = selection.labels()
    order = torch.argsort(labels, stable=True)
    mask = selection.mask()[0][:, order]
    sorted_labels = labels[order].contiguous()

    def selected(_batch: Any, head: Any, query: Any, key: Any) -> Any:
        return mask[head, query, sorted_labels[key]]

    heads, tokens = q.shape[2], q.shape[1]
    return Pairs("query by query", selection, order, create_block_mask(selected, 1, heads, tokens, tokens, device="cpu"))


def by_tiles(heads: int, tiles: int, density: float) -> Pairs:
    """Whole tiles: all queries of a tile attend the same blocks of 128 keys, so FlexAttention computes no pair in vain."""
    import vmoba
    from torch.nn.attention.flex_attention import BlockMask

    # The best `each` tiles of random gates a row; the own one is always among them, as VMoBA wants it.
    each = max(1, round(density * tiles))
    gates = torch.rand(heads, tiles, tiles) + 2 * torch.eye(tiles)
    chosen = gates.argsort(-1, descending=True)[..., :each].sort(-1).values
    wanted = torch.zeros(heads, tiles, tiles, dtype=torch.bool).scatter_(-1, chosen, True)
    # Bits of a head: block after block of keys, 64 queries a word, hence two equal words a tile of queries.
    words = wanted.transpose(1, 2).repeat_interleave(TILE // 64, -1)
    selection = vmoba.Selection((-words.to(torch.int64)).flatten(), 1, heads, (1, 1, tiles * TILE), (TILE,))
    # Chosen tiles are full ones: the kernel needs no mask inside them.
    indices = torch.cat([chosen, torch.zeros(heads, tiles, tiles - each, dtype=torch.int64)], -1)
    none = torch.zeros(1, heads, tiles, dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(
        none,
        torch.zeros(1, heads, tiles, tiles, dtype=torch.int32),
        torch.full_like(none, each),
        indices[None].to(torch.int32),
        BLOCK_SIZE=TILE,
    )
    return Pairs("tiles of 128 x 128", selection, torch.arange(tiles * TILE), mask)


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def compare(flex: Any, q: Tensor, k: Tensor, v: Tensor, pairs: Pairs, repeats: int) -> dict[str, Any]:
    """Interleaved rounds of the three, after one warm-up each; q, k, v [1, S, H, D]."""
    import vmoba

    tokens = pairs.order.numel()
    q, k, v = (tensor[:, :tokens] for tensor in (q, k, v))
    by_block = [tensor[:, pairs.order].transpose(1, 2).contiguous() for tensor in (q, k, v)]
    runs: dict[str, Callable[[], Tensor]] = {
        "seconds": lambda: flex(*by_block, block_mask=pairs.mask),
        "sdpa_seconds": lambda: torch.nn.functional.scaled_dot_product_attention(*by_block),
        "vmoba_seconds": lambda: vmoba.attend(q, k, v, pairs.selection),  # FlexAttention chooses nothing either
    }
    out = runs["seconds"]()
    runs["sdpa_seconds"]()
    expected = runs["vmoba_seconds"]()
    error = float((out.transpose(1, 2) - expected[:, pairs.order]).norm() / expected.norm())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(timed(run))
    full = pairs.mask.full_kv_num_blocks
    visited = int(pairs.mask.kv_num_blocks.sum()) + (0 if full is None else int(full.sum()))
    return {
        "selection": pairs.name,
        "tokens": tokens,
        "density": float(pairs.selection.density().mean()),
        "tile_density": visited / pairs.mask.kv_num_blocks.numel() / pairs.mask.kv_num_blocks.shape[-1],
        **{name: statistics.median(values) for name, values in times.items()},
        "relative_error_to_vmoba": error,
    }


def backward(flex: Any, q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> str:
    """Whether gradients come out: "works", or the reason why not."""
    leaves = [tensor[:, pairs.order].transpose(1, 2).contiguous().requires_grad_() for tensor in (q, k, v)]
    try:
        flex(*leaves, block_mask=pairs.mask).sum().backward()
    except Exception as error:  # whatever the compiler throws
        return f"not measured, {one_line(error)}"
    return "works, not timed"


def measure(request: dict[str, Any]) -> dict[str, Any]:
    from torch.nn.attention.flex_attention import flex_attention

    torch.set_num_threads(int(request["threads"]))
    torch.manual_seed(1)
    t, y, x = request["grid"]
    tokens, heads, dim = t * y * x, int(request["heads"]), int(request["dim"])
    q, k, v = (torch.randn(1, tokens, heads, dim) for _ in range(3))
    every = [by_query(q, k, (t, y, x), block_of(request["block"]), float(request["tau"]))]
    if tokens >= TILE:
        every += [by_tiles(heads, tokens // TILE, float(density)) for density in request["densities"]]
    flex = torch.compile(flex_attention)
    with torch.no_grad():
        by_block = [tensor[:, every[0].order].transpose(1, 2).contiguous() for tensor in (q, k, v)]
        compile_seconds = timed(lambda: flex(*by_block, block_mask=every[0].mask))
        runs = [compare(flex, q, k, v, pairs, int(request["repeats"])) for pairs in every]
    return {
        "grid": [t, y, x],
        "tokens": tokens,
        "heads": heads,
        "dim": dim,
        "dtype": "f32",
        "block": request["block"],
        "compile_seconds": compile_seconds,
        "backward": backward(flex, q, k, v, every[0]),
        "runs": runs,
    }


def main() -> int:
    try:
        told = measure(json.loads(sys.argv[1]))
    except Exception as error:  # whatever the compiler throws: the bench goes on without
        told = {"skipped": one_line(error)}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
