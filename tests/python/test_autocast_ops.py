# SPDX-License-Identifier: Apache-2.0
"""Autocast: q, k and v are cast as torch's scaled_dot_product_attention casts them."""

from __future__ import annotations

import pytest
import torch

import vmoba
from oracle import random_qkv

PROBLEM = dict(grid=(3, 4, 5), block=(2, 3, None))


def mixed(dtypes):
    return [x.to(dtype).requires_grad_() for x, dtype in zip(random_qkv(2, 60, 4, 2, 16), dtypes)]


def sdpa(q, k, v, **_):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


def two_steps(q, k, v, **problem):
    return vmoba.attend(q, k, v, vmoba.select(q, k, **problem))


@pytest.mark.parametrize("function", [vmoba.attention, two_steps, sdpa])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_casts_what_sdpa_casts(function, low):
    for dtypes in [[torch.float32] * 3, [torch.float32, low, torch.float32], [torch.float16, torch.bfloat16, torch.float32]]:
        tensors, plain = mixed(dtypes), mixed(dtypes)
        with torch.autocast("cpu", low):
            out = function(*tensors, **PROBLEM)
        expected = function(*(x.to(low) for x in plain), **PROBLEM)
        assert out.dtype == low and torch.equal(out, expected)
        for result in (out, expected):
            result.float().square().sum().backward()
        for x, y in zip(tensors, plain):
            assert x.grad.dtype == x.dtype and torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("function", [vmoba.attention, sdpa])
def test_float64_is_left_alone(function):
    q, k, v = mixed([torch.float64] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = function(q, k, v, **PROBLEM)
        assert out.dtype == torch.float64 and torch.equal(out, function(q, k, v, **PROBLEM))
        with pytest.raises((ValueError, RuntimeError), match="dtype"):
            function(q, k.float(), v.float(), **PROBLEM)


def test_selection_lse_and_text():
    q, k, v = mixed([torch.float32, torch.bfloat16, torch.float32])
    text = vmoba.Text(4, at="front", valid=[4, 1])
    problem = dict(grid=(2, 4, 7), block=(1, 2, None), text=text)
    low = [x.bfloat16() for x in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = vmoba.attention(q, k, v, **problem, return_lse=True)
        selection = vmoba.select(q, k, **problem)
    expected = vmoba.attention(*low, **problem, return_lse=True)
    assert lse.dtype == torch.float32 and torch.equal(lse, expected[1]) and torch.equal(out, expected[0])
    assert selection == vmoba.select(*low[:2], **problem)


def test_nothing_is_cast_outside_or_on_other_devices():
    q, k, v = mixed([torch.float32] * 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert vmoba.attention(q, k, v, **PROBLEM).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert vmoba.attention(*(x.to("meta") for x in (q, k, v)), **PROBLEM).dtype == torch.float32


def test_compilation():
    def function(q, k, v):
        return vmoba.attention(q, k, v, **PROBLEM)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for run in (function, compiled):
        tensors = mixed([torch.float32, torch.bfloat16, torch.float32])
        with torch.autocast("cpu", torch.bfloat16):
            out = run(*tensors)
        out.float().square().sum().backward()
        results.append([out, *(x.grad for x in tensors)])
    for eager, traced in zip(*results):
        assert eager.dtype == traced.dtype and torch.equal(eager, traced)


def test_module():
    torch.manual_seed(0)
    module = vmoba.nn.Attention(32, 4, block=PROBLEM["block"], policy=vmoba.Dense(), kv_heads=2, qk_norm=True)
    x = torch.randn(2, 60, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, PROBLEM["grid"])  # the norms give float32 q and k beside a bfloat16 v
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert module.qkv.weight.grad.dtype == torch.float32
    assert (out.float() - module(x, PROBLEM["grid"])).abs().max() < 0.02
