# SPDX-License-Identifier: Apache-2.0
"""VMoBA in diffusers' video transformers: dense is theirs, sparse is a masked softmax in their own attention, and back."""

from __future__ import annotations

import types

import pytest
import torch
from torch.overrides import TorchFunctionMode

import vmoba
from oracle import dense_mask

diffusers = pytest.importorskip("diffusers", reason="diffusers is what these tests plug into")
functional = torch.nn.functional
TOKENS = (4, 3, 4)  # of every model below

WAN = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=20, freq_dim=32, ffn_dim=40,
    num_layers=4,
)  # fmt: skip


def wan():
    model = diffusers.WanTransformer3DModel(**WAN)
    call = dict(
        hidden_states=torch.randn(2, 4, 4, 6, 8), timestep=torch.tensor([900.0, 30.0]),
        encoder_hidden_states=torch.randn(2, 7, 20),
    )  # fmt: skip
    return model, call, None, 4


def hunyuan():
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=12, pooled_projection_dim=10,
        rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    call = dict(
        hidden_states=torch.randn(2, 4, 4, 6, 8), timestep=torch.tensor([900, 30]),
        encoder_hidden_states=torch.randn(2, 6, 12), pooled_projections=torch.randn(2, 10),
        encoder_attention_mask=torch.tensor([[1] * 6, [1] * 2 + [0] * 4]), guidance=torch.tensor([1000.0, 1000.0]),
    )  # fmt: skip
    return model, call, "rear", 4


def cogvideox(temporal_patch=None):
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=12,
        num_layers=3, sample_width=8, sample_height=6, sample_frames=13, patch_size=2, patch_size_t=temporal_patch,
        max_text_seq_length=5, use_rotary_positional_embeddings=temporal_patch is not None,
        patch_bias=temporal_patch is None,
    )  # fmt: skip
    frames = 4 * (temporal_patch or 1)
    call = dict(
        hidden_states=torch.randn(2, frames, 4, 6, 8), timestep=torch.tensor([900, 30]),
        encoder_hidden_states=torch.randn(2, 5, 12),
    )  # fmt: skip
    return model, call, "front", 3


def ltx():
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32, num_layers=3,
        caption_channels=12,
    )  # fmt: skip
    call = dict(
        hidden_states=torch.randn(2, 48, 4), timestep=torch.tensor([900, 30]),
        encoder_hidden_states=torch.randn(2, 5, 12), encoder_attention_mask=torch.ones(2, 5),
        num_frames=4, height=3, width=4,
    )  # fmt: skip
    return model, call, None, 3


def mochi():
    model = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=16, num_layers=3, pooled_projection_dim=12, in_channels=4,
        text_embed_dim=16, time_embed_dim=8, max_sequence_length=6,
    )  # fmt: skip
    call = dict(
        hidden_states=torch.randn(2, 4, 4, 6, 8), timestep=torch.tensor([900, 30]),
        encoder_hidden_states=torch.randn(2, 6, 16), encoder_attention_mask=torch.tensor([[1] * 6, [1] * 2 + [0] * 4]).bool(),
    )  # fmt: skip
    return model, call, "rear", 3


MODELS = {
    "wan": wan, "hunyuan": hunyuan, "cogvideox": cogvideox, "cogvideox-1.5": lambda: cogvideox(2), "ltx": ltx,
    "mochi": mochi,
}  # fmt: skip
# Three cuts, each ragged on some axis, and a preset's way of cutting extents to the grid.
SPARSE = [
    ((3, None, None), vmoba.Threshold(0.3)),
    ((None, 2, 3), vmoba.TopK(2)),
    ((2, 2, 50), vmoba.Threshold(0.3, scope="query")),
]
EVERYTHING = [(block, vmoba.Threshold(2.0)) for block, _ in SPARSE]
ALWAYS = vmoba.Schedule(dense_fraction=0)


@pytest.fixture(params=MODELS)
def made(request):
    torch.manual_seed(0)
    model, call, text, layers = MODELS[request.param]()
    for name, parameter in model.named_parameters():
        spread = 0.3 if "norm" in name or name.endswith("bias") else 1.2 / max(1, parameter[0].numel()) ** 0.5
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
    return model.eval(), call, text, layers


def run(model, call):
    return model(**call, return_dict=False)[0]


def with_gradients(model, call):
    weight = torch.randn(run(model, call).shape, generator=torch.Generator().manual_seed(3))
    parameters = dict(model.named_parameters())
    out = run(model, call)
    gradients = torch.autograd.grad((out * weight).sum(), parameters.values(), allow_unused=True)
    return {"out": out.detach(), **{n: g for n, g in zip(parameters, gradients) if g is not None}}


def worst(ours, theirs):
    """Largest error relative to the largest entry; a bias, whose gradient may cancel, on the scale of its weight too."""
    assert ours.keys() == theirs.keys()
    errors = {}
    for name, x in theirs.items():
        weight = theirs.get(name.removesuffix("bias") + "weight", x) if name.endswith(".bias") else x
        errors[name] = ((ours[name] - x).abs().max() / max(x.abs().max(), weight.abs().max())).item()
    return max(errors.values())


class Masked(TorchFunctionMode):
    """The oracle: torch's own attention in the model's own processor, with the mask of what VMoBA selects."""

    def __init__(self, plan, text, layers):
        super().__init__()
        self.plan, self.text, self.layers, self.density, self.samples = plan, text, layers, [], 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args if args else (kwargs.pop(name) for name in ("query", "key", "value"))
        theirs = kwargs.pop("attn_mask", None)
        if q.shape[2] < 48 or k.shape[2] != q.shape[2]:  # token refiner, cross-attention
            return func(q, k, v, attn_mask=theirs, **kwargs)
        block, policy = self.plan[self.samples // 2 % self.layers % len(self.plan)]
        self.samples += q.shape[0]  # 2, or 1 where a model calls attention for each sample
        block = tuple(None if extent is None else min(extent, axis) for extent, axis in zip(block, TOKENS))
        count = q.shape[2] - 48
        text = None if self.text is None else vmoba.Text(count, at=self.text)
        rows = [x.transpose(1, 2).detach() for x in (q, k)]
        selection = vmoba.select(*rows, grid=TOKENS, block=block, policy=policy, text=text)
        self.density.append(selection.density().mean().item())
        mask = dense_mask(selection, count, self.text or "rear")
        return func(q, k, v, attn_mask=mask if theirs is None else mask & theirs, **kwargs)


def test_selecting_everything_and_dense_are_the_models_own(made):
    model, call, _, _ = made
    expected = with_gradients(model, call)
    for plan in (EVERYTHING, (SPARSE[0][0], vmoba.Dense())):
        with vmoba.integrations.diffusers.apply(model, plan, schedule=ALWAYS):
            assert worst(with_gradients(model, call), expected) < 1e-5
    assert torch.equal(run(model, call), expected["out"])


def test_sparse_is_masked_softmax(made):
    model, call, text, layers = made
    dense = run(model, call).detach()
    with Masked(SPARSE, text, layers) as oracle:
        expected = with_gradients(model, call)
    assert oracle.samples == 4 * layers and all(0 < density < 0.95 for density in oracle.density)
    with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=ALWAYS):
        ours = with_gradients(model, call)
    assert (expected["out"] - dense).abs().max() > 1e-3 * dense.abs().max()
    assert worst(ours, expected) < 1e-5


def test_removing_gives_the_processors_back(made):
    model, call, _, layers = made
    before = {name: module.processor for name, module in model.named_modules() if hasattr(module, "processor")}
    out = run(model, call)
    applied = vmoba.integrations.diffusers.apply(model, SPARSE, schedule=ALWAYS)
    changed = [name for name, module in model.named_modules() if getattr(module, "processor", None) not in (None, before.get(name))]
    assert len(changed) == layers and not torch.equal(run(model, call), out)
    with pytest.raises(vmoba.Error, match="applied already; call remove"):
        vmoba.integrations.diffusers.apply(model, SPARSE)
    applied.remove()
    applied.remove()
    assert {name: module.processor for name, module in model.named_modules() if hasattr(module, "processor")} == before
    assert torch.equal(run(model, call), out)


def test_wan_agrees_with_the_cpp_model(tmp_path):
    torch.manual_seed(0)
    model, call, _, _ = wan()
    torch.nn.init.normal_(model.proj_out.weight)
    model.eval().save_pretrained(tmp_path)
    ours = vmoba.dit.load(tmp_path)
    ours.set_policy("paper-81x480x832", schedule=ALWAYS)
    expected = ours(call["hidden_states"], call["timestep"], call["encoder_hidden_states"])
    with vmoba.integrations.diffusers.apply(model, "paper-81x480x832", schedule=ALWAYS):
        assert (run(model, call) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture
def small():
    torch.manual_seed(0)
    model, call, _, _ = wan()
    torch.nn.init.normal_(model.proj_out.weight)
    with torch.no_grad():
        yield model.eval(), call


def always_sparse(model, call):
    with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=ALWAYS):
        return run(model, call)


def test_dense_steps_come_from_the_pipelines_context(small):
    model, call = small
    dense, sparse = run(model, call), always_sparse(model, call)
    assert not torch.equal(dense, sparse)
    with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=vmoba.Schedule(dense_fraction=0.5)):
        for step, expected in enumerate([dense, dense, sparse, sparse]):
            for name in ("cond", "uncond"):
                with model.cache_context(name, step_index=step, num_inference_steps=4):
                    assert torch.equal(run(model, call), expected)
        with pytest.raises(vmoba.Error, match="needs to know the sampling step.*scheduler=pipe.scheduler"):
            run(model, call)
        model.train()  # no step is dense in training
        assert torch.equal(run(model, call), sparse)


@pytest.mark.parametrize("counts", [True, False])
def test_dense_steps_come_from_a_scheduler(small, counts):
    model, call = small
    scheduler = types.SimpleNamespace(timesteps=torch.tensor([999.0, 800.0, 500.0, 200.0]), step_index=None)
    for step, time in enumerate(scheduler.timesteps):
        # Rounded, as 16 bit do it; a scheduler that counts is believed without looking at the timestep.
        call["timestep"] = torch.full((2,), 999.0 if counts and step > 0 else time.item() + 1)
        expected = run(model, call) if step < 2 else always_sparse(model, call)
        with vmoba.integrations.diffusers.apply(
            model, SPARSE, schedule=vmoba.Schedule(dense_steps=2), scheduler=scheduler
        ):
            assert torch.equal(run(model, call), expected)
        if counts:
            scheduler.step_index = step + 1


def test_dense_layers_and_short_sequences(small):
    model, call = small
    dense, sparse = run(model, call), always_sparse(model, call)
    for schedule, expected in [
        (vmoba.Schedule(dense_fraction=0, dense_layers=frozenset(range(4))), dense),
        (vmoba.Schedule(dense_fraction=0, min_tokens=49), dense),
        (vmoba.Schedule(dense_fraction=0, min_tokens=48), sparse),
    ]:
        with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=schedule):
            assert torch.equal(run(model, call), expected)


@pytest.mark.parametrize("branches", ["named", "counted"])
def test_selections_are_kept_by_branch(small, branches):
    """Two sparse steps share a selection, which conditional and unconditional calls do not mix up."""
    model, call = small
    calls, later = ([{**call, "hidden_states": torch.randn(2, 4, 4, 6, 8)} for _ in range(2)] for _ in range(2))
    scheduler = types.SimpleNamespace(timesteps=torch.tensor([900.0, 30.0]), step_index=None)

    def sampled(which, refresh):
        """The outputs of the second of two steps of these branches."""
        schedule = vmoba.Schedule(dense_steps=0, refresh=refresh)
        with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=schedule, scheduler=scheduler) as applied:
            for step, branch_calls in enumerate((calls, later)):
                scheduler.step_index = step
                outs = []
                for branch in which:
                    if branches == "named":
                        applied.sampling_step(step, 2, branch)
                    outs.append(run(model, branch_calls[branch]))
        return outs

    for branch in (0, 1):
        (alone,) = sampled([branch], 2)
        assert torch.equal(sampled([0, 1], 2)[branch], alone)
        anew = always_sparse(model, later[branch])
        assert torch.equal(sampled([0, 1], 1)[branch], anew) and not torch.equal(alone, anew)


def test_attention_backends_do_not_keep_layers_from_being_sparse(small):
    model, call = small
    with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=ALWAYS):
        expected = run(model, call)
        model.set_attention_backend("_native_math")  # cross-attention uses it, and dense layers would
        assert (run(model, call) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert model.blocks[0].attn1.processor._attention_backend.value == "_native_math"
    model.set_attention_backend("native")


def test_training_with_recomputation(small):
    model, call = small
    with torch.enable_grad(), vmoba.integrations.diffusers.apply(model.train(), SPARSE):
        kept = with_gradients(model, call)
        model.enable_gradient_checkpointing()
        recomputed = with_gradients(model, call)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_compiles(small):
    model, call = small
    expected = always_sparse(model, call)
    torch._dynamo.reset()
    with vmoba.integrations.diffusers.apply(model, SPARSE, schedule=ALWAYS):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert (run(compiled, call) - expected).abs().max() < 1e-5 * expected.abs().max()


class Other:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        return hidden_states


def test_refusals(small):
    model, call = small
    apply = vmoba.integrations.diffusers.apply
    for arguments, words in [
        ((torch.nn.Linear(2, 2), "paper-81x480x832"), "transformer = Linear is not one.*use WanTransformer3DModel"),
        ((model, "paper"), "preset = 'paper' is not a preset"),
        ((model, []), "is not a plan"),
        ((model, [3]), "policy = 3 is not a pair"),
        ((model, ((1, 2), vmoba.TopK(2))), "block"),
        ((model, [((1, 2, 2), "topk")]), "is not a policy"),
    ]:
        with pytest.raises(vmoba.Error, match=words):
            apply(*arguments)
    with apply(model, SPARSE) as applied, pytest.raises(vmoba.Error, match="step = 3 must lie in 0..steps - 1"):
        applied.sampling_step(3, 3)
    with apply(model, SPARSE, schedule=ALWAYS), pytest.raises(vmoba.Error, match="block was called outside"):
        model.blocks[0].attn1(torch.randn(2, 48, 48))
    model.blocks[1].attn1.processor = Other()
    with apply(model, SPARSE, schedule=ALWAYS), pytest.raises(vmoba.Error, match="Other of layer 1 does not call torch's"):
        run(model, call)
    model, call, _, _ = ltx()
    with apply(model, SPARSE, schedule=ALWAYS), pytest.raises(vmoba.Error, match="not the self-attention of grid"):
        run(model, {**call, "height": 2, "num_frames": 4, "video_coords": torch.rand(2, 3, 48)})
    with apply(model, SPARSE, schedule=ALWAYS), pytest.raises(vmoba.Error, match="pass the three numbers"):
        run(model, {**call, "height": None, "video_coords": torch.rand(2, 3, 48)})
