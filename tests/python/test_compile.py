# SPDX-License-Identifier: Apache-2.0
"""torch.compile: whole graphs, one compilation over text lengths, gradients equal to eager."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import vmoba
from oracle import random_qkv

GRID, BLOCK = (3, 4, 5), (2, 3, None)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        yield


def run(function, tensors, *more):
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    out = function(*tensors, *more)
    out.square().sum().backward()
    return [out.detach(), *(x.grad for x in tensors)]


@pytest.mark.parametrize("policy", [vmoba.Threshold(0.3), vmoba.TopK(2), vmoba.Dense()], ids=str)
def test_fullgraph(policy):
    def function(q, k, v):
        return vmoba.attention(q * 2, k, v, grid=GRID, block=BLOCK, policy=policy) + 1

    tensors = random_qkv(2, 60, 4, 2, 16)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for mine, eager in zip(run(compiled, tensors), run(function, tensors)):
        assert torch.equal(mine, eager)


def test_policy_made_inside_and_two_steps():
    def function(q, k, v):
        selection = vmoba.select(q, k, grid=GRID, block=vmoba.Run(9), policy=vmoba.TopK(2, scope="head"))
        out, lse = vmoba.attend(q, k, v, selection, return_lse=True)
        return out + lse[..., None]

    tensors = random_qkv(2, 60, 2, 2, 8)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for mine, eager in zip(run(compiled, tensors), run(function, tensors)):
        assert torch.equal(mine, eager)


@pytest.mark.parametrize("dynamic", ["mark", "argument"])
def test_one_compilation_over_text_lengths(dynamic):
    counter = CompileCounterWithBackend("aot_eager")

    def function(q, k, v, valid):
        return vmoba.attention(q, k, v, grid=GRID, block=BLOCK, text=vmoba.Text(at="front", valid=valid))

    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True if dynamic == "argument" else None)
    first = 0
    for length in (11, 7, 23, 40):
        tensors = random_qkv(2, 60 + length, 2, 2, 8, seed=length)
        valid = torch.tensor([length, length // 2])
        expected = run(function, tensors, valid)
        tensors = [x.clone().requires_grad_() for x in tensors]
        if dynamic == "mark":
            for x in tensors:
                torch._dynamo.mark_dynamic(x, 1)
        out = compiled(*tensors, valid)
        out.square().sum().backward()
        for mine, eager in zip([out.detach(), *(x.grad for x in tensors)], expected):
            assert torch.equal(mine, eager)
        first = first or counter.frame_count  # what the first length took
        assert counter.frame_count == first


def test_valid_lengths_do_not_recompile():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda q, k, v, valid: vmoba.attention(q, k, v, grid=GRID, block=BLOCK, text=vmoba.Text(8, valid=valid)),
        fullgraph=True,
        backend=counter,
    )
    q, k, v = random_qkv(2, 68, 2, 2, 8)
    outs = [compiled(q, k, v, torch.tensor(valid)) for valid in ([8, 8], [0, 3], [5, 1])]
    assert counter.frame_count == 1
    assert not torch.equal(outs[0], outs[1])


def test_module_compiles():
    module = vmoba.nn.Attention(32, 4, block=BLOCK, kv_heads=2, qk_norm=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 60, 32)
    assert torch.equal(compiled(x, GRID), module(x, GRID))


def test_inductor():
    """The default backend, C++ code around the operators: two text lengths, one compilation, gradients."""
    counter = CompileCounterWithBackend("inductor")

    def function(q, k, v):
        out, lse = vmoba.attention(q * 2, k, v, grid=GRID, block=BLOCK, text=vmoba.Text(at="front"), return_lse=True)
        return torch.nn.functional.gelu(out) + lse[..., None]

    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    first = 0
    for length in (11, 40):
        tensors = random_qkv(2, 60 + length, 4, 2, 16, seed=length)
        for mine, eager in zip(run(compiled, tensors), run(function, tensors)):
            assert (mine - eager).abs().max() <= 1e-5 * eager.abs().max()
        first = first or counter.frame_count
        assert counter.frame_count == first
