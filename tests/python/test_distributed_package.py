# SPDX-License-Identifier: Apache-2.0
"""Ulysses over two Gloo processes equals one process; what does not compose is refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import vmoba
from oracle import random_qkv

PROBLEM = dict(grid=(3, 4, 5), block=(2, 3, None), policy=vmoba.Threshold(0.3))


def worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    whole = [x.requires_grad_() for x in random_qkv(2, 60, 4, 2, 8)]
    expected = vmoba.attention(*whole, **PROBLEM)
    dout = random_qkv(2, 60, 4, 2, 8, seed=5)[0]
    expected.backward(dout)
    part = slice(30 * rank, 30 * rank + 30)
    mine = [x.detach()[:, part].clone().requires_grad_() for x in whole]
    out = vmoba.distributed.ulysses(*mine, **PROBLEM)
    out.backward(dout[:, part])
    assert torch.equal(out, expected[:, part])
    for a, b in zip(mine, whole):
        torch.testing.assert_close(a.grad, b.grad[:, part], rtol=1e-5, atol=1e-6)
    with pytest.raises(vmoba.Error, match="lie on different ranks; use scope 'head' or 'query'"):
        vmoba.distributed.ulysses(*mine, **{**PROBLEM, "policy": vmoba.Threshold(0.3, scope="all")})
    with pytest.raises(vmoba.Error, match="q has 3 heads, which 2 ranks do not divide"):
        vmoba.distributed.ulysses(*(x[:, :, [0, 0, 0]] for x in mine), **PROBLEM)
    dist.destroy_process_group()


def test_ulysses(tmp_path):
    mp.spawn(worker, args=(tmp_path,), nprocs=2)


def test_ring_is_refused():
    with pytest.raises(vmoba.Error, match="use vmoba.distributed.ulysses"):
        vmoba.distributed.ring()
