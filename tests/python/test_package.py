# SPDX-License-Identifier: Apache-2.0
"""The package: argument objects, refusals, selections, presets, explain, modules."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vmoba
from oracle import dense_mask, naive, random_qkv

GRID, BLOCK = (3, 4, 5), (2, 3, None)


def qkv(rows=60, heads=2, kv_heads=2, dim=8, batch=1, dtype=torch.float32):
    return random_qkv(batch, rows, heads, kv_heads, dim, dtype)


# --- refusals --------------------------------------------------------------------------------------------------------


def call(q=None, k=None, v=None, **more):
    tensors = [x if given is None else given for x, given in zip(qkv(), (q, k, v))]
    return vmoba.attention(*tensors, **{"grid": GRID, "block": BLOCK, **more})


REFUSALS = [
    (dict(q=torch.zeros(60, 2, 8)), "q.shape = [60, 2, 8] is not four-dimensional; pass [batch, tokens"),
    (dict(q=[1.0]), "q is a list, not a tensor"),
    (dict(k=torch.zeros(1, 60, 8)), "k.shape = [1, 60, 8] is not four-dimensional"),
    (
        dict(k=torch.zeros(1, 59, 2, 8)),
        "k.shape = [1, 59, 2, 8] differs from q.shape = [1, 60, 2, 8] outside the heads",
    ),
    (dict(k=torch.zeros(1, 60, 2, 8).half()), "k.dtype = Half differs from q.dtype = Float; cast one of them"),
    (dict(v=torch.zeros(1, 60, 1, 8)), "v.shape = [1, 60, 1, 8] differs from k.shape = [1, 60, 2, 8]"),
    (dict(v=torch.zeros(1, 60, 2, 8).double()), "v.dtype = Double differs from k.dtype = Float"),
    (dict(q=torch.zeros(1, 60, 2, 8).long(), k=torch.zeros(1, 60, 2, 8).long()), "q.dtype = Long is not a dtype"),
    (dict(k=torch.zeros(1, 60, 3, 8), v=torch.zeros(1, 60, 3, 8)), "kv_heads = 3 does not divide heads = 2"),
    (dict(grid=(3, 4, 6)), "q.shape[1] = 60 does not equal the 72 rows of grid (3, 4, 6); pass the token grid"),
    (dict(grid=(3, 4, 4), text=vmoba.Text(11)), "does not equal the 59 rows of grid (3, 4, 4) and 11 text tokens"),
    (dict(grid=(3, 4)), "grid = (3, 4) is not a triple"),
    (dict(grid=[(3, 4, 5), (1, 2)]), "has an entry that is not a triple"),
    (dict(grid=(0, 4, 5)), "grid"),
    (
        dict(grid=[(3, 4, 4), (1, 3, 4)], q=torch.zeros(2, 60, 2, 8), k=torch.zeros(2, 60, 2, 8)),
        "q.shape[0] = 2 is not 1",
    ),
    (dict(block=(2, 3)), "block = (2, 3) is neither three extents nor a run"),
    (dict(block=(2, 0, None)), "has an extent below 1"),
    (dict(block=(2, 5, None)), "block.y = 5"),
    (dict(block=vmoba.Run(0)), "block"),
    (dict(block=vmoba.Run(61)), "61"),
    (dict(policy="vmoba"), "policy = 'vmoba' is not a policy"),
    (dict(policy=vmoba.Threshold(0.0)), "tau = 0"),
    (dict(policy=vmoba.Threshold(float("nan"))), "tau"),
    (dict(policy=vmoba.Threshold(0.3, scope="heads")), 'policy.scope = "heads" is not a scope; use "head", "query"'),
    (dict(policy=vmoba.Threshold(0.3, min_blocks=0)), "min_blocks = 0"),
    (dict(policy=vmoba.Threshold(0.3, min_blocks=3, max_blocks=2)), "max_blocks = 2"),
    (dict(policy=vmoba.TopK(0)), "policy.k = 0 is not a whole number of blocks; use 1 or more"),
    (dict(policy=vmoba.TopK(1.5)), "policy.k = 1.5 is not a whole number of blocks"),
    (dict(policy=vmoba.TopK(2, scope="block")), "block"),
    (dict(scale=float("inf")), "scale"),
    (dict(text=vmoba.Text(-1)), "text.count = -1 is negative"),
    (dict(text=vmoba.Text(0, at="middle")), 'text.at = "middle" is not a place for text; use "front" or "rear"'),
    (dict(grid=(3, 4, 4), text=vmoba.Text(12, valid=[13])), "text.valid[0] = 13"),
    (dict(grid=(3, 4, 4), text=vmoba.Text(12, valid=[1, 2])), "text.valid = [2] of Long is not one whole number"),
    (dict(grid=(3, 4, 4), text=vmoba.Text(12, valid=torch.tensor([1.5]))), "is not one whole number for each of 1"),
    (dict(backend="cuda"), "cuda"),
]


@pytest.mark.parametrize("arguments, words", REFUSALS, ids=[words[:40] for _, words in REFUSALS])
def test_refusals_are_one_sentence(arguments, words):
    with pytest.raises(vmoba.Error, match=re.escape(words)) as caught:
        call(**arguments)
    message = str(caught.value)
    assert message.startswith("vmoba: ") and "\n" not in message and "; " in message
    assert isinstance(caught.value, ValueError)


def test_empty_tensors_are_refused():
    for shape in [(0, 60, 2, 8), (1, 60, 0, 8), (1, 60, 2, 0), (1, 0, 2, 8)]:
        with pytest.raises(vmoba.Error, match=r"(is empty|does not equal)"):
            call(*(torch.zeros(shape) for _ in range(3)))


def test_devices_are_refused():
    with pytest.raises((vmoba.Error, RuntimeError), match="meta"):
        call(k=torch.zeros(1, 60, 2, 8, device="meta"))


def test_meta_tensors_give_shapes():
    q, k, v = (x.to("meta") for x in qkv(72, 4, 2))
    out, lse = vmoba.attention(q, k, v, grid=GRID, block=BLOCK, text=vmoba.Text(), return_lse=True)
    assert out.shape == q.shape and lse.shape == (1, 72, 4) and out.device.type == "meta"
    for grid, block in [(GRID, BLOCK), (GRID, vmoba.Run(7)), ([(3, 4, 5), (2, 3, 2)], (2, 2, None))]:
        rows = 60 if len(grid) == 3 else 72
        q, k, _ = qkv(rows)
        real = vmoba.select(q, k, grid=grid, block=block)
        assert vmoba.select(q.to("meta"), k.to("meta"), grid=grid, block=block).bits.shape == real.bits.shape


def test_attend_refuses_foreign_selections():
    q, k, v = qkv()
    selection = vmoba.select(q, k, grid=GRID, block=BLOCK)
    with pytest.raises(vmoba.Error, match="is not the selection of this problem"):
        vmoba.attend(*qkv(heads=1, kv_heads=1), selection)
    with pytest.raises(vmoba.Error, match="selection is a Tensor, not a vmoba.Selection"):
        vmoba.attend(q, k, v, selection.mask())
    rogue = copy.copy(selection)
    rogue.bits = torch.full_like(selection.bits, -1)
    with pytest.raises(vmoba.Error, match="a set bit past row 59"):
        vmoba.attend(q, k, v, rogue)


# --- selections ------------------------------------------------------------------------------------------------------


def test_selection_views_agree():
    q, k, _ = qkv(batch=2)
    selection = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.Threshold(0.4))
    mask, labels = selection.mask(), selection.labels()
    assert mask.shape == (2, 2, 60, 4) and mask.dtype == torch.bool and labels.shape == (60,)
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in GRID), indexing="ij")
    assert torch.equal(labels, ((t // 2) * 2 + y // 3).flatten() + 0 * x.flatten())
    assert torch.equal(selection.counts(), mask.sum(-1))
    sizes = labels.bincount(minlength=4).double()
    assert torch.allclose(selection.density(), (mask * sizes).sum((-1, -2)) / 3600)
    assert mask.gather(-1, labels.expand(2, 2, 60)[..., None]).all()  # own blocks
    assert "grid=(3, 4, 5)" in repr(selection) and selection.block == BLOCK and selection.grid == GRID


def test_selection_algebra():
    q, k, v = qkv(batch=2)
    a = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.TopK(2))
    b = vmoba.select(k, q, grid=GRID, block=BLOCK, policy=vmoba.Threshold(0.4))
    assert a != b and a == vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.TopK(2))
    assert torch.equal((a & b).mask(), a.mask() & b.mask())
    assert torch.equal((a | b).mask(), a.mask() | b.mask())
    vmoba.attend(q, k, v, a & b)
    other = vmoba.select(q, k, grid=GRID, block=vmoba.Run(30))
    with pytest.raises(vmoba.Error, match="do not combine; & needs equal batch, heads, grid and block"):
        a & other
    with pytest.raises(TypeError):
        a | 3


def test_topk_counts():
    q, k, _ = qkv()
    for count in (1, 2, 3, 4, 100):
        selection = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.TopK(count))
        assert (selection.counts() == min(count, 4)).all()
    selection = vmoba.select(q, k, grid=GRID, block=BLOCK, policy=vmoba.Threshold(0.5, min_blocks=2, max_blocks=3))
    assert selection.counts().min() >= 2 and selection.counts().max() <= 3


@pytest.mark.parametrize("grid", [GRID, [(3, 4, 5), (2, 3, 2)]], ids=str)
@pytest.mark.parametrize("block", [(2, 3, None), vmoba.Run(7)], ids=str)
def test_save_and_load(tmp_path, grid, block):
    q, k, v = qkv(60 if grid == GRID else 72)
    selection = vmoba.select(q, k, grid=grid, block=block)
    path = tmp_path / "a.selection"
    selection.save(path)
    loaded = vmoba.Selection.load(path)
    assert loaded == selection and loaded.block == selection.block and loaded.grid == selection.grid
    assert torch.equal(vmoba.attend(q, k, v, loaded), vmoba.attend(q, k, v, selection))
    assert [file.name for file in tmp_path.iterdir()] == ["a.selection"]  # no temporary is left

    data = path.read_bytes()
    for broken in (b"", data[:-1], data[:20], data + b"x", b"nonsense" + data[8:], data[:-9] + b"\xff" + data[-8:]):
        path.write_bytes(broken)
        with pytest.raises(vmoba.Error, match=re.escape(str(path))):
            vmoba.Selection.load(path)


def test_files_that_cannot_be(tmp_path):
    selection = vmoba.select(*qkv()[:2], grid=GRID, block=BLOCK)
    with pytest.raises(vmoba.Error, match="cannot be read"):
        vmoba.Selection.load(tmp_path / "none")
    with pytest.raises(vmoba.Error, match="cannot be written"):
        selection.save(tmp_path / "no" / "folder")


@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(*[st.integers(1, 5)] * 3),
    extents=st.tuples(*[st.integers(1, 5) | st.none()] * 3),
    tau=st.floats(0.05, 1.2),
    scope=st.sampled_from(["head", "query", "block", "all"]),
    text=st.integers(0, 4),
    front=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_problems_against_masked_softmax(grid, extents, tau, scope, text, front, seed):
    block = tuple(None if e is None or e > g else e for e, g in zip(extents, grid))
    rows = grid[0] * grid[1] * grid[2] + text
    q, k, v = random_qkv(2, rows, 4, 2, 8, seed=seed)
    words = vmoba.Text(text, at="front" if front else "rear")
    problem = dict(grid=grid, block=block, policy=vmoba.Threshold(tau, scope=scope), text=words)
    mask = dense_mask(vmoba.select(q, k, **problem), text, words.at)
    out, lse = vmoba.attention(q, k, v, **problem, return_lse=True)
    expected, expected_lse = naive(q, k, v, mask)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-5)


# --- the engine about itself -----------------------------------------------------------------------------------------


def test_presets():
    assert "paper-93x576x1024" in vmoba.presets() and len(vmoba.presets()) == 7
    preset = vmoba.preset("paper-93x576x1024")
    assert preset.grid == (24, 36, 64) and preset.schedule.dense_fraction == 0.25
    assert preset.layer(0) == ((3, None, None), vmoba.Threshold(0.25))
    assert preset.layer(4) == ((None, 6, 8), vmoba.Threshold(0.25))
    assert preset.layer(29) == ((8, 12, 8), vmoba.Threshold(0.25))
    free = vmoba.preset("paper-81x480x832")
    assert [free.layer(layer)[1] for layer in range(3)] == [vmoba.TopK(k) for k in (2, 6, 18)]
    for name in vmoba.presets():
        preset = vmoba.preset(name)
        for layer in range(3):
            block, policy = preset.layer(layer)
            told = vmoba.explain(grid=preset.grid, block=block, policy=policy, heads=12, dim=128)
            assert told.tokens == preset.grid[0] * preset.grid[1] * preset.grid[2] and told.blocks > 1
    with pytest.raises(vmoba.Error, match="preset = 'paper' is not a preset; use one of paper-81x480x832, "):
        vmoba.preset("paper")


def test_schedule():
    schedule = vmoba.Schedule()
    assert schedule.first_sparse_step(40) == 10
    assert schedule.dense(9, 40, 0, 5000) and not schedule.dense(10, 40, 0, 5000)
    assert not schedule.dense(0, 40, 0, 5000, use="training")
    assert not vmoba.Schedule(dense_steps=0).dense(0, 40, 0, 5000)
    assert vmoba.Schedule(dense_layers=frozenset({3})).dense(20, 40, 3, 5000)
    assert vmoba.Schedule(min_tokens=5001).dense(20, 40, 0, 5000)
    refreshing = vmoba.Schedule(dense_steps=0, refresh=3)
    assert [refreshing.refreshes(step, 7) for step in range(7)] == [True, False, False, True, False, False, True]
    with pytest.raises(vmoba.Error, match="is not a use"):
        schedule.dense(0, 1, 0, 1, use="rest")
    # The break-even of a usual call: somewhere between a handful of tokens and a short clip of the paper's.
    automatic = vmoba.Schedule(dense_fraction=0, min_tokens="auto")
    for use in ("sampling", "training"):
        assert automatic.dense(0, 1, 0, 8, use=use) and not automatic.dense(0, 1, 0, 13440, use=use)
    assert vmoba.Schedule(dense_layers={1, 0}) == vmoba.Schedule(dense_layers=[0, 1])


@pytest.mark.parametrize(
    "field, values",
    [
        ("min_tokens", ["Auto", "automatic", None, -1, -(2**63), 1.5, True, 2**63]),
        ("dense_fraction", [-0.1, 1.1, float("nan"), "0.5", None]),
        ("dense_steps", [-1, 0.5, "2"]),
        ("dense_layers", [3, "3", {-1}, {0.5}, None]),
        ("refresh", [0, -1, 1.5, None]),
    ],
)
def test_schedule_refuses(field, values):
    for value in values:
        with pytest.raises(vmoba.Error, match=f"^vmoba: {field} = .*; use [^\n]*$"):
            vmoba.Schedule(**{field: value})


def test_explain_and_info():
    told = vmoba.explain(grid=(21, 30, 52), block=(7, 5, 13), policy=vmoba.TopK(3), heads=12, dim=128, kv_heads=4)
    assert (told.tokens, told.blocks, told.smallest_block, told.largest_block) == (32760, 72, 455, 455)
    assert told.dense_flops == pytest.approx(4 * 32760**2 * 12 * 128)
    assert told.selection_bytes == 12 * 72 * 512 * 8 and told.backends["reference"] == ""
    assert "32760" in str(told)
    ragged = vmoba.explain(grid=(5, 5, 5), block=(2, 2, 2), heads=1, dim=20, text=vmoba.Text(9), dtype=torch.bfloat16)
    assert (ragged.rows, ragged.blocks, ragged.smallest_block) == (134, 27, 1)
    with pytest.raises(vmoba.Error, match="says nothing without tensors"):
        vmoba.explain(grid=GRID, block=BLOCK, heads=1, dim=8, text=vmoba.Text())
    with pytest.raises(vmoba.Error, match="block.y = 50"):
        vmoba.explain(grid=GRID, block=(1, 50, 1), heads=1, dim=8)

    told = vmoba.info()
    assert told.version == vmoba.__version__ and any(b.name == "reference" for b in told.backends)
    torch.set_num_threads(1)
    assert vmoba.info().threads == 1
    assert "reference" in str(told)


def test_backends_agree_and_are_forced():
    q, k, v = qkv()
    names = [b.name for b in vmoba.info().backends if not b.unavailable]
    outs = [call(backend=name) for name in names]
    for out in outs:
        torch.testing.assert_close(out, outs[-1], rtol=1e-4, atol=1e-5)


# --- modules ---------------------------------------------------------------------------------------------------------


def test_module():
    torch.manual_seed(0)
    module = vmoba.nn.Attention(32, 4, block=BLOCK, policy=vmoba.TopK(2), kv_heads=2, qk_norm=True)
    x = torch.randn(2, 65, 32)
    out = module(x, GRID, text=vmoba.Text(5), position=lambda heads: heads * 0.5)
    assert out.shape == x.shape
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    q, k, v = random_qkv(2, 60, 4, 2, 8)
    expected = vmoba.attention(q, k, v, grid=GRID, block=BLOCK, policy=vmoba.TopK(2))
    assert torch.equal(module.core(q, k, v, GRID), expected)
    module.policy = vmoba.Dense()
    assert not torch.equal(module.core(q, k, v, GRID), expected)
    assert "policy=Dense()" in repr(module)
    for bad, words in [(dict(heads=5), "does not divide width"), (dict(heads=4, kv_heads=3), "does not divide heads")]:
        with pytest.raises(vmoba.Error, match=words):
            vmoba.nn.Attention(32, block=BLOCK, **bad)
    with pytest.raises(vmoba.Error, match="three-dimensional"):
        module(x[0], GRID)


def test_public_names_are_documented():
    for name in set(vmoba.__all__) - {"Policy"}:  # an alias of the three policies
        assert getattr(vmoba, name).__doc__, name
