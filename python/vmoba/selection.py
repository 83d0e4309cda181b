# SPDX-License-Identifier: Apache-2.0
"""Selection: which query tokens attend which key blocks."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ._error import Error, call
from ._library import ops
from ._types import Block, block_of


class Selection:
    """A bit matrix per sample and head, video tokens by key blocks, made by select and used by attend.

    Attributes:
        bits: int64 [words], 64 tokens a word, block after block; S x N bits a head, known from shapes alone.
        batch: B samples.
        heads: H query heads.
        grids: 3 numbers when all samples have one grid, else 3 a sample.
        extents: the block's three extents with -1 for a whole axis, or one number for a run.

    A selection can be reused over denoising steps, combined with & and | (same grid, block, batch and heads), saved,
    and looked at. It holds no text: text is always attended.
    """

    def __init__(self, bits: Tensor, batch: int, heads: int, grids: tuple[int, ...], extents: tuple[int, ...]) -> None:
        self.bits = bits
        self.batch = batch
        self.heads = heads
        self.grids = grids
        self.extents = extents

    @property
    def block(self) -> Block:
        """The block as it was passed to select."""
        return block_of(self.extents)

    @property
    def grid(self) -> tuple[int, ...] | list[tuple[int, ...]]:
        """The grid as it was passed to select: a triple, or a list of triples."""
        triples = [tuple(self.grids[i : i + 3]) for i in range(0, len(self.grids), 3)]
        return triples[0] if len(triples) == 1 else triples

    def _arguments(self) -> tuple[Tensor, int, int, list[int], list[int]]:
        return self.bits, self.batch, self.heads, list(self.grids), list(self.extents)

    def mask(self) -> Tensor | list[Tensor]:
        """bool [B, H, S, N]: token attends block. A list of [H, S, N] when the samples' grids differ."""
        masks = call(ops.selection_mask, *self._arguments())
        return torch.stack(masks) if len(self.grids) == 3 else list(masks)

    def counts(self) -> Tensor | list[Tensor]:
        """int64 [B, H, S]: blocks each token attends, its own counted. A list of [H, S] when the grids differ."""
        counts = call(ops.selection_counts, *self._arguments())
        return torch.stack(counts) if len(self.grids) == 3 else list(counts)

    def density(self) -> Tensor:
        """float64 [B, H]: share of query-key pairs kept, blocks counted by their tokens. Text is not counted."""
        density: Tensor = call(ops.selection_density, *self._arguments())
        return density

    def labels(self) -> Tensor | list[Tensor]:
        """int64 [S]: the block of each token. A list, one a sample, when the grids differ."""
        labels = [
            call(ops.partition_labels, list(self.grids[i : i + 3]), list(self.extents))
            for i in range(0, len(self.grids), 3)
        ]
        return labels[0] if len(labels) == 1 else labels

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the engine's selection file (checksummed), through a temporary name beside it."""
        call(ops.selection_save, *self._arguments(), os.fspath(path))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Selection:
        """Reads what save wrote. Error when the file is missing, truncated, corrupt or not a selection."""
        bits, heads, grids, extents = call(ops.selection_load, os.fspath(path))
        batch = len(grids) // 3
        if grids == grids[:3] * batch:
            grids = grids[:3]
        return Selection(bits, batch, heads, tuple(grids), tuple(extents))

    def to_block_mask(self, tile: int = 128) -> Any:
        """A BlockMask for torch.nn.attention.flex_attention, for cross-checks and as a fallback.

        It holds the [S, S] structure in tiles of ``tile`` tokens and needs one grid for all samples; costs a dense
        [B, H, S, N] mask.
        """
        from torch.nn.attention.flex_attention import create_block_mask

        if len(self.grids) != 3:
            raise Error(f"vmoba: grid = {self.grid} is more than one; make a block mask a sample")
        mask, labels = self.mask(), self.labels()
        assert isinstance(mask, Tensor) and isinstance(labels, Tensor)
        tokens = labels.numel()

        def mask_mod(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return mask[b, h, query, labels[key]]

        return create_block_mask(mask_mod, self.batch, self.heads, tokens, tokens, device="cpu", BLOCK_SIZE=tile)

    def _same(self, other: Selection, sign: str) -> None:
        for name in ("batch", "heads", "grids", "extents"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise Error(
                    f"vmoba: selections of {name} {mine} and {theirs} do not combine; {sign} needs equal batch, heads, "
                    "grid and block"
                )

    def __and__(self, other: Selection) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        self._same(other, "&")
        return Selection(self.bits & other.bits, self.batch, self.heads, self.grids, self.extents)

    def __or__(self, other: Selection) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        self._same(other, "|")
        return Selection(self.bits | other.bits, self.batch, self.heads, self.grids, self.extents)

    def __eq__(self, other: object) -> bool:
        """Same shapes and bits."""
        if not isinstance(other, Selection):
            return NotImplemented
        mine = (self.batch, self.heads, self.grids, self.extents)
        return mine == (other.batch, other.heads, other.grids, other.extents) and torch.equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Selection(batch={self.batch}, heads={self.heads}, grid={self.grid}, block={self.block})"
