# SPDX-License-Identifier: Apache-2.0
"""bench --suite sweeps: its points, its JSON, the pictures drawn from it, and what both refuse."""

import copy
import json
import sys
from types import SimpleNamespace

import pytest
from program import run

SWEEPS = ["tokens", "density", "blocks", "dtypes"]
FIGURES = [*SWEEPS, "memory", "roofline"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A quick run's file, written into a folder."""
    folder = tmp_path_factory.mktemp("sweeps") / "results"
    result = run("bench", "--suite", "sweeps", "--quick", "--repeats", 2, "--no-flex", "--out", f"{folder}/")
    assert result.returncode == 0, result.stderr
    (file,) = folder.iterdir()
    assert f"{file} written" in result.stdout
    for sweep in SWEEPS:
        assert f"\nover {sweep}\n" in result.stdout
    return file


@pytest.fixture(scope="module")
def results(kept):
    return json.loads(kept.read_text())


def sparse_rows(case, direction="forward"):
    return [row for row in case["rows"] if row["contender"] == "vmoba-sparse" and row["direction"] == direction]


def test_the_file_names_machine_and_commit(kept, results):
    assert results["format"] == "vmoba-bench-1" and results["suite"] == "sweeps" and results["quick"] is True
    assert results["machine"]["commit"] in kept.name and f"-{results['machine']['cores']}-cores-" in kept.name
    assert kept.name.endswith("-sweeps-quick.json")
    assert results["peak_tier"] in [peak["tier"] for peak in results["peaks"]]
    assert 0 < results["steadiness"]["multiply_adds"] <= 1
    assert 0 < results["steadiness"]["loads"] <= 1
    assert results["bandwidth"]["bytes_per_second"] > 1e8 and results["bandwidth"]["buffer_bytes"] >= 1 << 26
    assert results["flex_attention"] == {"skipped": "switched off by --no-flex"}


def test_sweeps_vary_what_they_say(results):
    cases = results["cases"]
    assert list(dict.fromkeys(case["sweep"] for case in cases)) == SWEEPS

    def of(sweep, **wanted):
        return [case for case in cases if case["sweep"] == sweep and all(case[key] == value for key, value in wanted.items())]

    tokens = of("tokens", data="smooth")
    assert len({case["tokens"] for case in tokens}) == len(tokens) == 3
    assert {case["data"] for case in of("tokens")} == {"smooth", "random"}
    assert len(results["memory"]) == len(tokens)
    assert [[row["layer"] for row in sparse_rows(case)] for case in tokens] == 3 * [["1D", "2D", "3D"]]
    for case in of("density"):
        asked = {float(row["layer"].split()[1]): row["density"] for row in sparse_rows(case) if not row["layer"].endswith("policy")}
        assert asked[1.0] == 1 and len(sparse_rows(case)) == len(asked) + 1
        for wanted, density in asked.items():  # 512 tokens in few blocks: densities come in large steps
            assert density == pytest.approx(wanted, abs=0.1)
    for case in of("blocks"):
        assert [row["blocks"] for row in sparse_rows(case)] == [7, 31]  # 520 tokens in runs of 75 and 17
        for row in sparse_rows(case):
            assert row["density"] == pytest.approx(0.2, abs=0.1)
    shapes = {(case["dim"], case["dtype"], case["data"]) for case in of("dtypes")}
    assert shapes == {(d, t, k) for d in (32, 64) for t in ("f32", "bf16", "f16") for k in ("smooth", "random", "rendered")}


def test_rows_count_what_they_move(results):
    left_out = {(one["dtype"], one["direction"]) for one in results["torch_left_out"]}
    for number, case in enumerate(results["cases"]):
        one_tensor = case["tokens"] * case["heads"] * case["dim"]
        for row in case["rows"]:
            size = {"f32": 4, "bf16": 2, "f16": 2}[row["dtype"]]
            assert row["bytes"] == {"forward": 4, "forward+backward": 12, "select": 2}[row["direction"]] * one_tensor * size
            if row["direction"] != "select":
                pairs = case["tokens"] ** 2 * case["heads"] * row["density"]
                assert row["flops"] == pytest.approx(pairs * case["dim"] * {"forward": 4, "forward+backward": 14}[row["direction"]])
        torch = {(row["dtype"], row["direction"]) for row in case["rows"] if row["contender"] == "torch-sdpa"}
        directions = {row["direction"] for row in case["rows"]} - {"select"}
        every = {(dtype, direction) for dtype in ("f32", "bf16") for direction in directions}
        assert torch == (every if number == 0 else every - left_out)  # the first case is where the hopeless ones show
        assert set(case["torch_best"]) == directions


@pytest.fixture
def drawing(monkeypatch, capsys):
    """What `python -m vmoba.report.sweeps` does with these arguments, without the seconds that a process takes to import torch."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("vmoba")
    from vmoba.report import sweeps

    def draw(*arguments):
        monkeypatch.setattr(sys, "argv", ["vmoba.report.sweeps", *map(str, arguments)])
        capsys.readouterr()
        code = sweeps.main()
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    return draw


def test_plots(drawing, kept, results, tmp_path):
    with_flex = copy.deepcopy(results)
    run = {"selection": "tiles of 128 x 128", "density": 0.25, "seconds": 0.2, "sdpa_seconds": 0.4, "vmoba_seconds": 0.1}
    with_flex["flex_attention"] = {"runs": [run]}
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(with_flex))
    result = drawing(file)
    assert result.returncode == 0, result.err
    names = [tmp_path / f"kept-{name}.svg" for name in FIGURES]
    assert result.out == "".join(f"{name} written\n" for name in names)
    first = [name.read_bytes() for name in names]
    for picture in first:
        assert picture.startswith(b"<?xml") and b"</svg>" in picture
    assert drawing(file).returncode == 0
    assert [name.read_bytes() for name in names] == first  # the same file, the same bytes
    assert drawing(kept, "--out", tmp_path, "--format", "png").returncode == 0
    assert (tmp_path / f"{kept.stem}-roofline.png").read_bytes().startswith(b"\x89PNG")


def without(key):
    def change(data):
        where = data
        *path, last = key.split(".")
        for part in path:
            where = where[int(part) if part.isdigit() else part]
        del where[last]

    return change


@pytest.mark.parametrize(
    "word, change",
    [
        ("'cases'", without("cases")),
        ("'bandwidth'", without("bandwidth")),
        ("'tokens'", without("cases.0.tokens")),
        ("'bytes'", without("cases.2.rows.1.bytes")),
        ("'median'", without("cases.2.rows.1.seconds.median")),
        ("'select_bytes'", without("memory.0.select_bytes")),
        ("format", lambda data: data.update(format="vmoba-bench-0")),
        ("suite", lambda data: data.update(suite="issue")),
        ("no peak of its tier", lambda data: data.update(peak_tier="pentium")),
        ("no run writes", lambda data: data["cases"][0]["rows"][0].update(density="much")),
        ("no run writes", lambda data: data["cases"][0]["rows"][0]["seconds"].update(median=0)),
        ("no run writes", lambda data: data.update(cases=7)),
        ("no run writes", lambda data: data.update(cases=[])),
    ],
)
def test_plots_refuse(drawing, results, tmp_path, word, change):
    changed = copy.deepcopy(results)
    change(changed)
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed))
    refusal(drawing(file), "changed.json", word, "vmoba bench --suite sweeps")
    assert list(tmp_path.iterdir()) == [file]


def test_plots_refuse_other_files(drawing, tmp_path):
    refusal(drawing(tmp_path / "none.json"), "none.json")
    for text in ("{ not json", "[1, 2]", "7", "{}", "[" * 100000):
        file = tmp_path / "other.json"
        file.write_text(text)
        refusal(drawing(file), "other.json")
    file.write_bytes(b"\xff\xfe\x00")
    refusal(drawing(file), "other.json")


def refusal(result, *words):
    assert result.returncode == 3, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("vmoba: ")
    for word in words:
        assert word in line, line


def test_program_draws(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("vmoba")
    out = tmp_path / "x.json"
    result = run("bench", "--suite", "sweeps", "--quick", "--repeats", 1, "--no-flex", "--data", "smooth", "--out", out, "--plots", "--python",
                 sys.executable)  # fmt: skip
    assert result.returncode == 0, result.stderr
    for name in FIGURES:
        assert f"{tmp_path / f'x-{name}.svg'} written" in result.stdout
        assert (tmp_path / f"x-{name}.svg").is_file()


def test_plots_need_a_file_of_their_own(refused, tmp_path):
    arguments = ["bench", "--suite", "sweeps", "--quick", "--no-flex", "--plots"]
    refused(2, ["--plots", "--out"], *arguments)
    refused(2, ["--plots", "--json"], *arguments, "--out", tmp_path / "x.json", "--json")


@pytest.mark.parametrize(
    "words, arguments",
    [
        (["--tokens", "--suite sweeps"], ["--suite", "sweeps", "--tokens", 64]),
        (["--density", "--suite sweeps"], ["--suite", "sweeps", "--density", 0.5]),
        (["--preset", "more than one"], ["--suite", "sweeps", "--preset", "paper-93x576x1024,paper-81x480x832"]),
        (["--only"], ["--suite", "sweeps", "--only", "tokens"]),
        (["--plots"], ["--plots", "--out", "x.json"]),
        (["--data", "zeros"], ["--suite", "sweeps", "--data", "zeros"]),
    ],
)
def test_sweeps_refuse(refused, words, arguments):
    refused(2, words, "bench", *arguments)
