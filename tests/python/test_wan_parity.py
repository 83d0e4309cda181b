# SPDX-License-Identifier: Apache-2.0
# The C++ model against diffusers' WanTransformer3DModel: forward, every gradient, and checkpoints in both directions.
"""Oracle: diffusers, random tiny configs, fp32. Tolerance 1e-5 relative to the largest entry of each tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")

TOLERANCE = 1e-5


def _load_library() -> None:
    """Registers torch.classes.vmoba.WanModel: from VMOBA_LIB_DIR, else from the installed package."""
    folder = os.environ.get("VMOBA_LIB_DIR")
    if folder:
        for name in ("libvmoba_torch.so", "libvmoba_dit.so"):
            found = sorted(Path(folder).rglob(name))
            if not found:
                pytest.skip(f"{name} is not under VMOBA_LIB_DIR", allow_module_level=True)
            torch.ops.load_library(str(found[0]))
        return
    vmoba = pytest.importorskip("vmoba", reason="neither VMOBA_LIB_DIR nor the package vmoba is there")
    torch.ops.load_library(str(Path(vmoba.__file__).parent / "lib" / "libvmoba_dit.so"))


_load_library()
WanModel = torch.classes.vmoba.WanModel

BASE = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=4,
    out_channels=4,
    text_dim=20,
    freq_dim=32,
    ffn_dim=40,
    num_layers=2,
    cross_attn_norm=True,
)
CONFIGS = {
    "d24-odd-grid": dict(BASE),
    "d64-three-heads": dict(BASE, num_attention_heads=3, attention_head_dim=64, num_layers=3, cross_attn_norm=False),
    "d128-four-layers": dict(BASE, attention_head_dim=128, num_layers=4, patch_size=(1, 1, 1), ffn_dim=300),
    "patch-3d": dict(BASE, patch_size=(2, 1, 3), out_channels=6, eps=1e-5),
}
# Latent sizes by config: odd token counts on every axis.
SIZES = {
    "d24-odd-grid": (5, 6, 14),
    "d64-three-heads": (3, 10, 6),
    "d128-four-layers": (3, 5, 7),
    "patch-3d": (6, 5, 9),
}
IMAGE_CONFIGS = {
    "image": dict(BASE, image_dim=28, added_kv_proj_dim=48),
    "first-last-frame": dict(BASE, image_dim=28, added_kv_proj_dim=48, pos_embed_seq_len=10),
}


def oracle(config: dict, seed: int = 0):
    """A diffusers model whose every tensor is random, norms and tables included."""
    torch.manual_seed(seed)
    model = diffusers.WanTransformer3DModel(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if "norm" in name or name.endswith("bias") else 1.2 / max(1, parameter[0].numel()) ** 0.5
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
    return model.eval()


def inputs(config: dict, size: tuple[int, int, int], batch: int = 2, text: int = 7, seed: int = 1):
    torch.manual_seed(seed)
    latents = torch.randn(batch, config["in_channels"], *size)
    timestep = torch.tensor([999.0, 37.5, 500.25][:batch])
    return latents, timestep, torch.randn(batch, text, config["text_dim"])


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)).item()


def named(model) -> dict[str, torch.Tensor]:
    return dict(zip(model.names(), model.parameters(), strict=True))


def gradients(run, tensors: dict[str, torch.Tensor], weight: torch.Tensor):
    out = run()
    grads = torch.autograd.grad((out * weight).sum(), list(tensors.values()))
    return out.detach(), dict(zip(tensors, grads, strict=True))


# A bias gradient is the sum over tokens of the terms whose products with the inputs make its weight's gradient, and the sum
# nearly cancels for keys (softmax does not see a shift of all logits). Its rounding therefore has the scale of the larger of
# the two, on which both are judged. No other allowance is made.
def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[float, str]:
    def scale(name: str) -> float:
        names = [name, name.removesuffix("bias") + "weight"] if name.endswith(".bias") else [name]
        return max(theirs[n].abs().max().item() for n in names)

    errors = {name: (ours[name] - grad).abs().max().item() / scale(name) for name, grad in theirs.items()}
    for name, grad in ours.items():
        assert torch.isfinite(grad).all(), name
    where = max(errors, key=errors.__getitem__)
    return errors[where], where


def both(tmp_path, config, size, image=None, checkpointing=False, policy=None):
    """Errors of forward and gradients of the C++ model, loaded from what diffusers saved."""
    theirs = oracle(config)
    theirs.save_pretrained(tmp_path)
    ours = WanModel.load(str(tmp_path))
    if policy is not None:
        ours.set_policy(json.dumps(policy))
    ours.set_activation_checkpointing(checkpointing)
    latents, timestep, text = inputs(config, size, text=7 if image is None else 512)
    latents.requires_grad_()
    text.requires_grad_()
    extra = {"latents": latents, "text": text}
    if image is not None:
        extra["image"] = image.requires_grad_()

    def run_theirs():
        return theirs(latents, timestep, text, encoder_hidden_states_image=image, return_dict=False)[0]

    parameters = dict(theirs.named_parameters())
    ours_named = named(ours)
    assert list(ours_named) == list(parameters)
    weight = torch.randn_like(run_theirs().detach())
    expected, expected_grads = gradients(run_theirs, parameters | extra, weight)
    got, got_grads = gradients(lambda: ours.forward(latents, timestep, text, image), ours_named | extra, weight)
    forward_error = relative(got, expected)
    gradient_error, where = compare(got_grads, expected_grads)
    print(f"forward {forward_error:.1e}, gradients {gradient_error:.1e} ({where})")
    return forward_error, gradient_error, where


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_dense(tmp_path, name, checkpointing):
    forward_error, gradient_error, where = both(tmp_path, CONFIGS[name], SIZES[name], checkpointing=checkpointing)
    assert forward_error < TOLERANCE
    assert gradient_error < TOLERANCE, where


@pytest.mark.parametrize("name", IMAGE_CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_image_to_video(tmp_path, name, checkpointing):
    config = IMAGE_CONFIGS[name]
    torch.manual_seed(5)
    image = torch.randn(4, 5, 28) if "pos_embed_seq_len" in config else torch.randn(2, 9, 28)
    forward_error, gradient_error, where = both(tmp_path, config, (3, 6, 4), image=image, checkpointing=checkpointing)
    assert forward_error < TOLERANCE
    assert gradient_error < TOLERANCE, where


def everything(policy: dict) -> dict:
    """A plan whose three block shapes and policy keep every pair."""
    blocks = [[2, None, None], [None, 2, 2], [2, 2, 3], {"run": 8}]
    return {"cycle": [{"block": block, "policy": policy} for block in blocks], "first": 1}


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "topk", "amount": 10**6},
        {"name": "threshold", "amount": 2.0},
        {"name": "threshold", "amount": 2.0, "scope": "query"},
        {"name": "dense"},
    ],
    ids=["topk", "threshold-head", "threshold-query", "dense"],
)
@pytest.mark.parametrize("name", ["d24-odd-grid", "d64-three-heads"])
def test_selecting_everything_is_dense(tmp_path, name, policy):
    forward_error, gradient_error, where = both(tmp_path, CONFIGS[name], SIZES[name], policy=everything(policy))
    assert forward_error < TOLERANCE
    assert gradient_error < TOLERANCE, where


def test_engine_dense_path(tmp_path):
    plan = {"dense": True, "dense_path": "engine"}
    forward_error, gradient_error, where = both(tmp_path, CONFIGS["d64-three-heads"], SIZES["d64-three-heads"], policy=plan)
    assert forward_error < TOLERANCE
    assert gradient_error < TOLERANCE, where


def sparse_plan() -> dict:
    policy = {"name": "threshold", "amount": 0.25}
    return {"cycle": [{"block": block, "policy": policy} for block in ([1, None, None], [None, 2, 2], [2, 2, 2])]}


def test_sparse_differs_and_recomputation_has_the_same_bits():
    config = CONFIGS["d64-three-heads"]
    model = WanModel.create(json.dumps(config), 3)
    with torch.no_grad():
        named(model)["proj_out.weight"].normal_(generator=torch.Generator().manual_seed(4))
    latents, timestep, text = inputs(config, (4, 10, 8))
    dense = model.forward(latents, timestep, text, None).detach()
    model.set_policy(json.dumps(sparse_plan()))
    model.record_density(True)
    weight = torch.randn_like(dense)
    results = []
    for recompute in (False, True):
        model.set_activation_checkpointing(recompute)
        results.append(gradients(lambda: model.forward(latents, timestep, text, None), named(model), weight))
        assert all(0 < density < 0.9 for density in model.last_density())
    assert relative(results[0][0], dense) > 1e-4
    assert torch.equal(results[0][0], results[1][0])
    for name, grad in results[0][1].items():
        assert torch.equal(grad, results[1][1][name]), name


def test_double_gradients_of_a_sparse_model_against_finite_differences():
    config = dict(BASE, num_layers=1, attention_head_dim=6)
    model = WanModel.create(json.dumps(config), 3)
    model.to(torch.float64)
    plan = {"cycle": [{"block": [1, 2, 2], "policy": {"name": "topk", "amount": 2}}]}
    model.set_policy(json.dumps(plan))
    latents, timestep, text = (x.double() for x in inputs(config, (2, 4, 8), batch=1))
    parameters = named(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        parameters["proj_out.weight"].normal_(generator=generator)
    for name in ("blocks.0.attn1.to_q.bias", "blocks.0.attn1.to_v.weight", "blocks.0.scale_shift_table", "blocks.0.attn1.norm_k.weight"):
        parameter = parameters[name]
        weight = torch.randn(1, 4, 2, 4, 8, dtype=torch.float64, generator=generator)

        def loss():
            return (model.forward(latents, timestep, text, None) * weight).sum()

        (grad,) = torch.autograd.grad(loss(), [parameter])
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        step = 1e-6
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = loss()
            parameter.sub_(direction, alpha=2 * step)
            below = loss()
            parameter.add_(direction, alpha=step)
        assert (above - below).item() / (2 * step) == pytest.approx((grad * direction).sum().item(), rel=1e-5, abs=1e-8)


def opened_by_diffusers(folder: Path):
    pytest.importorskip("accelerate", reason="from_pretrained of diffusers needs accelerate for Wan models")
    model, report = diffusers.WanTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize("shard_bytes", [10**10, 20_000], ids=["single", "sharded"])
def test_ours_opens_in_diffusers(tmp_path, shard_bytes):
    config = CONFIGS["d24-odd-grid"]
    ours = WanModel.create(json.dumps(config | {"patch_size": list(config["patch_size"])}), 7)
    with torch.no_grad():
        named(ours)["proj_out.weight"].normal_()
    ours.save(str(tmp_path), shard_bytes)
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").exists() == (shard_bytes < 10**10)
    theirs = opened_by_diffusers(tmp_path)
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, named(ours)[name]), name
    sample = inputs(config, (3, 4, 6))
    with torch.no_grad():
        assert relative(ours.forward(*sample, None), theirs(*sample, return_dict=False)[0]) < TOLERANCE


def test_sharded_and_bfloat16_checkpoints_of_diffusers(tmp_path):
    config = CONFIGS["d24-odd-grid"]
    theirs = oracle(config)
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    ours = WanModel.load(str(tmp_path / "sharded"))
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, named(ours)[name]), name
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    ours = WanModel.load(str(tmp_path / "bf16"))
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter.float(), named(ours)[name]), name


def test_saving_replaces_an_earlier_sharded_save(tmp_path):
    config = json.dumps(BASE)
    WanModel.create(config, 1).save(str(tmp_path), 20_000)
    second = WanModel.create(config, 2)
    second.save(str(tmp_path), 10**10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = WanModel.load(str(tmp_path))
    for name, parameter in named(second).items():
        assert torch.equal(parameter, named(loaded)[name]), name


def test_parameters_alias_so_optimizers_train_the_model():
    model = WanModel.create(json.dumps(BASE), 0)
    latents, timestep, text = inputs(BASE, (3, 4, 6))
    target = torch.randn_like(latents)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (model.forward(latents, timestep, text, None) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_bfloat16_autocast_keeps_the_residual_exact(checkpointing):
    config = CONFIGS["d64-three-heads"]
    model = WanModel.create(json.dumps(config), 3)
    with torch.no_grad():
        named(model)["proj_out.weight"].normal_(std=0.1, generator=torch.Generator().manual_seed(4))
    model.set_policy(json.dumps(sparse_plan()))
    model.set_activation_checkpointing(checkpointing)
    sample = inputs(config, (3, 10, 8))
    weight = torch.randn_like(sample[0])
    exact, exact_grads = gradients(lambda: model.forward(*sample, None), named(model), weight)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_grads = gradients(lambda: model.forward(*sample, None).float(), named(model), weight)
    assert relative(mixed, exact) < 0.05
    for name, grad in mixed_grads.items():
        assert grad.dtype == torch.float32 and torch.isfinite(grad).all(), name
        similarity = torch.cosine_similarity(grad.flatten(), exact_grads[name].flatten(), 0).item()
        assert similarity > 0.8 or exact_grads[name].abs().max() < 1e-3 * weight.norm(), (name, similarity)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("{", "JSON"),
        ('"no-such-preset"', "preset"),
        ('{"cycle": []}', "cycle"),
        ('{"cycle": [{"block": [0, 1, 1]}]}', "block"),
        ('{"cycle": [{"block": [1, 1]}]}', "block"),
        ('{"cycle": [{"policy": {"name": "threshold", "amount": -1}}]}', "tau"),
        ('{"cycle": [{"policy": {"name": "topk", "amount": 1.5}}]}', "amount"),
        ('{"cycle": [{"policy": {"name": "threshold", "scope": "heads"}}]}', "scope"),
        ('{"cycle": [{"extra": 1}]}', "extra"),
        ('{"cycle": [{}], "schedule": {"refresh": 0}}', "refresh"),
    ],
)
def test_a_wrong_policy_is_refused_and_changes_nothing(policy, said):
    model = WanModel.create(json.dumps(BASE), 0)
    before = model.policy()
    with pytest.raises((RuntimeError, ValueError), match=said):
        model.set_policy(policy)
    assert model.policy() == before
    assert json.loads(before)["dense"] is True
