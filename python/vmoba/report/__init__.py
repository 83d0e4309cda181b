# SPDX-License-Identifier: Apache-2.0
"""The report of training runs: one page with losses, times, clips, selections and measures of quality.

    python -m vmoba.report --out report.html dense=runs/dense sparse=runs/sparse --clip dense=a.mp4 --clip sparse=b.mp4

Needs matplotlib and OpenCV beside torch and numpy; the page opens without a network.
"""

from __future__ import annotations

from .page import write
from .runs import Analysis, Clip, Run, read_analysis, read_run

__all__ = ["Analysis", "Clip", "Run", "read_analysis", "read_run", "write"]
