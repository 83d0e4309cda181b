# SPDX-License-Identifier: Apache-2.0
"""Named configurations of the paper and of FastVideo, and the schedule of dense steps. All data is the engine's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from ._error import Error, call
from ._library import ops
from ._types import Block, Policy, Run, policy_from


@dataclass(frozen=True)
class Schedule:
    """Which (step, layer) is dense, and when a selection is chosen anew.

    Args:
        dense_fraction: share of the sampling steps, from the first, that is dense, 0..1; none in training.
        dense_steps: a count of steps instead of the fraction.
        dense_layers: layers that are always dense.
        min_tokens: shorter sequences are dense.
        refresh: a selection is used for this many sparse steps.
    """

    dense_fraction: float = 0.25
    dense_steps: int | None = None
    dense_layers: frozenset[int] = field(default_factory=frozenset)
    min_tokens: int = 0
    refresh: int = 1

    def _ask(
        self, step: int, steps: int, layer: int, tokens: int, use: Literal["sampling", "training"]
    ) -> tuple[bool, bool, int]:
        answer: tuple[bool, bool, int] = call(
            ops.schedule,
            self.dense_fraction,
            self.dense_steps,
            sorted(self.dense_layers),
            self.min_tokens,
            self.refresh,
            step,
            steps,
            layer,
            tokens,
            use,
        )
        return answer

    def dense(
        self,
        step: int,
        steps: int,
        layer: int,
        tokens: int,
        use: Literal["sampling", "training"] = "sampling",
    ) -> bool:
        """Whether this layer is dense at this of the run's steps."""
        return self._ask(step, steps, layer, tokens, use)[0]

    def refreshes(self, step: int, steps: int) -> bool:
        """Whether a sparse step chooses its selection anew."""
        return self._ask(step, steps, 0, 0, "sampling")[1]

    def first_sparse_step(self, steps: int) -> int:
        """The first step that is not dense."""
        return self._ask(0, steps, 0, 0, "sampling")[2]


@dataclass(frozen=True)
class Preset:
    """A named row of the paper's or of FastVideo's settings."""

    name: str
    grid: tuple[int, int, int]  # tokens (t, y, x)
    cycle: tuple[tuple[Block, Policy], ...]  # 1D, 2D, 3D
    schedule: Schedule
    source: str

    def layer(self, index: int) -> tuple[Block, Policy]:
        """Block and policy of a transformer layer: the cycle 1D, 2D, 3D over the layers."""
        return self.cycle[index % len(self.cycle)]


def _read() -> dict[str, Preset]:
    table: dict[str, Preset] = {}
    for values in json.loads(ops.presets()):
        cycle: list[tuple[Block, Policy]] = []
        for layer in values["cycle"]:
            extents = layer["block"]
            block: Block = Run(extents["run"]) if isinstance(extents, dict) else tuple(extents)
            cycle.append((block, policy_from(layer["policy"])))
        schedule = values["schedule"]
        schedule["dense_layers"] = frozenset(schedule["dense_layers"])
        table[values["name"]] = Preset(
            values["name"], tuple(values["grid"]), tuple(cycle), Schedule(**schedule), values["source"]
        )
    return table


def presets() -> tuple[str, ...]:
    """The names preset takes."""
    return tuple(_read())


def preset(name: str) -> Preset:
    """The preset of this name, "paper-93x576x1024" for example (paper tables 1 to 3)."""
    table = _read()
    if name not in table:
        raise Error(f"vmoba: preset = {name!r} is not a preset; use one of {', '.join(table)}")
    return table[name]
