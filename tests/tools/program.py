# SPDX-License-Identifier: Apache-2.0
"""The program under test, which VMOBA_PROGRAM names, and a run small enough for tests."""

import os
import subprocess

PROGRAM = os.environ.get("VMOBA_PROGRAM", "")


def small(crop="3,5,7", batch=1, validate_every=4, policy="sparse"):
    """Options of train: a step takes some ten milliseconds; sparse uses blocks of all three kinds, and
    says so by number: clips this small would be trained dense if the program were left to choose."""
    policies = {"dense": "--policy dense", "sparse": "--cycle 2,f,f;f,2,3;2,2,3 --policy threshold:0.4 --min-tokens 0"}
    return (
        "--layers 3 --heads 2 --head-dim 24 --ffn 64 --text-dim 16 --text-length 24 --rendered-clips 4 --held-out 0.25 "
        f"--height 64 --width 96 --crop {crop} --batch {batch} --threads 1 --validation-samples 2 "
        f"--validate-every {validate_every} --log-every 1 --dense-path sdpa {policies[policy]}"
    ).split()


def run(*arguments, **options):
    """vmoba with these arguments; options are those of subprocess.run."""
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([PROGRAM, *map(str, arguments)], **options)


def one_line(result, *words):
    """What the program says when it refuses: one line on stderr that holds these words."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vmoba: "), lines[0]
    for word in words:
        assert word in lines[0], lines[0]
