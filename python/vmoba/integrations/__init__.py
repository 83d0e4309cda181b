# SPDX-License-Identifier: Apache-2.0
"""VMoBA in other people's models: vmoba.integrations.diffusers. Each is imported when it is first named."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "diffusers":
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
