# SPDX-License-Identifier: Apache-2.0
"""Sparse attention for video diffusion transformers: VMoBA (arXiv 2506.23858), exact, forward and backward.

    out = vmoba.attention(q, k, v, grid=(21, 30, 52), block=(7, 5, 13), policy=vmoba.Threshold(0.25))

Tensors are [B, tokens, heads, head dim], tokens in raster order (t, then y, then x).
"""

from __future__ import annotations

from . import distributed, dit, integrations, nn
from ._error import Error
from ._types import Dense, Policy, Run, Text, Threshold, TopK
from .functional import Explanation, Info, attend, attention, explain, info, select
from .presets import Preset, Schedule, preset, presets
from .selection import Selection

__version__ = info().version

__all__ = [
    "Dense",
    "Error",
    "Explanation",
    "Info",
    "Policy",
    "Preset",
    "Run",
    "Schedule",
    "Selection",
    "Text",
    "Threshold",
    "TopK",
    "attend",
    "attention",
    "distributed",
    "dit",
    "explain",
    "info",
    "integrations",
    "nn",
    "preset",
    "presets",
    "select",
]
