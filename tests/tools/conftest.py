# SPDX-License-Identifier: Apache-2.0
"""Without the program these tests are skipped with that reason."""

import json
import os

import program
import pytest


def pytest_collection_modifyitems(items):
    if not os.path.exists(program.PROGRAM):
        skip = pytest.mark.skip(reason="VMOBA_PROGRAM does not name the program vmoba")
        for item in items:
            if "tests/tools" in item.path.as_posix():
                item.add_marker(skip)


@pytest.fixture
def vmoba():
    """Runs the program: vmoba("explain", "--grid", "1,2,3") -> CompletedProcess with text."""
    return program.run


@pytest.fixture
def refused():
    """Runs the program, expects this exit code, nothing on stdout, and one line on stderr that holds these words."""

    def run(code, words, *arguments):
        result = program.run(*arguments)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        assert result.stdout == ""
        program.one_line(result, *words)

    return run


@pytest.fixture
def told():
    """Runs the program with --json, expects exit code 0 and one JSON document on stdout."""

    def run(*arguments):
        result = program.run(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture
def clip(tmp_path):
    """A video file: the first of VMOBA_CLIPS, else 20 frames of a moving square."""
    folder = os.environ.get("VMOBA_CLIPS", "")
    real = sorted(name for name in os.listdir(folder) if name.endswith((".webm", ".mp4"))) if os.path.isdir(folder) else []
    if real:
        return os.path.join(folder, real[0])
    import cv2
    import numpy as np

    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 16, (96, 64))
    for frame in range(20):
        image = np.full((64, 96, 3), 60, np.uint8)
        image[20:40, 2 * frame : 2 * frame + 20] = (200, 120, 30)
        writer.write(image)
    writer.release()
    return path
