# SPDX-License-Identifier: Apache-2.0
"""A run of seconds through train, sample, analyze and report: what the demo does, small."""

import json
import os
import sys

import pytest
from program import run, small

pytest.importorskip("matplotlib")
pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    for name in ("dense", "sparse"):
        result = run("train", "--out", folder / name, "--steps", 8, *small(policy=name))
        assert result.returncode == 0, result.stderr
    return folder


def test_analyze_writes_pictures_and_figures(vmoba, runs):
    out = runs / "analysis"
    result = vmoba("analyze", "--checkpoint", runs / "sparse", "--out", out, "--queries", 40)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if str(runs) not in line]
    assert len(told) > 10 and max(map(len, told)) <= 80
    figures = json.loads((out / "analysis.json").read_text())
    assert figures["tokens"] == 3 * 5 * 7
    assert len(figures["layers"]) == 3
    for layer in figures["layers"]:
        assert len(layer["heads"]) == 2
        assert len(layer["selection"]["density"]) == 2
        for head in layer["heads"]:
            assert all(0 <= mass <= 1.0001 for mass in head["mass_1d_2d_3d"])
            assert 0.24 < head["top_quarter_mean"] <= 1.0001
            assert 0 < head["half_pairs"] <= head["all_pairs"] / 2 + 105
    for name in ("neighbourhoods.png", "top_quarter.png", "half_pairs.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    from safetensors.numpy import load_file

    tensors = load_file(out / "selections.safetensors")
    assert tensors["layer0"].shape == (3, 3, 5, 7)
    t, y, x = tensors["queries"][0] // 35, tensors["queries"][0] // 7 % 5, tensors["queries"][0] % 7
    for layer in range(3):  # every head selects the block the query lies in
        assert tensors[f"layer{layer}"][0, t, y, x] == pytest.approx(1)
    assert tensors["frames"].shape == (3, 40, 56, 3)


def test_report_is_one_page(vmoba, runs):
    if vmoba("report", "--help").returncode != 0 or not _has_package():
        pytest.skip("the package vmoba is not importable here")
    for name in ("dense", "sparse"):
        result = vmoba("sample", "--checkpoint", runs / name, "--prompt", "a disc", "--steps", 2, "--out", runs / f"{name}.mp4")
        assert result.returncode == 0, result.stderr
    out = runs / "page" / "report.html"
    arguments = ["report", f"dense={runs / 'dense'}", f"sparse={runs / 'sparse'}", "--out", out, "--python", sys.executable, "--title=-both-"]
    arguments += ["--clip", f"dense={runs / 'dense.mp4'}", "--clip", f"sparse={runs / 'sparse.mp4'}"]
    if (runs / "analysis").is_dir():
        arguments += ["--analysis", f"sparse={runs / 'analysis'}"]
    result = vmoba(*arguments)
    assert result.returncode == 0, result.stderr
    page = out.read_text()
    assert "data:video/mp4;base64," in page and "data:image/png;base64," in page
    assert "<title>-both-</title>" in page
    assert "http://" not in page and "https://" not in page
    report = json.loads((out.parent / "report.json").read_text())
    assert [run["name"] for run in report["runs"]] == ["dense", "sparse"]
    assert report["machine"]["commit"]
    assert report["clips"]["dense"]["frame_difference"] > 0
    assert report["pairs"][0]["psnr"] > 0


def test_report_refuses_a_broken_clip(refused, runs):
    if not _has_package():
        pytest.skip("the package vmoba is not importable here")
    broken = runs / "broken.mp4"
    broken.write_bytes(os.urandom(2000))
    refused(3, ["broken.mp4"], "report", runs / "dense", "--clip", f"a={broken}", "--python", sys.executable, "--out", runs / "x.html")


def _has_package():
    try:
        import vmoba  # noqa: F401
    except ImportError:
        return False
    return True
