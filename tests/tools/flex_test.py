# SPDX-License-Identifier: Apache-2.0
"""What FlexAttention is measured on beside VMoBA: the same pairs for both. Compiling is left to the bench: it takes most of a minute."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
vmoba = pytest.importorskip("vmoba")
flex = pytest.importorskip("vmoba._flex")


@pytest.mark.parametrize("density", [0.01, 0.4, 1])
def test_tiles_are_the_same_pairs(density):
    heads, tiles = 3, 5
    pairs = flex.by_tiles(heads, tiles, density)
    each = max(1, round(density * tiles))
    mask = pairs.selection.mask()[0]  # [H, S, N]
    of_tiles = mask.unflatten(1, (tiles, flex.TILE))
    assert torch.equal(of_tiles.all(2), of_tiles.any(2))
    assert torch.equal(of_tiles.any(2), pairs.mask.to_dense()[0].bool())
    assert torch.equal(of_tiles.any(2).sum(-1), torch.full((heads, tiles), each))
    assert of_tiles.any(2).diagonal(dim1=1, dim2=2).all()  # own blocks
    assert pairs.mask.kv_num_blocks.sum() == 0  # no tile that needs a mask inside
    assert pairs.selection.density().mean() == pytest.approx(each / tiles)


def test_query_by_query_is_what_vmoba_selects():
    torch.manual_seed(0)
    q, k = (torch.randn(1, 4 * 8 * 9, 2, 16) for _ in range(2))
    pairs = flex.by_query(q, k, (4, 8, 9), flex.block_of("2x4xfull"), 0.2)
    mask, labels = pairs.selection.mask()[0], pairs.selection.labels()
    wanted = mask[:, :, labels][:, pairs.order][:, :, pairs.order]  # [H, S, S], both in the order of blocks
    every = torch.arange(4 * 8 * 9)
    told = torch.stack([pairs.mask.mask_mod(0, head, every[:, None], every[None]) for head in range(2)])
    assert torch.equal(told, wanted)
    assert 0.05 < pairs.selection.density().mean() < 0.6


def test_a_broken_request_is_told_as_skipped():
    result = subprocess.run([sys.executable, "-m", "vmoba._flex", "{}"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "KeyError" in json.loads(result.stdout)["skipped"]
