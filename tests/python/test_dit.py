# SPDX-License-Identifier: Apache-2.0
"""The Python face of the C++ video transformer; its numbers are compared with diffusers elsewhere."""

from __future__ import annotations

import json

import pytest
import torch

import vmoba

CONFIG = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=64,
    num_layers=3,
)  # fmt: skip


@pytest.fixture
def model():
    model = vmoba.dit.create(CONFIG, seed=3)
    with torch.no_grad():
        model.proj_out.weight.normal_(generator=torch.Generator().manual_seed(0))  # zero in a new model
    return model


def inputs():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(1, 4, 4, 8, 8, generator=generator),
        torch.tensor([500.0]),
        torch.randn(1, 7, 16, generator=generator),
    )


def test_parameters_are_the_models_own(model):
    names = dict(model.named_parameters())
    assert "blocks.2.attn1.to_q.weight" in names and "condition_embedder.time_embedder.linear_1.bias" in names
    assert set(model.state_dict()) == set(names)
    assert all(isinstance(p, torch.nn.Parameter) for p in names.values())
    before = model(*inputs())
    before.square().mean().backward()
    assert all(p.grad is not None for p in names.values())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model(*inputs()), before)


def test_policies(model):
    with torch.enable_grad():  # dense is torch's then, and its bits stay; else torch's or the engine's, as measured
        dense = model(*inputs())
        model.record_density()
        for plan in ["paper-93x576x1024", vmoba.preset("paper-93x576x1024")]:
            model.set_policy(plan)
            assert len(model.plan["cycle"]) == 3 and not model.plan["dense"]
        model.set_policy(((2, 2, 2), vmoba.TopK(2)))
        sparse = model(*inputs())
        assert not torch.equal(sparse, dense) and all(density == 0.25 for density in model.last_density())
        model.set_policy([((2, 2, 2), vmoba.TopK(2)), (vmoba.Run(16), vmoba.Threshold(2.0))])
        model(*inputs())
        assert model.last_density() == [0.25, 1.0, 0.25]
        model.set_policy(((2, 2, 2), vmoba.TopK(2)), schedule=vmoba.Schedule(dense_steps=1))
        model.sampling_step(0, 2)
        assert torch.equal(model(*inputs()), dense)
        assert model.last_density() == [1.0, 1.0, 1.0]
        model.sampling_step(1, 2)
        assert torch.equal(model(*inputs()), sparse)
        model.set_policy(None)
        assert torch.equal(model(*inputs()), dense)


AUTO = [((1, 4, 4), vmoba.Threshold(0.25)), ((None, 2, 2), vmoba.TopK(1)), (vmoba.Run(512), vmoba.TopK(1, scope="head"))]


def fitted(block, grid):
    if isinstance(block, vmoba.Run):
        return vmoba.Run(min(block.tokens, grid[0] * grid[1] * grid[2]))
    return tuple(extent and min(extent, axis) for extent, axis in zip(block, grid))


def test_automatic_min_tokens_do_what_explain_predicts(model, tmp_path):
    model.save(tmp_path)
    loaded = vmoba.dit.load(tmp_path)
    loaded.set_policy(AUTO, schedule=vmoba.Schedule(dense_steps=0, min_tokens="auto"))
    loaded.record_density()
    outcomes = set()
    for size in [(1, 4, 4), (4, 16, 16), (8, 32, 32)]:
        grid = (size[0], size[1] // 2, size[2] // 2)
        latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(5))
        for use in ("training", "forward"):
            loaded.train() if use == "training" else loaded.sampling_step(0, 1)
            with torch.no_grad():
                loaded(latents, *inputs()[1:])
            sparse = [density < 1 for density in loaded.last_density()]
            told = [vmoba.explain(grid=grid, block=fitted(b, grid), policy=p, heads=2, dim=24) for b, p in AUTO]
            assert sparse == [getattr(one, use)["quicker"] == "sparse" for one in told], (size, use)
            outcomes |= set(sparse)
    assert outcomes == {True, False}


def test_automatic_min_tokens_survive_json(model):
    for min_tokens in ("auto", 0, 12345):
        model.set_policy(AUTO, schedule=vmoba.Schedule(min_tokens=min_tokens, dense_layers={2}))
        plan = model.plan
        assert plan["schedule"]["min_tokens"] == min_tokens and plan["schedule"]["dense_layers"] == [2]
        model.set_policy(None)
        model._native.set_policy(json.dumps(plan))
        assert model.plan == plan


def test_save_and_load(model, tmp_path):
    model.save(tmp_path)
    loaded = vmoba.dit.load(tmp_path)
    assert loaded.config["num_layers"] == 3
    assert torch.equal(loaded(*inputs()), model(*inputs()))


def test_refusals(model, tmp_path):
    for plan, words in [("no-such", "no-such"), (((2, 2), vmoba.TopK(2)), "block"), ([3], "is not a pair")]:
        with pytest.raises(vmoba.Error, match=words):
            model.set_policy(plan)
    with pytest.raises(vmoba.Error, match="none"):
        vmoba.dit.load(tmp_path / "none")
    with pytest.raises(vmoba.Error, match="vmoba: "):
        model(torch.zeros(1, 4, 4, 7, 8), *inputs()[1:])
