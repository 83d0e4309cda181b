# SPDX-License-Identifier: Apache-2.0
"""torchrun --no-python --nproc-per-node 2 vmoba train: two Gloo processes train as one does, and stop when they are told to."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import PROGRAM, one_line, run, small

TORCHRUN = Path(sys.executable).parent / "torchrun"
pytestmark = pytest.mark.skipif(not TORCHRUN.exists(), reason="torchrun is not beside this Python")

# 84 tokens: two ranks share a sample evenly. Batch 2: they also divide a step.
SMALL = small(crop="3,4,7", batch=2, validate_every=2)


def start(*arguments, threads="1"):
    # --standalone: a free port of its own, so that tests can run beside each other.
    command = [str(TORCHRUN), "--standalone", "--no-python", "--nproc-per-node", "2", PROGRAM, "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}  # 1 is what torchrun would set, with a warning
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(out, key):
    written = out / "metrics.jsonl"
    rows = written.read_text().split("\n")[:-1] if written.exists() else []  # what follows the last newline is not yet whole
    return [row for row in map(json.loads, rows) if key in row]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "one"
    command = [PROGRAM, "train", "--out", str(out), "--steps", "4", *SMALL]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return out


@pytest.mark.parametrize("sequence_parallel", [1, 2], ids=["data", "ulysses"])
def test_two_processes_train_as_one(alone, tmp_path, sequence_parallel):
    out = tmp_path / "two"
    process = start("--out", out, "--steps", 4, "--sequence-parallel", sequence_parallel, *SMALL)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.count("step 4/4") == 1 and stdout.count("look at ") == 1, stdout  # rank 0 alone speaks
    for key, tolerance in [("loss", 2e-6), ("gradient_norm", 2e-5), ("validation_loss", 1e-5)]:
        one, two = ([row[key] for row in lines(folder, key)] for folder in (alone, out))
        assert len(one) == (3 if key == "validation_loss" else 4)
        assert two == pytest.approx(one, rel=tolerance), key
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000004"]


def without_threads(words):
    at = words.index("--threads")
    return words[:at] + words[at + 2 :]


def threads_of(out):
    return json.loads((out / "run.json").read_text())["threads"]


def test_two_processes_share_the_cores(tmp_path):
    out = tmp_path / "run"
    process = start("--out", out, "--steps", 1, *without_threads(SMALL), threads="3")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert threads_of(out) == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize("beside, share", [(None, 1), ("1", 1), ("2", 2), ("1000000", 1000000)])
def test_a_process_takes_its_share_of_the_cores(tmp_path, beside, share):
    environment = {**os.environ, "OMP_NUM_THREADS": "3"} | ({} if beside is None else {"LOCAL_WORLD_SIZE": beside})
    result = run("train", "--out", tmp_path / "run", "--steps", 1, *without_threads(SMALL), env=environment)
    assert result.returncode == 0, result.stderr
    assert threads_of(tmp_path / "run") == max(1, len(os.sched_getaffinity(0)) // share)
    # A number that is asked for stays.
    result = run("train", "--out", tmp_path / "asked", "--steps", 1, *SMALL, env=environment)
    assert result.returncode == 0 and threads_of(tmp_path / "asked") == 1


@pytest.mark.parametrize("beside", ["0", "-1", "two", "2.5"])
def test_what_is_no_number_of_processes_is_refused(tmp_path, beside):
    result = run("train", "--out", tmp_path / "run", *without_threads(SMALL), env={**os.environ, "LOCAL_WORLD_SIZE": beside})
    assert result.returncode == 2
    one_line(result, "LOCAL_WORLD_SIZE", beside)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_saves_the_run(tmp_path, sent):
    out = tmp_path / "run"
    process = start("--out", out, "--steps", 100000, *SMALL)
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None and len(lines(out, "loss")) < 3:
        time.sleep(0.05)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    (step,) = re.findall(r"interrupted after step (\d+); continue with: vmoba train --out \S+ --resume", stdout)
    assert lines(out, "loss")[-1]["step"] == int(step), stderr
    process = start("--out", out, "--resume", "--stop-after", 2)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert f"trained {int(step) + 2} of 100000 steps" in stdout


def test_what_two_processes_cannot_share_is_refused(tmp_path):
    odd = ["3,5,7" if word == "3,4,7" else word for word in SMALL]
    process = start("--out", tmp_path / "run", "--sequence-parallel", 2, *odd)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    said = [line for line in stderr.splitlines() if line.startswith("vmoba: ")]
    assert said and all("sequence-parallel" in line and "105 tokens" in line for line in said), stderr
