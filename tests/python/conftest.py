# SPDX-License-Identifier: Apache-2.0
"""The package, or a reason to skip: without it the files that import it are left out and one skipped test says why."""

from __future__ import annotations

import importlib

import pytest
import torch

try:
    vmoba = importlib.import_module("vmoba")
    missing = ""
except ImportError as error:
    vmoba = None
    missing = f"the package vmoba is not importable ({error}); run `make build` first"

collect_ignore_glob = ["*_ops.py", "*_package.py", "*_dit.py", "*_compile.py"] if missing else []


def pytest_report_header() -> str:
    return f"vmoba: {missing or vmoba.__file__}"


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
