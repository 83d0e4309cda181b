# SPDX-License-Identifier: Apache-2.0
"""VMoBA in the video transformers of diffusers, in one reversible line.

    applied = vmoba.integrations.diffusers.apply(pipe.transformer, "paper-81x480x832")
    pipe(prompt, ...)
    applied.remove()

Every self-attention module gets a processor that runs the module's own processor and answers its call of torch's
scaled_dot_product_attention with VMoBA; projections, norms, position and text handling stay the model's. Cross-attention
is not touched. Dense layers and steps run the model's own processor alone, on the attention backend that was set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._error import Error
from .._types import Block, Dense, Policy, Run, Text
from ..functional import attend, select
from ..presets import LayerPolicy, Plan, Schedule, layers_of
from ..selection import Selection

try:
    from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
    from diffusers.models.attention_dispatch import AttentionBackendName
except ImportError as error:
    raise ImportError(f"vmoba: diffusers 0.42 or later is needed ({error}); pip install 'vmoba[diffusers]'") from error

Grid = tuple[int, int, int]
_HOOK = "vmoba"


@dataclass(frozen=True)
class _Family:
    """What differs between models: where self-attention sits, how a call tells the grid, where text lies."""

    blocks: tuple[str, ...]  # lists of transformer blocks in the order of layers
    attention: str  # self-attention's name in a block
    grid: Callable[[Any, dict[str, Any]], Grid]  # (config, arguments of forward): tokens after patchify
    arguments: tuple[str, ...]  # first positional parameters of forward
    text: Literal["front", "rear"] | None  # text tokens in self-attention; None: it has video tokens only


def _wan_grid(config: Any, call: dict[str, Any]) -> Grid:
    t, y, x = call["hidden_states"].shape[2:]
    patch = config.patch_size
    return t // patch[0], y // patch[1], x // patch[2]


def _hunyuan_grid(config: Any, call: dict[str, Any]) -> Grid:
    t, y, x = call["hidden_states"].shape[2:]
    return t // config.patch_size_t, y // config.patch_size, x // config.patch_size


def _cogvideox_grid(config: Any, call: dict[str, Any]) -> Grid:
    t, _, y, x = call["hidden_states"].shape[1:]
    return t // (config.patch_size_t or 1), y // config.patch_size, x // config.patch_size


def _mochi_grid(config: Any, call: dict[str, Any]) -> Grid:
    t, y, x = call["hidden_states"].shape[2:]
    return t, y // config.patch_size, x // config.patch_size


def _ltx_grid(config: Any, call: dict[str, Any]) -> Grid:
    sizes = call.get("num_frames"), call.get("height"), call.get("width")
    if None in sizes:
        raise Error(
            f"vmoba: (num_frames, height, width) = {sizes} does not tell the token grid; pass the three numbers to the "
            "transformer"
        )
    return sizes  # type: ignore[return-value]


_FAMILIES = {
    "WanTransformer3DModel": _Family(("blocks",), "attn1", _wan_grid, ("hidden_states", "timestep"), None),
    "HunyuanVideoTransformer3DModel": _Family(
        ("transformer_blocks", "single_transformer_blocks"), "attn", _hunyuan_grid, ("hidden_states", "timestep"), "rear"
    ),
    "CogVideoXTransformer3DModel": _Family(
        ("transformer_blocks",),
        "attn1",
        _cogvideox_grid,
        ("hidden_states", "encoder_hidden_states", "timestep"),
        "front",
    ),
    "LTXVideoTransformer3DModel": _Family(
        ("transformer_blocks",),
        "attn1",
        _ltx_grid,
        ("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "num_frames", "height", "width"),
        None,
    ),
    "MochiTransformer3DModel": _Family(
        ("transformer_blocks",), "attn1", _mochi_grid, ("hidden_states", "encoder_hidden_states", "timestep"), "rear"
    ),
}


def _fitted(block: Block, grid: Grid) -> Block:
    """The block with extents no larger than the grid, so that a preset serves other grids than its own."""
    if isinstance(block, Run):
        return Run(min(block.tokens, grid[0] * grid[1] * grid[2]))
    return tuple(None if extent is None else min(extent, axis) for extent, axis in zip(block, grid))


class Applied:
    """A transformer whose self-attention is VMoBA's; made by apply. As a context manager it removes itself at the end."""

    def __init__(
        self, transformer: Any, family: _Family, layers: tuple[LayerPolicy, ...], schedule: Schedule, scheduler: Any
    ) -> None:
        self.layers = layers
        self.schedule = schedule
        self._transformer = transformer
        self._family = family
        self._scheduler = scheduler
        self._hook = _Hook(self)
        self._told: tuple[int, int, Any] | None = None  # step, steps, branch as sampling_step got them
        self._grid: Grid | None = None
        self._position: tuple[int, int, Any] | None = None  # of the call in progress; None: training
        self._last: tuple[int, Any] = (-1, 0)  # step and branch of calls that nothing else tells apart
        self._kept: dict[Any, Selection] = {}  # by branch, layer and call, where the schedule reuses selections
        modules = [getattr(block, family.attention) for name in family.blocks for block in getattr(transformer, name)]
        self._processors = [(module, _Processor(self, module.processor, i)) for i, module in enumerate(modules)]
        for module, processor in self._processors:
            module.processor = processor
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(self._hook, _HOOK)

    def remove(self) -> None:
        """Gives every module its own processor back. Harmless when repeated."""
        for module, processor in self._processors:
            if module.processor is processor:
                module.processor = processor.original
        registry = HookRegistry.check_if_exists_or_initialize(self._transformer)
        if registry.get_hook(_HOOK) is self._hook:
            registry.remove_hook(_HOOK, recurse=False)
        self._kept.clear()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def sampling_step(self, step: int, steps: int, branch: Any = 0) -> None:
        """Says where the following calls stand in a sampling run that tells diffusers nothing.

        branch separates calls that keep their own selections, conditional and unconditional ones for example.
        """
        if not 0 <= step < steps:
            raise Error(f"vmoba: step = {step} must lie in 0..steps - 1; steps is {steps}")
        self._told = (step, steps, branch)

    def _begin(self, call: dict[str, Any]) -> None:
        """Before a forward of the transformer: its grid, and where it stands in a sampling run."""
        self._grid = self._family.grid(self._transformer.config, call)
        self._position = None
        s = self.schedule
        needed = s.refresh > 1 or (s.dense_fraction > 0 if s.dense_steps is None else s.dense_steps > 0)
        if needed and not self._transformer.training:
            self._position = self._find_position(call)
            if self._position[0] == 0:
                self._kept = {key: kept for key, kept in self._kept.items() if key[0] != self._position[2]}

    def _find_position(self, call: dict[str, Any]) -> tuple[int, int, Any]:
        if self._told is not None:
            return self._told
        context = self._hook.state.context_or_none()
        branch = None if context is None else context.name
        if context is not None and context.step_index is not None and context.num_inference_steps is not None:
            return int(context.step_index), int(context.num_inference_steps), branch
        if self._scheduler is None:
            raise Error(
                "vmoba: schedule = "
                f"{self.schedule} needs to know the sampling step, which this pipeline does not tell; pass "
                "scheduler=pipe.scheduler to apply, call sampling_step(step, steps) of its result before each step, or "
                "pass schedule=vmoba.Schedule(dense_fraction=0)"
            )
        # Schedulers count their steps; those that do not know the timesteps, which 16 bit round.
        times = self._scheduler.timesteps
        step = getattr(self._scheduler, "step_index", None)
        if step is None:
            now = torch.as_tensor(call["timestep"]).max().to(times.device, torch.float64)
            step = int((times.to(torch.float64) - now).abs().argmin())
        if branch is None:
            branch = self._last[1] + 1 if self._last[0] == step else 0
            self._last = (step, branch)
        return step, len(times), branch

    def _policy(self, layer: int, grid: Grid) -> tuple[Block, Policy] | None:
        """The layer's block and policy in the call in progress; None: dense."""
        block, policy = self.layers[layer % len(self.layers)]
        step, steps, _ = self._position or (0, 1, 0)
        use: Literal["sampling", "training"] = "training" if self._position is None else "sampling"
        if isinstance(policy, Dense) or self.schedule.dense(step, steps, layer, grid[0] * grid[1] * grid[2], use):
            return None
        return _fitted(block, grid), policy

    def _selection(self, layer: int, call: int, q: Tensor, k: Tensor, **problem: Any) -> Selection:
        if self.schedule.refresh == 1 or self._position is None:
            return select(q, k, **problem)
        step, steps, branch = self._position
        kept = self._kept.get((branch, layer, call))
        fits = kept is not None and (kept.batch, kept.grid, kept.block) == (
            q.shape[0],
            problem["grid"],
            problem["block"],
        )
        if kept is None or not fits or self.schedule.refreshes(step, steps):
            kept = select(q, k, **problem)
            self._kept[branch, layer, call] = kept
        return kept


class _State(StateManager):
    """Where diffusers leaves what a pipeline says about a denoising call."""

    def __init__(self) -> None:
        super().__init__(dict)  # type: ignore[arg-type]

    def context_or_none(self) -> Any:
        return self._context


class _Hook(ModelHook):
    """Sees the arguments of every forward of the transformer."""

    _is_stateful = True  # receives the context of `with transformer.cache_context(...)`

    def __init__(self, applied: Applied) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = _State()
        self._applied = applied

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._applied._begin({**dict(zip(self._applied._family.arguments, args)), **kwargs})
        return args, kwargs

    def reset_state(self, module: Any) -> Any:
        self._applied._kept.clear()
        return module


class _Processor:
    """The module's own processor, with VMoBA in the place of its softmax where the layer is sparse."""

    def __init__(self, applied: Applied, original: Any, layer: int) -> None:
        self.original = original
        self.layer = layer
        self._applied = applied
        self._plain = copy.copy(original)  # always calls torch's attention, which is what can be answered
        if hasattr(original, "_attention_backend"):
            self._plain._attention_backend = AttentionBackendName.NATIVE

    # image_rotary_emb is named because diffusers' Attention passes only arguments on that the signature names.
    def __call__(self, module: Any, *args: Any, image_rotary_emb: Any = None, **kwargs: Any) -> Any:
        if image_rotary_emb is not None:
            kwargs["image_rotary_emb"] = image_rotary_emb
        applied = self._applied
        grid = applied._grid
        if grid is None:
            raise Error(
                f"vmoba: grid of layer {self.layer} is not known, because its block was called outside the transformer; "
                "call the transformer"
            )
        chosen = applied._policy(self.layer, grid)
        if chosen is None:
            return self.original(module, *args, **kwargs)
        if getattr(self.original, "_parallel_config", None) is not None:
            raise Error(
                "vmoba: context parallelism of diffusers splits tokens before the selection; turn it off, or use "
                "vmoba.distributed.ulysses in a processor of your own"
            )
        route = _Route(self, grid, *chosen)
        with route:
            result = self._plain(module, *args, **kwargs)
        if route.calls == 0:
            raise Error(
                f"vmoba: processor {type(self.original).__name__} of layer {self.layer} does not call torch's "
                "scaled_dot_product_attention; use the model's default processor"
            )
        return result

    # set_attention_backend and enable_parallelism of diffusers look for these on the processor.
    @property
    def _attention_backend(self) -> Any:
        return self.original._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, value: Any) -> None:
        self.original._attention_backend = value

    @property
    def _parallel_config(self) -> Any:
        return self.original._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, value: Any) -> None:
        self.original._parallel_config = value


class _Route(TorchFunctionMode):
    """Inside it torch's scaled_dot_product_attention is VMoBA, in this thread."""

    def __init__(self, processor: _Processor, grid: Grid, block: Block, policy: Policy) -> None:
        super().__init__()
        self.calls = 0
        self._processor = processor
        self._grid = grid
        self._block = block
        self._policy = policy

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        if func is Tensor.unflatten:  # torch.compile does not trace this one as a function
            return args[0].unflatten(*args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """query [B, H, R, D], key and value [B, G, R, D], out like query."""
        processor, family = self._processor, self._processor._applied._family
        rows, tokens = query.shape[2], self._grid[0] * self._grid[1] * self._grid[2]
        if dropout_p or is_causal or key.shape[2] != rows or rows < tokens or (rows > tokens and family.text is None):
            raise Error(
                f"vmoba: attention of {rows} queries and {key.shape[2]} keys (dropout {dropout_p}, causal {is_causal}) "
                f"is not the self-attention of grid {self._grid}; call the transformer with the latents alone"
            )
        text = None
        if family.text is not None:
            text = Text(rows - tokens, at=family.text)
        if attn_mask is not None:
            text = Text(rows - tokens, at="rear", valid=self._valid_text(attn_mask, query.shape[0], rows, tokens))
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        selection = processor._applied._selection(
            processor.layer, self.calls, q, k, grid=self._grid, block=self._block, policy=self._policy, text=text
        )
        self.calls += 1
        return attend(q, k, v, selection, text=text, scale=scale).transpose(1, 2)

    def _valid_text(self, mask: Tensor, batch: int, rows: int, tokens: int) -> Tensor:
        """Text tokens of each sample that a key mask bool [B, 1, 1, R] lets through; they stand before the padding."""
        if self._processor._applied._family.text == "rear" and mask.dtype == torch.bool:
            if mask.numel() in (rows, batch * rows):
                keys = mask.reshape(-1, rows)
                valid = keys.sum(1) - tokens
                expected = torch.arange(rows, device=mask.device) < (valid + tokens)[:, None]
                if torch.compiler.is_compiling() or (bool((valid >= 0).all()) and torch.equal(keys, expected)):
                    return valid.expand(batch)
        raise Error(
            f"vmoba: attn_mask {list(mask.shape)} of {mask.dtype} is not a mask of padding text behind the valid text; "
            "pad the prompt at its end, or call the transformer without a mask"
        )


def apply(
    transformer: Any,
    policy: Plan,
    *,
    schedule: Schedule | None = None,
    scheduler: Any = None,
) -> Applied:
    """Makes the self-attention of a diffusers video transformer sparse, until remove() of the result.

    Args:
        transformer: WanTransformer3DModel, HunyuanVideoTransformer3DModel, CogVideoXTransformer3DModel,
            LTXVideoTransformer3DModel or MochiTransformer3DModel, in training or sampling.
        policy: a preset's name or a Preset (its 1D, 2D, 3D cycle and its schedule); (block, policy) for every layer; or
            a list of such pairs, layer l using entry l modulo the list's length. Extents larger than the grid's are cut.
        schedule: instead of the preset's. Its dense steps apply in sampling (transformer.eval()); the step comes from the
            pipeline's cache_context (WanPipeline), from scheduler, or from sampling_step of the result.
        scheduler: the pipeline's, for pipelines that do not tell the step.

    Raises:
        Error: another model, a model that VMoBA is applied to already, or a policy that is none.
    """
    family = next((_FAMILIES[base.__name__] for base in type(transformer).__mro__ if base.__name__ in _FAMILIES), None)
    if family is None:
        raise Error(
            f"vmoba: transformer = {type(transformer).__name__} is not one that VMoBA can be applied to; use "
            f"{', '.join(_FAMILIES)}"
        )
    if HookRegistry.check_if_exists_or_initialize(transformer).get_hook(_HOOK) is not None:
        raise Error("vmoba: transformer has VMoBA applied already; call remove() of the earlier result first")
    layers, preset_schedule = layers_of(policy)
    return Applied(transformer, family, layers, schedule or preset_schedule or Schedule(), scheduler)
