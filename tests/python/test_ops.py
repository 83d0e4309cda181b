# SPDX-License-Identifier: Apache-2.0
"""The operators: opcheck, gradcheck in float64, and values against attention written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

import vmoba
from oracle import dense_mask, naive, random_qkv

ops = torch.ops.vmoba
GRID, BLOCK = (3, 4, 5), (2, 3, None)  # ragged on two axes


def close(actual, expected, tolerance=2e-5):
    """Equal infinities, and the rest within tolerance of the largest value."""
    actual = actual.double()
    assert torch.equal(actual.isinf(), expected.isinf())
    assert not actual.isnan().any()
    finite = ~expected.isinf()
    scale = expected[finite].abs().max().clamp_min(1e-30)
    assert (actual - expected)[finite].abs().max() <= tolerance * scale


# --- contracts -------------------------------------------------------------------------------------------------------


def arguments(requires_grad=False, text=0, kv_heads=2):
    q, k, v = random_qkv(2, 60 + text, 4, kv_heads, 16)
    return tuple(x.requires_grad_(requires_grad) for x in (q, k, v))


@pytest.mark.parametrize("text", [0, 5])
def test_opcheck_select(text):
    q, k, _ = arguments(text=text)
    torch.library.opcheck(
        ops.select.default, (q, k, GRID, [2, 3, -1], "threshold", 0.3, "head", 1, None, text, "front", "")
    )


@pytest.mark.parametrize("text", [0, 5])
@pytest.mark.parametrize("dense", [False, True])
def test_opcheck_attend(text, dense):
    q, k, v = arguments(True, text)
    bits = None if dense else ops.select(q, k, GRID, [2, 3, -1], text=text)
    valid = torch.tensor([text, text // 2]) if text else None
    torch.library.opcheck(
        ops.attend.default, (q, k, v, bits, GRID, [2, 3, -1]), {"text": text, "valid": valid, "scale": 0.2}
    )


def test_opcheck_attend_backward():
    q, k, v = arguments()
    bits = ops.select(q, k, GRID, [2, 3, -1])
    out, lse = ops.attend(q, k, v, bits, GRID, [2, 3, -1])
    dlse = torch.randn_like(lse)
    torch.library.opcheck(
        ops.attend_backward.default, (torch.randn_like(out), dlse, q, k, v, out, lse, bits, GRID, [2, 3, -1])
    )


def test_opcheck_attention():
    torch.library.opcheck(ops.attention.default, (*arguments(True), GRID, [2, 3, -1], "topk", 2, "query"))


# --- gradients -------------------------------------------------------------------------------------------------------


def with_fixed_selection(q, k, text, **problem):
    selection = vmoba.select(q.detach(), k.detach(), text=text, **problem)

    def function(q, k, v):
        return vmoba.attend(q, k, v, selection, text=text, return_lse=True)

    return function


@pytest.mark.parametrize(
    "heads, kv_heads, text, scale",
    [
        (2, 2, None, None),
        (4, 2, None, 0.7),
        (2, 1, vmoba.Text(3, at="front"), None),
        (2, 2, vmoba.Text(4, at="rear", valid=[2, 4]), None),
    ],
)
def test_gradcheck(heads, kv_heads, text, scale):
    count = 0 if text is None else text.count
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 12 + count, heads, kv_heads, 3, torch.float64))
    selection = vmoba.select(q, k, grid=(3, 2, 2), block=(2, None, 1), policy=vmoba.TopK(2), text=text)
    assert 0 < selection.density().mean() < 1
    padding = text is not None and text.valid is not None

    def function(q, k, v):
        out, lse = vmoba.attend(q, k, v, selection, text=text, scale=scale, return_lse=True)
        return out, lse.nan_to_num(neginf=0.0) if padding else lse

    assert gradcheck(function, (q, k, v))


def test_gradcheck_packed_and_run():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 8 + 6, 2, 2, 3, torch.float64))
    for block in [(1, 2, None), vmoba.Run(3)]:
        selection = vmoba.select(q, k, grid=[(2, 2, 2), (1, 2, 3)], block=block, policy=vmoba.Threshold(0.6))
        assert gradcheck(lambda q, k, v: vmoba.attend(q, k, v, selection, return_lse=True), (q, k, v))


def test_gradcheck_fused_and_dense():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 8, 2, 2, 3, torch.float64))
    for policy in [vmoba.Dense(), vmoba.TopK(2)]:
        assert gradcheck(
            lambda q, k, v: vmoba.attention(q, k, v, grid=(2, 2, 2), block=(1, 2, 2), policy=policy), (q, k, v)
        )


def test_gradient_through_lse_alone():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 60, 2, 2, 8))
    _, lse = vmoba.attention(q, k, v, grid=GRID, block=BLOCK, return_lse=True)
    lse.sum().backward()
    mask = dense_mask(vmoba.select(q, k, grid=GRID, block=BLOCK))
    q2, k2, v2 = (x.detach().double().requires_grad_() for x in (q, k, v))
    naive(q2, k2, v2, mask)[1].sum().backward()
    close(q.grad, q2.grad)
    close(k.grad, k2.grad)
    assert v.grad.abs().max() == 0


def test_second_derivative_is_refused():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 60, 2, 2, 8))
    out = vmoba.attention(q, k, v, grid=GRID, block=BLOCK)
    (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        gradient.sum().backward()


# --- values ----------------------------------------------------------------------------------------------------------

POLICIES = [
    vmoba.Threshold(0.25),
    vmoba.Threshold(0.5, scope="query"),
    vmoba.Threshold(0.4, scope="block"),
    vmoba.Threshold(0.3, scope="all", min_blocks=2, max_blocks=3),
    vmoba.TopK(2),
    vmoba.TopK(2, scope="head"),
    vmoba.TopK(1),
    vmoba.Dense(),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("text", [None, vmoba.Text(7, at="front"), vmoba.Text(5, at="rear", valid=[5, 2])], ids=str)
def test_against_masked_softmax(policy, text):
    count = 0 if text is None else text.count
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 60 + count, 4, 2, 16))
    selection = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=policy, text=text)
    mask = dense_mask(selection, count, "rear" if text is None else text.at, None if text is None else text.valid)
    out, lse = vmoba.attention(q, k, v, grid=GRID, block=BLOCK, policy=policy, text=text, return_lse=True)
    assert out.dtype == torch.float32 and lse.dtype == torch.float32 and lse.shape == (2, 60 + count, 4)

    q2, k2, v2 = (x.detach().double().requires_grad_() for x in (q, k, v))
    expected, expected_lse = naive(q2, k2, v2, mask)
    close(out, expected)
    close(lse, expected_lse)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(dout)
    expected.backward(dout.double())
    for mine, theirs in ((q, q2), (k, k2), (v, v2)):
        close(mine.grad, theirs.grad, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "fused", "transposed", "strided_dim", "expanded"])
def test_dtypes_and_strides(dtype, layout):
    """Any strides give the bits of the contiguous call, gradients included."""
    q, k, v = random_qkv(2, 60, 2, 2, 16, dtype)
    if layout == "expanded":
        q, k, v = (x[:1].expand(2, -1, -1, -1) for x in (q, k, v))
    plain = [x.contiguous().clone().requires_grad_() for x in (q, k, v)]
    if layout == "fused":
        q, k, v = torch.cat([x.flatten(2) for x in (q, k, v)], -1).split(32, -1)
        q, k, v = (x.unflatten(-1, (2, 16)) for x in (q, k, v))
    elif layout == "transposed":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    elif layout == "strided_dim":
        q, k, v = (x.transpose(1, 3).contiguous().transpose(1, 3) for x in (q, k, v))
    assert (layout == "contiguous") == q.is_contiguous()
    mine = [x.detach().requires_grad_() for x in (q, k, v)]
    outs = []
    for tensors in (plain, mine):
        out, lse = vmoba.attention(*tensors, grid=GRID, block=BLOCK, return_lse=True)
        assert out.dtype == dtype and out.is_contiguous()
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        (out.float().square().sum() + lse.sum()).backward()
        outs.append((out, lse, *(x.grad for x in tensors)))
    for a, b in zip(*outs):
        assert torch.equal(a, b)
    out, lse = outs[0][:2]
    mask = dense_mask(vmoba.select(*plain[:2], grid=GRID, block=BLOCK))
    expected, expected_lse = naive(*(x.detach() for x in plain), mask)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    close(out.detach(), expected, tolerance)
    close(lse.detach(), expected_lse, max(1e-12, min(tolerance, 1e-4)) if dtype != torch.float64 else 1e-12)


def test_threads_and_batch_do_not_change_bits():
    grid, block = (5, 9, 7), (2, 4, 3)
    q, k, v = random_qkv(3, 315, 4, 2, 64)
    dout = random_qkv(3, 315, 4, 2, 64, seed=3)[0]

    def run(q, k, v, dout):
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out, lse = vmoba.attention(q, k, v, grid=grid, block=block, return_lse=True)
        out.backward(dout)
        return [vmoba.select(q, k, grid=grid, block=block).mask(), out, lse, q.grad, k.grad, v.grad]

    torch.set_num_threads(1)
    first = run(q, k, v, dout)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(first, run(q, k, v, dout)))
    alone = [run(*(x[b : b + 1] for x in (q, k, v, dout))) for b in range(3)]
    for i, whole in enumerate(first):
        assert torch.equal(whole, torch.cat([sample[i] for sample in alone]))


def test_packed_equals_samples():
    grids, text = [(3, 4, 5), (2, 6, 3), (1, 1, 7)], vmoba.Text(4, at="front", valid=[4, 0, 2])
    rows = [t * y * x + 4 for t, y, x in grids]
    q, k, v = random_qkv(1, sum(rows), 4, 2, 16)
    packed = vmoba.attention(q, k, v, grid=grids, block=vmoba.Run(7), text=text, return_lse=True)
    selection = vmoba.select(q, k, grid=grids, block=vmoba.Run(7), text=text)
    start = 0
    for b, (grid, count) in enumerate(zip(grids, rows)):
        part = [x[:, start : start + count] for x in (q, k, v)]
        one = vmoba.Text(4, at="front", valid=text.valid[b : b + 1])
        if grid[0] * grid[1] * grid[2] >= 7:
            alone = vmoba.attention(*part, grid=grid, block=vmoba.Run(7), text=one, return_lse=True)
            for whole, sample in zip(packed, alone):
                assert torch.equal(whole[:, start : start + count], sample)
            mask = vmoba.select(*part[:2], grid=grid, block=vmoba.Run(7), text=one).mask()
            assert torch.equal(selection.mask()[b], mask[0])
        start += count
    assert len(selection.counts()) == 3 and selection.density().shape == (3, 4)


def test_partial_results_merge():
    """The formula in attend's documentation: two halves of a selection, merged by lse, equal the whole."""
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 60, 2, 2, 16))
    whole = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.TopK(3))
    own = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.TopK(1))
    rest = vmoba.Selection(whole.bits & ~own.bits, whole.batch, whole.heads, whole.grids, whole.extents)
    parts = [vmoba.attend(q, k, v, part, return_lse=True) for part in (own, rest)]
    top = torch.maximum(parts[0][1], parts[1][1])
    weights = [(lse - top).exp()[..., None] for _, lse in parts]
    merged = sum(w * out for w, (out, _) in zip(weights, parts)) / sum(weights)
    expected = vmoba.attend(q, k, v, whole)
    close(merged.detach(), expected.detach().double())
    gradients = [torch.autograd.grad(out.square().sum(), (q, k, v), retain_graph=True) for out in (merged, expected)]
    for a, b in zip(*gradients):
        close(a, b.double(), 1e-4)


def test_empty_rows():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 60, 2, 2, 16))
    full = vmoba.select(q, k, grid=GRID, block=BLOCK)
    empty = vmoba.Selection(torch.zeros_like(full.bits), 1, 2, full.grids, full.extents)
    out, lse = vmoba.attend(q, k, v, empty, return_lse=True)
    assert out.abs().max() == 0 and (lse == -math.inf).all()
    out.sum().backward()
    assert all(x.grad.abs().max() == 0 for x in (q, k, v))


def test_flex_attention_agrees():
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = random_qkv(1, 60, 2, 2, 16)
    selection = vmoba.select(q, k, grid=GRID, block=BLOCK)
    expected = flex_attention(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=selection.to_block_mask(16))
    close(vmoba.attend(q, k, v, selection), expected.transpose(1, 2).double())
