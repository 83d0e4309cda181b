# SPDX-License-Identifier: Apache-2.0
"""The program under test: VMOBA_PROGRAM names it; without it these tests are skipped with that reason."""

import json
import os
import subprocess

import pytest

PROGRAM = os.environ.get("VMOBA_PROGRAM", "")


def pytest_collection_modifyitems(items):
    if not os.path.exists(PROGRAM):
        skip = pytest.mark.skip(reason="VMOBA_PROGRAM does not name the program vmoba")
        for item in items:
            item.add_marker(skip)


@pytest.fixture
def vmoba():
    """Runs the program: vmoba("explain", "--grid", "1,2,3") -> CompletedProcess with text."""

    def run(*arguments, **options):
        return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture
def refused(vmoba):
    """Runs the program, expects this exit code, nothing on stdout, and one line on stderr that holds these words."""

    def run(code, words, *arguments):
        result = vmoba(*arguments)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("vmoba: "), lines[0]
        for word in words:
            assert word in lines[0], lines[0]

    return run


@pytest.fixture
def told(vmoba):
    """Runs the program with --json, expects exit code 0 and one JSON document on stdout."""

    def run(*arguments):
        result = vmoba(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run
