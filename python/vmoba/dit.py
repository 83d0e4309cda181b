# SPDX-License-Identifier: Apache-2.0
"""The C++ video diffusion transformer (Wan 2.1, diffusers' WanTransformer3DModel) as a torch module."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch import Tensor

from ._error import call
from ._types import Block, Run, flat_block, policy_to
from .presets import Plan, Schedule, layers_of


def _native() -> Any:
    from ._library import load as load_library

    load_library("libvmoba_dit.so")
    return torch.classes.vmoba.WanModel


def _block_json(block: Block) -> Any:
    if isinstance(block, Run):
        return {"run": block.tokens}
    return [None if extent == -1 else extent for extent in flat_block(block)]


def plan_json(plan: Plan | None, schedule: Schedule | None = None) -> str:
    """What set_policy sends to the model: an attention plan as JSON."""
    value: dict[str, Any] = {"dense": True}
    if plan is not None:
        layers, preset_schedule = layers_of(plan)
        value = {"cycle": [{"block": _block_json(block), "policy": policy_to(policy)} for block, policy in layers]}
        schedule = preset_schedule if schedule is None else schedule
    if schedule is not None:
        value["schedule"] = {
            "dense_fraction": schedule.dense_fraction,
            "dense_steps": schedule.dense_steps,
            "dense_layers": sorted(schedule.dense_layers),
            "min_tokens": schedule.min_tokens,
            "refresh": schedule.refresh,
        }
    return json.dumps(value)


class WanModel(torch.nn.Module):
    """Wan 2.1 video diffusion transformer; made by load or create.

    model(latents [B, C, T, Y, X], timestep [B], text [B, L, W]) returns the prediction [B, C_out, T, Y, X]. Parameters
    are the C++ model's own tensors under diffusers' names: optimizers, autograd and state_dict work on them. Not for
    concurrent calls on one object.
    """

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native
        for name, tensor in zip(native.names(), native.parameters()):
            owner: torch.nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, torch.nn.Module())
                owner = owner.get_submodule(part)
            tensor._is_param = True  # a Parameter for torch, and still the tensor that C++ holds
            owner.register_parameter(leaf, tensor)

    @property
    def config(self) -> dict[str, Any]:
        """config.json as diffusers writes it."""
        values: dict[str, Any] = json.loads(self._native.config())
        return values

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
        """The prediction [B, C_out, T, Y, X].

        Args:
            latents: [B, C, T, Y, X]; T, Y, X multiples of the patch size.
            timestep: [B], 0..1000.
            text: [B, L, W] text embeddings, W the config's text_dim.
            image: [B, L_image, W_image] for image-to-video models.
        """
        result: Tensor = call(self._native.forward, latents, timestep, text, image)
        return result

    def set_policy(self, policy: Plan | None, *, schedule: Schedule | None = None) -> None:
        """What self-attention does in each layer.

        Args:
            policy: None for dense; a preset's name or a Preset (its 1D, 2D, 3D cycle and its schedule); (block, policy)
                for every layer; or a list of such pairs, layer l using entry l modulo the list's length.
            schedule: instead of the preset's.
        """
        call(self._native.set_policy, plan_json(policy, schedule))

    @property
    def plan(self) -> dict[str, Any]:
        """The attention plan in force."""
        values: dict[str, Any] = json.loads(self._native.policy())
        return values

    def sampling_step(self, step: int, steps: int, branch: int = 0) -> None:
        """Says where the following calls stand in a sampling run, so that the schedule applies.

        branch separates calls that keep their own selections, conditional and unconditional ones for example.
        """
        call(self._native.sampling_step, step, steps, branch)

    def train(self, mode: bool = True) -> WanModel:
        """As every module; training also ends a sampling run."""
        super().train(mode)
        if mode:
            self._native.training()
        return self

    def record_density(self, on: bool = True) -> None:
        """Keep the density of every layer's selection for last_density; costs a popcount a layer."""
        self._native.record_density(on)

    def last_density(self) -> list[float]:
        """Density of each layer in the last call, 1 where dense."""
        return list(self._native.last_density())

    def set_activation_checkpointing(self, on: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self._native.set_activation_checkpointing(on)

    def save(self, directory: str | os.PathLike[str], shard_bytes: int = 10_000_000_000) -> None:
        """Writes DIR/config.json and weights as diffusers lays them out; each file is replaced atomically."""
        call(self._native.save, os.fspath(directory), shard_bytes)

    def load_weights(self, directory: str | os.PathLike[str]) -> None:
        """Reads weights of the same config into the parameters."""
        call(self._native.load_weights, os.fspath(directory))


def load(directory: str | os.PathLike[str]) -> WanModel:
    """The model of a folder in diffusers' layout (config.json and safetensors, sharded or not), dense until set_policy.

    Raises:
        Error: a file is missing or corrupt, or a tensor has another shape than the config asks; names it.
    """
    return WanModel(call(_native().load, os.fspath(directory)))


def create(config: dict[str, Any], seed: int = 0) -> WanModel:
    """A new model of a config (diffusers' fields), deterministically initialised, output layer zero."""
    return WanModel(call(_native().create, json.dumps(config), seed))
