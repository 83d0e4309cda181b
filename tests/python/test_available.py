# SPDX-License-Identifier: Apache-2.0
"""The one test that is left when the package is not built: it says so."""

import importlib

import pytest


def test_package_is_importable():
    try:
        importlib.import_module("vmoba")
    except ImportError as error:
        pytest.skip(f"the package vmoba is not importable ({error}); run `make build` first")
