# SPDX-License-Identifier: Apache-2.0
"""How every picture of the package looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Colours that stay apart for colour-blind eyes and in grey (Okabe and Ito).
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                     "grid.alpha": 0.3, "figure.dpi": 110, "legend.frameon": False})  # fmt: skip


def save(figure: Any, path: Path, **options: Any) -> None:
    figure.tight_layout()
    figure.savefig(path, **options)
    plt.close(figure)
