# SPDX-License-Identifier: Apache-2.0
"""The wheel that pip builds from the tree, unpacked into an empty folder and used from outside the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core", reason="the wheel's build backend is not installed")
ROOT = Path(__file__).resolve().parents[2]

USE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, vmoba
assert vmoba.__file__.startswith(sys.argv[1]), vmoba.__file__
q, k, v = (torch.randn(1, 60, 2, 16, requires_grad=True) for _ in range(3))
out = vmoba.attention(q, k, v, grid=(3, 4, 5), block=(2, 3, None), policy=vmoba.Threshold(0.25))
out.sum().backward()
assert all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in (q, k, v))
config = dict(num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
              ffn_dim=64, num_layers=1)
model = vmoba.dit.create(config)
assert model(torch.randn(1, 4, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 7, 16)).shape == (1, 4, 2, 4, 4)
print(vmoba.info())
"""


def test_wheel_serves_a_clean_prefix(tmp_path):
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are needed to build the wheel")
    # Beside build/ and with its compiler, so that ccache knows every object that build/ has compiled.
    environment = dict(os.environ, CMAKE_BUILD_PARALLEL_LEVEL=str(min(os.cpu_count() or 1, 4)))
    cache = ROOT / "build" / "CMakeCache.txt"
    if found := re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache.read_text() if cache.exists() else "", re.M):
        environment["CXX"] = found[1]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    built = subprocess.run(
        [*command, "-C", "build-dir=build-wheel", "-w", tmp_path / "wheel", ROOT],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert re.fullmatch(r"vmoba-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    prefix = tmp_path / "prefix"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(prefix)
    assert (prefix / "vmoba" / "py.typed").exists()
    tops = {path.name for path in prefix.iterdir()}
    assert tops == {"vmoba", wheel.name.split("-py3")[0] + ".dist-info"}  # nothing else lands in site-packages
    used = subprocess.run(
        [sys.executable, "-I", "-c", USE, prefix], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert used.returncode == 0, used.stderr
    assert "reference" in used.stdout
