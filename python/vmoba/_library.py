# SPDX-License-Identifier: Apache-2.0
"""Loads the operators. Everything the package computes is in these libraries."""

from __future__ import annotations

from pathlib import Path

import torch

folder = Path(__file__).resolve().parent / "lib"


def load(name: str) -> None:
    """Registers the operators and classes of lib/<name>. Loading twice is harmless."""
    path = folder / name
    if not path.is_file():
        raise ImportError(
            f"vmoba: {path} is missing; install the package with `pip install --no-build-isolation .` or `make build`, "
            "a checkout alone holds no compiled operators"
        )
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(
            f"vmoba: {path.name} does not load into torch {torch.__version__} ({error}); rebuild the package with the "
            "torch it is to run with"
        ) from error


load("libvmoba_torch.so")
ops = torch.ops.vmoba
