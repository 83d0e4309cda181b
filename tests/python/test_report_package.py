# SPDX-License-Identifier: Apache-2.0
"""The report: what it says of whole, poor and broken runs; the page itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("matplotlib")
report = pytest.importorskip("vmoba.report")
runs = pytest.importorskip("vmoba.report.runs")
program = pytest.importorskip("vmoba.report.__main__")

DEEP = "[" * 100_000 + "]" * 100_000
CYCLE = [{"block": [3, None, None], "policy": {"name": "threshold", "amount": 0.25}}, {"block": {"run": 64}, "policy": {"name": "topk", "amount": 2}}]


def make_run(folder, step_seconds=0.5, dense=False, last=1.0, lines=3, validate=True):
    folder.mkdir(parents=True)
    rows = [{"step": 0, "validation_loss": 2.0, "elapsed": 1.0}] if validate else []
    for step in range(1, lines + 1):
        seconds = {"step": step_seconds, "data": 0.01, "forward": 0.4 * step_seconds, "backward": 0.5 * step_seconds, "optimizer": 0.01}
        rows.append({"step": step, "loss": 1.5, "smoothed": 1.6, "seconds": seconds, "density": [1.0 if dense else 0.25] * 3, "waiting": 0.1,
                     "tokens_per_second": 100.0, "peak_memory": 10**9, "elapsed": step * step_seconds})  # fmt: skip
    rows += [{"step": lines, "validation_loss": last, "elapsed": lines * step_seconds}] if validate else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = {"dense": dense, "cycle": [] if dense else CYCLE}
    options = {"layers": 3, "heads": 2, "head-dim": 24, "data": "clips/of mine", "crop": [3, 5, 7], "plan": plan}
    (folder / "run.json").write_text(json.dumps({"tokens": 105, "parameters": 1234567, "options": options}))
    return folder


def clip(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8, (48, 32))
    for frame in range(6):
        image = np.zeros((32, 48, 3), np.uint8)
        image[8:24, 3 * frame : 3 * frame + 16] = 200
        writer.write(image)
    writer.release()
    return path


def run(*arguments):
    """What `python -m vmoba.report` does, here: exit code and stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = program.main(list(map(str, arguments)))
    return code, said.getvalue()


def page_of(tmp_path, *arguments):
    out = tmp_path / "page" / "report.html"
    code, said = run(*arguments, "--out", out)
    assert code == 0, said
    return out.read_text(), json.loads((out.parent / "report.json").read_text())


def refused(*arguments):
    code, said = run(*arguments)
    assert code == 3, (code, said)
    assert said.startswith("vmoba: ") and said.count("\n") == 1, said
    return said


def test_the_first_screen_says_what_losses_speeds_and_shows_the_clips(tmp_path):
    dense, sparse = make_run(tmp_path / "a", 1.0, dense=True, last=1.25), make_run(tmp_path / "b", 0.5, last=1.0)
    page, told = page_of(tmp_path, f"dense={dense}", f"<b>={sparse}", "--clip", clip(tmp_path / "x.mp4"), "--clip", clip(tmp_path / "y.mp4"))
    first = page.split("<h2>Losses</h2>")[0]
    for words in ("1.2 M parameters, 3 layers of 2 heads x 24", "trained on the clips of of mine", "9 frames of 56 x 40 pixels", "105 tokens",
                  "A step of &lt;b&gt; is 2.00x as fast as one of dense", "validation losses end 20.0 % apart", "2.000 to <b>1.250</b>", "2.000 to <b>1.000</b>",
                  "<b>1.00 s</b>", "<b>0.50 s</b>", "dense attention", "VMoBA, blocks 3 x full x full, runs of 64; threshold 0.25, topk 2",
                  "0.250 of all query-key pairs", "data:video/mp4;base64,"):  # fmt: skip
        assert words in first, words
    assert told["speed_up"] == 2 and told["validation_gap"] == pytest.approx(0.2) and "<b>=" not in page
    assert '<meta name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", page))
    videos = re.findall(r"<video [^>]*>", page)
    assert len(videos) == 2 and all('aria-label="' in tag and "autoplay muted" in tag for tag in videos)
    assert not re.search(r"""(src|href)=(?!"data:)|https?://|url\(""", page)  # nothing is fetched


@pytest.mark.parametrize("lines, validate", [(1, False), (1, True), (3, False)])
def test_poor_runs_are_shown(tmp_path, lines, validate):
    page, told = page_of(tmp_path, make_run(tmp_path / "a", lines=lines, validate=validate), make_run(tmp_path / "b", lines=lines, validate=validate))
    assert not re.search(r"\bnan\b|[> ]-( %|x| s)", re.sub(r'<style>.*</style>|"data:[^"]*"', "", page, flags=re.DOTALL))
    assert ("validation losses end" in page) == validate and "A step of b is 1.00x as fast" in page
    assert told["runs"][0]["steps"] == lines and "<h2>Sampled clips" not in page


def test_a_run_of_one_bare_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.5}\n{"step": 2, "lo')
    page, told = page_of(tmp_path, tmp_path / "run")
    assert "Training: run" in page and "1.500 (smoothed)" in page and told["runs"][0]["step_seconds"] is None
    for name in ("time", "density", "losses-time"):
        assert not (tmp_path / "page" / f"{name}.png").exists()


def test_the_bar_of_a_step_says_the_figure_of_the_card(tmp_path, monkeypatch):
    from vmoba.report import plots

    said = []
    monkeypatch.setattr(plots, "save", lambda figure, path: said.extend(text.get_text().strip() for text in figure.axes[0].texts))
    plots.time_split([runs.read_run("a", make_run(tmp_path / "a", 1.0)), runs.read_run("b", make_run(tmp_path / "b", 0.5))], tmp_path / "x.png")
    assert said == ["1.00 s", "0.50 s"]  # the parts of b add up to 0.47


def test_only_what_is_faster_is_praised(tmp_path):
    for name, seconds, praised in (("fast", 0.5, 2), ("slow", 2.0, 0)):
        page, _ = page_of(tmp_path / name, make_run(tmp_path / name / "a", 1.0), make_run(tmp_path / name / "b", seconds))
        assert page.count('class="good"') == praised and f"{1 / seconds:.2f}x as fast</" in page


def test_flicker_is_that_of_the_program(tmp_path):
    from vmoba.report import clips

    random = np.random.default_rng(1)
    frames = np.clip(128 + 6 * random.standard_normal((4, 24, 32, 3)), 0, 255).astype(np.uint8)
    frames[:, :, 16:] += (40 * np.arange(4, dtype=np.uint8))[:, None, None, None] % 80  # this half jumps
    changes = np.diff(clips.luma(frames), axis=0)
    padded = np.pad(changes, ((0, 0), (4, 4), (4, 4)), constant_values=np.nan)
    smooth = np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, (9, 9), (1, 2)), (-2, -1))  # within the frame
    still = np.abs(smooth) < 2
    assert 0.3 < still.mean() < 0.7
    assert clips.motion(frames)["flicker"] == pytest.approx(np.abs(changes)[still].mean())
    jump = np.stack([np.zeros((24, 32, 3), np.uint8), np.full((24, 32, 3), 200, np.uint8)])
    assert np.isnan(clips.motion(jump)["flicker"]) and clips.motion(jump[:1])["flicker"] == 0


def test_names_that_are_the_same_stay_apart(tmp_path):
    _, told = page_of(tmp_path, make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run"), "--clip", clip(tmp_path / "x.mp4"), "--clip", tmp_path / "x.mp4")
    assert [run["name"] for run in told["runs"]] == ["run", "run (2)"] and set(told["clips"]) == {"x", "x (2)"}


HOSTILE_LINES = [
    DEEP, f'{{"step": 1, "loss": {DEEP}}}', f'{{"step": 1, "x": {DEEP}, "loss": 3}}', '{"step": 1', "null", "[1]", "3", '"step"', "", "\x00", "\ufeff{}",
    '{"step": 1e400, "loss": 1}', '{"step": -1, "loss": 1}', '{"step": true, "loss": 1}', '{"step": 1' + "0" * 400 + ', "loss": 1}',
    '{"step": 1' + "0" * 5000 + ', "loss": 1}', '{"step": 5, "loss": NaN}', '{"step": 5, "loss": -Infinity}', '{"step": 5, "loss": 1e400}',
    '{"step": 5, "loss": "1"}', '{"step": 5, "validation_loss": {}}',
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE_LINES)))
def test_a_line_that_is_none_is_passed_over(tmp_path, number):
    folder = make_run(tmp_path / "run")
    whole = runs.read_run("run", folder)
    path = folder / "metrics.jsonl"
    path.write_bytes(HOSTILE_LINES[number].encode() + b"\r\n" + path.read_bytes() + b"\xff\xfe\n")
    assert runs.read_run("run", folder) == whole
    path.write_text(HOSTILE_LINES[number])
    assert "metrics.jsonl holds no metrics" in refused(folder, "--out", tmp_path / "x.html")


@pytest.mark.parametrize(
    "fields",
    ['"seconds": 3, "density": "x"', '"seconds": {"step": "x", "forward": NaN}, "density": [0.5, "x"]', '"density": [1e400], "elapsed": 1e400',
     '"smoothed": null, "waiting": [], "peak_memory": "x", "tokens_per_second": {}', '"seconds": {"step": 0}, "density": []', '"density": [0.5, 0.5, 0.5, 0.5]'],
)  # fmt: skip
def test_odd_fields_beside_good_ones(tmp_path, fields):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 9, "loss": 1.0, {fields}}}\n')
    page, told = page_of(tmp_path, folder, folder)
    assert told["runs"][0]["steps"] == 9 and "<h2>Losses</h2>" in page


@pytest.mark.parametrize("text", [DEEP, f'{{"options": {DEEP}}}', "{", "[]", "3", '{"a": "\udcff"}', ""], ids=range(7))
def test_a_broken_run_json_is_named(tmp_path, text):
    folder = make_run(tmp_path / "run")
    (folder / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "run.json" in refused(folder, "--out", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("about", [{}, {"options": 3}, {"options": {"plan": {"cycle": 3}, "crop": "x", "layers": []}}, {"tokens": "many", "parameters": {}},
                                   {"options": {"plan": {"cycle": [3, {"block": 3, "policy": 3}]}, "data": 3}}], ids=range(5))  # fmt: skip
def test_a_run_json_that_says_other_things_is_shown(tmp_path, about):
    folder = make_run(tmp_path / "run")
    (folder / "run.json").write_text("\ufeff" + json.dumps(about))
    assert "<h2>Losses</h2>" in page_of(tmp_path, folder)[0]


LAYERS = [{"layer": 0, "selection": {"block": "2x2x2", "density": [0.25, 0.5]}}, {"layer": 1}]


def make_analysis(folder, layers=LAYERS, **changed):
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "analysis.json").write_text(layers if isinstance(layers, str) else json.dumps({"layers": layers}))
    tensors = {"layer0": np.full((2, 3, 4, 5), 0.5, np.float32), "frames": np.zeros((3, 32, 40, 3), np.uint8), "queries": np.array([7, 30])}
    save_file({**tensors, **changed}, folder / "selections.safetensors")
    return folder


def test_an_analysis_is_drawn(tmp_path):
    page, _ = page_of(tmp_path, make_run(tmp_path / "run"), "--analysis", f"sparse={make_analysis(tmp_path / 'analysis')}")
    assert "Attention of sparse" in page and (tmp_path / "page" / "selection-0.png").exists() and (tmp_path / "page" / "heads-0.png").exists()


@pytest.mark.parametrize("lifts, ends", [([[0.5, 1.5, 1], [2.25, 1, 0.1]], "2.25x"), ([[0.5, 0.5, 0.5]], "1.00x"), ([3, ["x"]], "the most of them")])
def test_the_colours_of_a_picture_are_told(tmp_path, lifts, ends):
    folder = make_analysis(tmp_path / "analysis", [{"layer": 0, "heads": [3, {}, *({"lift_1d_2d_3d": lift} for lift in lifts)]}, {"layer": 1, "heads": 5}])
    cv2.imwrite(str(folder / "neighbourhoods.png"), np.zeros((4, 4, 3), np.uint8))
    page, _ = page_of(tmp_path, make_run(tmp_path / "run"), "--analysis", folder)
    assert f"dark blue 0x, yellow {ends};" in page


@pytest.mark.parametrize(
    "layers, changed, named",
    [(DEEP, {}, "analysis.json"), (3, {}, "analysis.json"), ([3], {}, "analysis.json"), ([{"layer": "x"}], {}, "analysis.json"),
     ([{"layer": 0, "selection": {"block": "x", "density": ["x"]}}], {}, "analysis.json"), ([{"layer": 0, "selection": 3}], {}, "analysis.json"),
     ([LAYERS[0], {"layer": 1, "selection": {"block": "x", "density": [1]}}], {}, "analysis.json"),
     (LAYERS, {"layer0": np.zeros((2, 3), np.float32)}, "selections"), (LAYERS, {"layer0": np.full((2, 3, 4, 5), np.nan, np.float32)}, "selections"),
     (LAYERS, {"queries": np.array([7, 60])}, "selections"), (LAYERS, {"queries": np.array([-1, 2])}, "selections"),
     (LAYERS, {"queries": np.array([7.0, 8.0])}, "selections"), (LAYERS, {"frames": np.zeros((1, 32, 40, 3), np.uint8)}, "selections"),
     (LAYERS, {"frames": np.zeros((3, 0, 40, 3), np.uint8)}, "selections"), (LAYERS, {"layer1": np.zeros((2, 3, 4, 6), np.float32)}, "selections")],
    ids=range(15),
)  # fmt: skip
def test_a_broken_analysis_is_named(tmp_path, layers, changed, named):
    assert named in refused(make_run(tmp_path / "run"), "--analysis", make_analysis(tmp_path / "analysis", layers, **changed), "--out", tmp_path / "x.html")


def test_clips_that_lie_are_named(tmp_path):
    folder = make_run(tmp_path / "run")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n/etc/hostname\n")
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty").mkdir()
    for name in ("list.mp4", "text.mp4", "pipe.mp4", "empty", "none.mp4"):
        assert name in refused(folder, "--clip", tmp_path / name, "--out", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_cannot_be_written_is_named_and_the_old_page_stays(tmp_path):
    folder, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    out.write_text("old")
    import resource
    import signal

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # enough for a plot, too little for the page

    command = [sys.executable, "-m", "vmoba.report", str(folder), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=small_files)
    assert result.returncode == 3 and "report.html" in result.stderr, result.stderr
    assert out.read_text() == "old" and not list(tmp_path.glob("*.tmp-*"))
    (tmp_path / "folder.html").mkdir()
    assert "folder.html" in refused(folder, "--out", tmp_path / "folder.html")
