# SPDX-License-Identifier: Apache-2.0
"""Named configurations of the paper and of FastVideo, and the schedule of dense steps. All data is the engine's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union

from ._error import Error, call
from ._library import ops
from ._types import Block, Policy, Run, flat_block, flat_policy, policy_from

LayerPolicy = tuple[Block, Policy]


@dataclass(frozen=True)
class Schedule:
    """Which (step, layer) is dense, and when a selection is chosen anew.

    Args:
        dense_fraction: share of the sampling steps, from the first, that is dense, 0..1; none in training.
        dense_steps: a count of steps instead of the fraction.
        dense_layers: layers that are always dense.
        min_tokens: shorter sequences are dense. "auto" asks the cost model: in a model, every layer is dense where
            sparse attention is not predicted to be quicker (explain shows the prediction).
        refresh: a selection is used for this many sparse steps.

    Raises:
        Error: a value is out of range.
    """

    dense_fraction: float = 0.25
    dense_steps: int | None = None
    dense_layers: frozenset[int] = field(default_factory=frozenset)
    min_tokens: int | Literal["auto"] = 0
    refresh: int = 1

    def __post_init__(self) -> None:
        def whole(value: Any, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62

        share = self.dense_fraction
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise Error(f"vmoba: dense_fraction = {share!r} is not a share of the steps; use 0..1")
        if self.dense_steps is not None and not whole(self.dense_steps, 0):
            raise Error(
                f"vmoba: dense_steps = {self.dense_steps!r} is not a number of steps; use 0 or more, or None for "
                "dense_fraction"
            )
        layers = list(self.dense_layers) if isinstance(self.dense_layers, Iterable) else [None]
        if not all(whole(layer, 0) for layer in layers):
            raise Error(f"vmoba: dense_layers = {self.dense_layers!r} is not a set of layers; use for example {{0, 3}}")
        if self.min_tokens != "auto" and not whole(self.min_tokens, 0):
            raise Error(f'vmoba: min_tokens = {self.min_tokens!r} is not a number of tokens; use 0 or more, or "auto"')
        if not whole(self.refresh, 1):
            raise Error(f"vmoba: refresh = {self.refresh!r} is not a number of steps; use 1 or more")
        object.__setattr__(self, "dense_layers", frozenset(layers))

    def _ask(
        self, step: int, steps: int, layer: int, tokens: int, use: Literal["sampling", "training"]
    ) -> tuple[bool, bool, int]:
        answer: tuple[bool, bool, int] = call(
            ops.schedule,
            self.dense_fraction,
            self.dense_steps,
            sorted(self.dense_layers),
            None if self.min_tokens == "auto" else self.min_tokens,
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
    cycle: tuple[LayerPolicy, ...]  # 1D, 2D, 3D
    schedule: Schedule
    source: str

    def layer(self, index: int) -> LayerPolicy:
        """Block and policy of a transformer layer: the cycle 1D, 2D, 3D over the layers."""
        return self.cycle[index % len(self.cycle)]


def _read() -> dict[str, Preset]:
    table: dict[str, Preset] = {}
    for values in json.loads(ops.presets()):
        cycle: list[LayerPolicy] = []
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


Plan = Union[str, Preset, LayerPolicy, Sequence[LayerPolicy]]


def _is_pair(plan: Sequence[Any]) -> bool:
    return len(plan) == 2 and hasattr(plan[1], "__dataclass_fields__") and not isinstance(plan[1], Run)


def layers_of(plan: Plan) -> tuple[tuple[LayerPolicy, ...], Schedule | None]:
    """What a plan means: block and policy of the layers, layer l using entry l modulo their number; a preset's schedule.

    A plan is a preset's name, a Preset, (block, policy) for every layer, or a list of such pairs.
    """
    if isinstance(plan, str):
        plan = preset(plan)
    if isinstance(plan, Preset):
        return plan.cycle, plan.schedule
    if not isinstance(plan, (tuple, list)) or not plan:
        raise Error(f"vmoba: policy = {plan!r} is not a plan; pass (block, policy), a list of them, or a preset")
    layers = (plan,) if _is_pair(plan) else tuple(plan)
    for layer in layers:
        if not isinstance(layer, (tuple, list)) or len(layer) != 2:
            raise Error(f"vmoba: policy = {layer!r} is not a pair; pass (block, policy), a list of them, or a preset")
        flat_block(layer[0])
        flat_policy(layer[1])
    return layers, None
