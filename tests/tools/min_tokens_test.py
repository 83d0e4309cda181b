# SPDX-License-Identifier: Apache-2.0
"""min_tokens auto: the cost model makes layers dense in train and sample, as explain says, and a run keeps what was decided."""

import json

import pytest
from program import one_line, run, small

BLOCKS = ["2,f,f", "f,2,3", "2,2,3"]  # of layers 0, 1, 2
CROPS = ["2,3,3", "6,10,14"]  # 18 tokens, too few for any machine; 840


def costs(folder, visit):
    """A cost file under which pairs are cheap and visits of a query at a tile of keys cost this much."""
    parts = {"dense": "flop pair token call", "sparse": "flop pair visit token call"}
    names = [f"{part}.{way}.{name}" for part, all in parts.items() for way in ("forward", "backward") for name in all.split()]
    names += [f"select.{name}" for name in "flop pair.head pair.query pair.block pair.all token call".split()]
    values = {name: 1e-11 if name.endswith("flop") and name.startswith(("dense", "sparse")) else 0 for name in names}
    values |= {"sparse.forward.visit": visit, "sparse.backward.visit": visit}
    path = folder / f"costs-{visit:g}.txt"
    path.write_text("vmoba-cost 1\nbackend cpu:generic\n" + "".join(f"{name} {value:g}\n" for name, value in values.items()))
    return path


def options(crop, *more):
    words = small(crop)
    for option, value in (("--min-tokens", None), ("--height", "80"), ("--width", "112")):
        at = words.index(option)
        words[at : at + 2] = [] if value is None else [option, value]
    return [*words, *map(str, more)]


def layers_dense_by_explain(told, grid, use, *more):
    predicted = [told("explain", "--grid", grid, "--block", block, "--policy", "threshold:0.4", "--heads", 2, "--dim", 24,
                      "--threads", 1, *more)[use]["quicker"] for block in BLOCKS]  # fmt: skip
    return [layer for layer, quicker in enumerate(predicted) if quicker == "dense"]


def plan_of(out):
    return json.loads((out / "run.json").read_text())["options"]["plan"]


def dense_in_metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    (densities,) = {tuple(density == 1 for density in line["density"]) for line in lines if "density" in line}
    return [layer for layer, dense in enumerate(densities) if dense]


# Visits cost nothing: sparse wherever it may be; something: small blocks do not pay; a lot: nothing does.
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("visit, dense", [(None, None), (0, []), (2e-7, [1, 2]), (1e-6, [0, 1, 2])])
def test_train_decides_as_explain_predicts(told, tmp_path, crop, visit, dense):
    more = [] if visit is None else ["--cost", costs(tmp_path, visit)]
    expected = layers_dense_by_explain(told, crop, "training", *more)
    if crop == CROPS[1] and dense is not None:
        assert expected == dense  # the costs above do what they say
    if crop == CROPS[0] and visit is None:
        assert expected == [0, 1, 2]
    out = tmp_path / "run"
    result = run("train", "--out", out, "--steps", 2, *options(crop, *more))
    assert result.returncode == 0, result.stderr
    schedule = plan_of(out)["schedule"]
    assert schedule["dense_layers"] == expected and schedule["min_tokens"] == 0  # decided once, kept with the run
    assert dense_in_metrics(out) == expected
    words = f"dense in layers {', '.join(map(str, expected))}: at " if expected else "dense in layers"
    assert (words in result.stdout) == bool(expected), result.stdout


def test_resume_keeps_the_decision(told, tmp_path):
    out = tmp_path / "run"
    mixed = ["--cost", costs(tmp_path, 2e-7)]
    assert run("train", "--out", out, "--steps", 6, "--stop-after", 2, *options(CROPS[1], *mixed)).returncode == 0
    before = plan_of(out)
    assert before["schedule"]["dense_layers"] == [1, 2]
    # Alone, and with costs that would decide otherwise: what was decided stays.
    for more in ([], ["--min-tokens", "auto"], ["--cost", costs(tmp_path, 0)]):
        again = [] if not more else [*more, "--cycle", ";".join(BLOCKS), "--policy", "threshold:0.4", "--dense-path", "sdpa"]
        result = run("train", "--out", out, "--resume", "--stop-after", 1, *again)
        assert result.returncode == 0, (more, result.stderr)
        assert plan_of(out) == before and dense_in_metrics(out) == [1, 2]
    # Another decision is another run.
    result = run("train", "--out", out, "--resume", "--min-tokens", 0, "--cycle", ";".join(BLOCKS), "--policy", "threshold:0.4")
    assert result.returncode == 2
    one_line(result, "plan", "differs")


def test_dense_layers_on_resume_are_not_passed_over(tmp_path):
    out = tmp_path / "run"
    rest = ["--cost", costs(tmp_path, 2e-7)]  # makes layers 1 and 2 dense
    assert run("train", "--out", out, "--steps", 6, "--stop-after", 2, *options(CROPS[1], *rest, "--dense-layers", 1)).returncode == 0
    before = plan_of(out)
    assert before["schedule"]["dense_layers"] == [1, 2]
    plan = ["--cycle", ";".join(BLOCKS), "--policy", "threshold:0.4", "--dense-path", "sdpa"]
    # What the run has: the words it began with, and all the layers that came of them.
    for layers in ("1", "1,2"):
        result = run("train", "--out", out, "--resume", "--stop-after", 1, *plan, *rest, "--dense-layers", layers)
        assert result.returncode == 0, result.stderr
        assert plan_of(out) == before and dense_in_metrics(out) == [1, 2]
    # What it has not, whether min_tokens is left out or auto.
    for more in ([], ["--min-tokens", "auto"]):
        result = run("train", "--out", out, "--resume", *plan, *more, "--dense-layers", "0,1")
        assert result.returncode == 2
        one_line(result, "dense-layers = [0,1]", "[1,2]", "leave it out")
    assert plan_of(out) == before


@pytest.fixture(scope="module")
def sparse_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("auto") / "run"
    result = run("train", "--out", out, "--steps", 1, *options(CROPS[1], "--min-tokens", 0))
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.parametrize("spelled", [["--min-tokens", "auto"], ["--schedule", "min_tokens=auto"]], ids=["option", "schedule"])
@pytest.mark.parametrize("frames, grid", [(5, "2,10,14"), (21, "6,10,14")])
def test_sample_decides_at_its_own_size(told, sparse_run, tmp_path, spelled, frames, grid):
    sampled = ["sample", "--checkpoint", sparse_run, "--steps", 4, "--guidance", 1, "--threads", 1, "--frames", frames,
               "--latents", tmp_path / "latents.safetensors", *spelled]  # fmt: skip
    for visit in (1e-7, 1e-6, None):
        more = [] if visit is None else ["--cost", costs(tmp_path, visit)]
        expected = layers_dense_by_explain(told, grid, "forward", *more)
        steps = told(*sampled, *more)["sample"]["steps"]
        assert steps[0]["density"] == [1, 1, 1]  # the first quarter is dense whatever it costs
        for step in steps[1:]:
            assert [layer for layer, density in enumerate(step["density"]) if density == 1] == expected, (visit, step)


@pytest.mark.parametrize("value", ["-1", "Auto", "1.5", "", "99999999999999999999"])
def test_bad_values_are_one_sentence(sparse_run, tmp_path, value):
    result = run("train", "--out", tmp_path / "run", "--steps", 1, *options(CROPS[0]), f"--min-tokens={value}")
    assert result.returncode == 2
    one_line(result, "--min-tokens")
    assert not (tmp_path / "run").exists()
    result = run("sample", "--checkpoint", sparse_run, "--latents", tmp_path / "x.safetensors", f"--schedule=min_tokens={value}")
    assert result.returncode == 2
    one_line(result, "--schedule")


def test_costs_without_effect_or_sense_are_refused(tmp_path):
    cheap, broken = costs(tmp_path, 0), tmp_path / "broken.txt"
    for words, more in ([(["--cost", "no effect"], ["--cost", cheap, "--min-tokens", 0]),
                         (["none.txt"], ["--cost", tmp_path / "none.txt"]), (["broken.txt"], ["--cost", broken])]):  # fmt: skip
        for text in (b"", b"vmoba-cost 2\n", b"\xff\xfe\x00", cheap.read_bytes()[:-40], cheap.read_bytes().replace(b"e-11", b"e999"),
                     cheap.read_bytes().replace(b"1e-11", b"nan"), b"[" * 60000, b"x" * 100000):  # fmt: skip
            broken.write_bytes(text)
            result = run("train", "--out", tmp_path / "run", "--steps", 1, *options(CROPS[0], *more))
            assert result.returncode == (2 if "no effect" in words else 3), result.stderr
            one_line(result, *words)
            if words != ["broken.txt"]:
                break
    assert not (tmp_path / "run").exists()
