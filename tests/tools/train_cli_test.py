# SPDX-License-Identifier: Apache-2.0
"""The verbs train and sample: a run of seconds, interrupted, continued, sampled; exit codes and messages."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from program import PROGRAM, one_line, small
from program import run as vmoba

SMALL = small()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "run"
    result = vmoba("train", "--out", out, "--steps", 6, "--ema", 0.9, *SMALL)
    assert result.returncode == 0, result.stderr
    return out, result


def metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "validation_loss" in line]


def test_train_reports_in_plain_lines_and_leaves_its_files(run):
    out, result = run
    assert "step 6/6" in result.stdout
    assert "validation loss" in result.stdout
    assert "\r" not in result.stdout and "\033" not in result.stdout + result.stderr
    steps, validations = metrics(out)
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in validations] == [0, 4, 6]
    assert all(len(line["density"]) == 3 for line in steps)
    options = json.loads((out / "run.json").read_text())["options"]
    assert options["layers"] == 3 and options["crop"] == [3, 5, 7] and options["plan"]["dense"] is False


def test_stop_after_and_resume_are_one_run(run, tmp_path):
    whole, _ = run
    out = tmp_path / "run"
    assert vmoba("train", "--out", out, "--steps", 6, "--ema", 0.9, "--stop-after", 3, *SMALL).returncode == 0
    # What is left out stays as it was: only the folder is named.
    result = vmoba("train", "--out", out, "--resume")
    assert result.returncode == 0, result.stderr
    a, b = metrics(whole)[0], metrics(out)[0]
    assert [line["loss"] for line in a] == [line["loss"] for line in b]
    name = "checkpoints/step-00000006/diffusion_pytorch_model.safetensors"
    assert (whole / name).read_bytes() == (out / name).read_bytes()


def test_resume_refuses_another_run(run):
    out, _ = run
    result = vmoba("train", "--out", out, "--resume", "--lr", 0.5)
    assert result.returncode == 2
    one_line(result, "lr", "0.5", "0.001")
    result = vmoba("train", "--out", out, "--resume", "--policy", "dense")
    assert result.returncode == 2
    one_line(result, "plan")


def test_an_existing_run_is_not_overwritten(run):
    out, _ = run
    result = vmoba("train", "--out", out, *SMALL)
    assert result.returncode == 2
    one_line(result, "--resume")


def test_interrupt_saves_and_exits_130(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen([PROGRAM, "train", "--out", str(out), "--steps", "100000", *SMALL],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while time.time() < deadline and not re.search(r'"step":[3-9]', (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else ""):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume" in stdout
    saved = sorted((out / "checkpoints").iterdir())
    assert len(saved) == 1 and (saved[0] / "state.json").exists()
    step = json.loads((saved[0] / "state.json").read_text())["step"]
    assert metrics(out)[0][-1]["step"] == step
    result = vmoba("train", "--out", out, "--resume", "--stop-after", 2, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == step + 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--crop", "3,5"], ["crop"]),
        (["--crop", "0,5,7"], ["crop"]),
        (["--patch", "1,2,2"], ["crop", "patch"]),
        (["--policy", "nonsense"], ["--policy", "nonsense", "threshold"]),
        (["--policy", "threshold:-1"], ["-1"]),
        (["--cycle", "3,f"], ["--cycle"]),
        (["--policy", "dense"], ["--cycle", "dense"]),
        (["--dense-path", "fast"], ["--dense-path", "fast", "sdpa"]),
        (["--dense-layers", "x"], ["--dense-layers", "x"]),
        (["--lr", "0"], ["lr"]),
        (["--lr", "much"], ["lr"]),
        (["--steps", "0"], ["steps"]),
        (["--head-dim", "12"], ["head-dim", "12", "multiple of 8"]),
        (["--times", "never"], ["times"]),
        (["--sequence-parallel", "2"], ["sequence-parallel", "torchrun"]),
        (["--unknown-option"], ["--unknown-option"]),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(tmp_path, arguments, words):
    small = list(SMALL)
    for option in arguments[::2]:
        if option in small:
            at = small.index(option)
            del small[at : at + 2]
    result = vmoba("train", "--out", tmp_path / "run", *small, *arguments)
    assert result.returncode == 2, (result.returncode, result.stderr)
    one_line(result, *words)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_train_needs_out():
    assert vmoba("train").returncode == 2


def test_bad_files_are_3(tmp_path, run):
    out, _ = run
    result = vmoba("train", "--out", tmp_path / "a", "--data", tmp_path / "missing", *SMALL)
    assert result.returncode == 3
    one_line(result, "missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "broken.mp4").write_bytes(b"not a video")
    result = vmoba("train", "--out", tmp_path / "b", "--data", tmp_path / "empty", *SMALL)
    assert result.returncode == 3
    (tmp_path / "file").write_text("x")
    assert vmoba("train", "--out", tmp_path / "file", *SMALL).returncode == 3
    assert vmoba("train", "--out", tmp_path / "c", "--resume").returncode == 3
    assert vmoba("train", "--out", tmp_path / "d", "--init", tmp_path / "missing", *SMALL).returncode == 3
    for arguments in (["--checkpoint", tmp_path / "missing"], ["--checkpoint", out, "--prompts", tmp_path / "missing"],
                      ["--checkpoint", out, "--embedding", tmp_path / "missing"]):
        result = vmoba("sample", "--out", tmp_path / "clip.mp4", *arguments)
        assert result.returncode == 3, result.stderr
        one_line(result)
        assert not (tmp_path / "clip.mp4").exists()


def test_sample_compares_dense_and_sparse(run, tmp_path):
    out, _ = run
    clip = tmp_path / "clip.mp4"
    result = vmoba("sample", "--checkpoint", out, "--prompt", "a red disc", "--out", clip, "--steps", 4, "--compare", "--json",
                   "--threads", 1, "--latents", tmp_path / "latents.safetensors")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads((tmp_path / "clip.json").read_text()) == report
    densities = [sum(step["density"]) / len(step["density"]) for step in report["sample"]["steps"]]
    assert densities[0] == 1 and all(density < 0.9 for density in densities[1:])  # the first quarter is dense
    assert all(step["dense"] for step in report["dense"]["steps"])
    entry = report["clips"][0]
    assert 5 < entry["psnr"] and 0 < entry["ssim"] <= 1
    for key in ("file", "dense_file", "sparse_file"):
        assert os.path.getsize(entry[key]) > 500
    import safetensors.torch

    latents = safetensors.torch.load_file(tmp_path / "latents.safetensors")
    assert tuple(latents["latents.0"].shape) == (16, 3, 5, 7)
    # A run again gives the same latents.
    vmoba("sample", "--checkpoint", out, "--prompt", "a red disc", "--steps", 4, "--threads", 1,
          "--latents", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "latents.safetensors").read_bytes()


@pytest.mark.parametrize("more", [[], ["--compare"]])
def test_what_sample_prints_fits_a_terminal(run, tmp_path, more):
    out, _ = run
    result = vmoba("sample", "--checkpoint", out, "--prompt", "a red disc " * 20, "--steps", 1, "--threads", 1, "--out", "a-red-disc-or-two.mp4",
                   *more, cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "a red disc" in result.stdout and max(map(len, result.stdout.splitlines())) <= 80


def test_sample_takes_prompts_from_a_file_and_other_sizes(run, tmp_path):
    out, _ = run
    (tmp_path / "prompts.txt").write_text("one\n# left out\ntwo\n")
    result = vmoba("sample", "--checkpoint", out, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "clip.webm",
                   "--steps", 2, "--threads", 1, "--batch", 2, "--frames", 5, "--height", 48, "--width", 64, "--ema")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "clip-1.webm").exists() and (tmp_path / "clip-2.webm").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--out"]),
        (["--out", "x.mp4", "--steps", "0"], ["steps"]),
        (["--out", "x.mp4", "--frames", "6"], ["6"]),
        (["--out", "x.mp4", "--policy", "dense", "--compare"], ["--compare"]),
        (["--out", "x.mp4", "--schedule", "first=3"], ["--schedule", "first", "dense_steps"]),
        (["--out", "x.mp4", "--batch", "0"], ["--batch"]),
        (["--out", "x.mp4", "--shift", "-3"], ["shift"]),
        (["--out", "x.mp4", "--times", "never"], ["--times"]),
        (["--out", "x.unknown", "--steps", "1"], ["x.unknown"]),
    ],
)
def test_sample_wrong_usage(run, tmp_path, arguments, words):
    out, _ = run
    result = vmoba("sample", "--checkpoint", out, "--threads", 1, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    one_line(result, *words)
    assert list(tmp_path.iterdir()) == []
