# SPDX-License-Identifier: Apache-2.0
"""info, explain, flops, check, bench, show, analyze, report: what they print, exit codes, and what they refuse."""

import json
import os
import re
import subprocess

import program
import pytest

VERBS = ["info", "explain", "check", "bench", "flops", "analyze", "show", "train", "sample", "report"]


def test_without_a_verb_it_helps(vmoba):
    result = vmoba()
    assert result.returncode == 0
    for verb in VERBS:
        assert f"\n  {verb} " in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(vmoba, verb):
    result = vmoba(verb, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80  # a terminal's width
    assert result.stdout.endswith("\n")


def test_help_is_wrapped_and_not_cut(vmoba):
    said = " ".join(vmoba("train", "--help").stdout.split())
    assert "a layer is dense where sparse is not predicted to be quicker; left out: auto" in said
    assert "--times TEXT=logit-normal" in said and "this process's share of the cores" in said
    assert "exits with 130; a second one stops at once." in said


def test_help_speaks_with_one_voice(vmoba):
    needless = "--out --latents --only --preset --blocks --grid --clip --analysis --embedding --prompts".split()
    for verb in VERBS:
        entries = [" ".join(entry.split()) for entry in vmoba(verb, "--help").stdout.split("\n\nExample")[0].split("\n  --")[1:]]
        assert "json print JSON instead of text" in entries[-1], verb
        for entry in entries:
            assert "when left out" not in entry and "; none: " not in entry, (verb, entry)
            # Every option of a value says what stands where it is left out.
            option, kind = re.match(r"(\S+)(?: (\[?(?:TEXT|INT|UINT|FLOAT)\S*))?", entry).groups()
            if kind and "=" not in kind and "REQUIRED" not in entry and f"--{option}" not in needless:
                assert "left out: " in entry, (verb, entry)


def test_version(vmoba):
    result = vmoba("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("vmoba 0.")


def test_unknown_verb_and_option(refused):
    refused(2, ["--help"], "dance")
    refused(2, ["vmoba explain --help"], "explain", "--grit", "1,2,3")
    refused(2, ["vmoba explain --help"], "explain", "--grid", "4,4,4", "--heads", "many")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_disk_on_standard_output(vmoba):
    with open("/dev/full", "w") as full:
        result = vmoba("flops", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 3
    assert "standard output" in result.stderr


def test_info(vmoba, told):
    text = vmoba("info")
    assert text.returncode == 0
    assert "reference" in text.stdout and "paper-93x576x1024" in text.stdout
    info = told("info")
    assert info["machine"]["cores"] >= 1
    names = [backend["name"] for backend in info["backends"]]
    assert "reference" in names
    for backend in info["backends"]:
        assert backend["available"] == (backend["reason"] == "")
    assert {preset["name"]: preset["tokens"] for preset in info["presets"]}["paper-81x480x832"] == 32760
    assert max(map(len, text.stdout.splitlines())) <= 80
    words = " ".join(text.stdout.split())
    assert all(" ".join((backend["reason"] or backend["description"]).split()) in words for backend in info["backends"])
    # The table of presets spells blocks and policies as the other verbs read them.
    table = text.stdout.split("\npreset ")[1].splitlines()[1:]
    assert len(table) == len(info["presets"])
    for row, preset in zip(table, info["presets"]):
        name, grid, *blocks, policy = row.split()
        assert (name, grid) == (preset["name"], "x".join(map(str, preset["grid"]))) and len(blocks) == 3
        for layer, block in enumerate(blocks):
            by_name = told("explain", "--preset", name, "--layer", layer)
            spelled = told("explain", "--grid", grid, "--block", block, "--policy", policy)
            assert (spelled["blocks"], spelled["largest_block"]) == (by_name["blocks"], by_name["largest_block"])
            assert layer > 0 or spelled["policy"] == by_name["policy"]


def test_tables_fit_a_terminal(vmoba):
    for arguments in (["flops"], ["flops", "--preset", "paper-93x576x1024", "--density", 0.2]):
        assert max(map(len, vmoba(*arguments).stdout.splitlines())) <= 80


def test_explain(told, vmoba):
    one = told("explain", "--grid", "21,30,52", "--block", "7,5,13", "--policy", "threshold:0.25")
    assert (one["tokens"], one["blocks"]) == (32760, 72)
    assert (one["smallest_block"], one["largest_block"]) == (455, 455)
    assert one["dense_flops"] == 4 * 32760**2 * 12 * 128
    assert one["gate_flops"] == 2 * 32760 * 72 * 12 * 128
    assert one["backend"] and any(backend["takes_it"] for backend in one["backends"])
    ragged = told("explain", "--grid", "5,7,9", "--block", "2,3,4", "--heads", "2", "--dim", "64")
    assert (ragged["blocks"], ragged["smallest_block"]) == (3 * 3 * 3, 1)
    for layer, blocks in enumerate([8, 48, 72]):
        told_layer = told("explain", "--preset", "paper-93x576x1024", "--layer", layer)
        assert told_layer["blocks"] == blocks
    text = told("explain", "--grid", "4,4,4", "--block", "2,2,2", "--text", "6", "--dim", "64")
    assert text["rows"] == 64 + 6
    assert "32760" in vmoba("explain", "--preset", "paper-81x480x832").stdout


@pytest.mark.parametrize("policy", ["dense", "topk:3:all:min=2:max=4096", "threshold:0.25:block:min=2:max=4096"])
def test_explain_fits_a_terminal_and_cuts_nothing(told, vmoba, policy):
    call = ["explain", "--grid", "21,30,52", "--block", "2,4,5", "--policy", policy, "--text", 512]
    lines = vmoba(*call).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    column = next(line for line in lines if line.startswith("backend ")).index(told(*call)["backend"])
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)  # what is broken stays in its column
    words = " ".join(line[column:] for line in lines)
    assert len(lines) > 13 + len(told(*call)["backends"])  # something was broken
    for text in [told(*call)[key] for key in ("path", "policy", "budget")] + [one["reason"] for one in told(*call)["backends"]]:
        assert text in words


def test_explain_forced_backend(told, refused):
    assert told("explain", "--grid", "4,4,4", "--block", "2,2,2", "--dim", "8", "--backend", "reference")["backend"] == "reference"
    refused(2, ["warp"], "explain", "--grid", "4,4,4", "--block", "2,2,2", "--backend", "warp")


@pytest.mark.parametrize(
    "words, arguments",
    [
        (["--grid", "is needed"], []),
        (["--grid", "21,30", "21,30,52"], ["--grid", "21,30"]),
        (["--grid", "0,3,3", "below 1"], ["--grid", "0,3,3"]),
        (["--grid", "a,b,c"], ["--grid", "a,b,c"]),
        (["--block", "7,5", "7,5,13"], ["--grid", "21,30,52", "--block", "7,5"]),
        (["--block", "0,5,5"], ["--grid", "21,30,52", "--block", "0,5,5"]),
        (["block", "70", "52"], ["--grid", "21,30,52", "--block", "7,5,70"]),
        (["--block", "run:x"], ["--grid", "21,30,52", "--block", "run:x"]),
        (["--policy", "magic"], ["--grid", "4,4,4", "--policy", "magic:3"]),
        (["--policy", "threshold", "number"], ["--grid", "4,4,4", "--policy", "threshold"]),
        (["--policy", "sideways"], ["--grid", "4,4,4", "--policy", "threshold:0.2:sideways"]),
        (["tau"], ["--grid", "4,4,4", "--policy", "threshold:-1"]),
        (["k"], ["--grid", "4,4,4", "--policy", "topk:0"]),
        (["scope", "block"], ["--grid", "4,4,4", "--policy", "topk:2:block"]),
        (["--preset", "paper-93x576x1024"], ["--preset", "nothing"]),
        (["heads", "5"], ["--grid", "4,4,4", "--heads", "6", "--kv-heads", "5"]),
        (["--dtype", "f8"], ["--grid", "4,4,4", "--dtype", "f8"]),
        (["--text-at", "middle"], ["--grid", "4,4,4", "--text-at", "middle"]),
        (["--layer", "-1"], ["--preset", "paper-93x576x1024", "--layer", "-1"]),
        (["--threads", "-2"], ["--grid", "4,4,4", "--threads", "-2"]),
    ],
)
def test_explain_refuses(refused, words, arguments):
    if words[0] == "--preset":
        words = words[1:]
    refused(2, words, "explain", *arguments)


@pytest.mark.parametrize("columns", [80, 40, 12])
def test_the_progress_bar_never_wraps(columns):
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([program.PROGRAM, "check", "--quick", "--dtype", "f32", "--backend", "cpu"], stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    drawn = b""
    while True:
        try:
            drawn += os.read(leader, 4096)
        except OSError:  # the program has closed its end
            break
    assert process.communicate(timeout=60)[0] and process.returncode == 0
    bars = drawn.decode().split("\r\x1b[K")
    assert len(bars) > 2 and bars[-1] == ""  # wiped at the end
    assert all(len(bar) < columns and "\n" not in bar for bar in bars)
    assert any("[" in bar for bar in bars) == (columns > 12)


def test_flops_reproduces_the_paper(told, vmoba):
    rows = {row["configuration"]: row for row in told("flops")["rows"]}
    dense = {"paper-81x320x512": 67.73, "paper-81x480x832": 281.64, "paper-93x576x1024": 705.02, "paper-141x480x832": 724.97,
             "paper-81x720x1280": 1246.78}  # fmt: skip
    sparse = {"paper-81x320x512": 40.48, "paper-93x576x1024": 248.68, "paper-141x480x832": 248.39}
    for name, teraflops in dense.items():  # half of the last printed digit; the paper prints 1246.785012 as 1246.78
        assert rows[name]["dense_flops"] / 1e12 == pytest.approx(teraflops, abs=0.00502)
        assert f"{teraflops:.2f}" in vmoba("flops").stdout
    # The paper prints densities to three digits: the one its total implies rounds to it, but at 13K (.182 is printed).
    for name, density in {"paper-81x320x512": 0.1801, "paper-93x576x1024": 0.190, "paper-141x480x832": 0.180}.items():
        assert rows[name]["paper_sparse_tflops"] == sparse[name]
        assert rows[name]["paper_implied_density"] == pytest.approx(density, abs=0.0005)
        assert rows[name]["sparse_flops"] / 1e12 == pytest.approx(sparse[name], rel=0.002)


def test_flops_of_another_model(told, refused):
    row = told("flops", "--layers", 2, "--heads", 3, "--dim", 8, "--ffn", 40, "--text", 5, "--grid", "2,3,4", "--blocks", 6,
               "--density", 0.5)["rows"][0]  # fmt: skip
    s, w, f, n, length = 24, 24, 40, 6, 5
    fixed = 8 * s * w * w + 4 * s * w * w + 4 * length * w * w + 4 * s * length * w + 4 * s * w * f
    assert row["dense_flops"] == 2 * (fixed + 4 * s * s * w)
    assert row["sparse_flops"] == 2 * (fixed + 2 * s * w * n + 0.5 * 4 * s * s * w)
    refused(2, ["--density", "outside 0..1"], "flops", "--grid", "2,3,4", "--blocks", 3, "--density", 1.5)
    refused(2, ["--blocks"], "flops", "--grid", "2,3,4", "--density", 0.5)
    refused(2, ["--layers", "below 1"], "flops", "--layers", 0)


def test_check_passes_and_prints_errors(vmoba, told, refused):
    verdicts = told("check", "--quick")
    assert verdicts["passed"] is True
    for verdict in verdicts["verdicts"]:
        assert verdict["problems"] > 0
        assert verdict["selection"]["wrong"] == 0
        assert verdict["thread_dependent"] == 0
        assert {error["of"] for error in verdict["errors"]} == {"out", "lse", "dq", "dk", "dv"}
        for error in verdict["errors"]:
            assert 0 <= error["budget_used"] <= 1
    text = vmoba("check", "--quick", "--backend", "reference", "--dtype", "f32")
    assert text.returncode == 0 and "all within budget" in text.stdout
    assert max(map(len, text.stdout.splitlines()[1:])) <= 80  # the first line is the machine's
    refused(2, ["warp"], "check", "--backend", "warp")
    refused(2, ["--dtype", "f8"], "check", "--dtype", "f8")
    refused(2, ["--help"], "check", "--quick", "--full")


def test_bench_of_a_small_problem(told, vmoba, tmp_path):
    out = tmp_path / "bench.json"
    result = vmoba("bench", "--tokens", 300, "--heads", 2, "--dim", 64, "--data", "random,smooth", "--repeats", 3, "--seconds", 0.1,
                   "--no-flex", "--memory", "--out", out)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "vmoba-sparse" in result.stdout and "torch-sdpa" in result.stdout
    told_bench = json.loads(out.read_text())
    assert told_bench["format"] == "vmoba-bench-1"
    assert told_bench["machine"]["commit"]
    assert [case["data"] for case in told_bench["cases"]] == ["random", "smooth"]
    for case in told_bench["cases"]:
        contenders = {(row["contender"], row["direction"]) for row in case["rows"]}
        for contender in ("torch-sdpa", "vmoba-dense", "vmoba-sparse"):
            assert {(contender, "forward"), (contender, "forward+backward")} <= contenders
        assert ("vmoba-sparse", "select") in contenders
        for row in case["rows"]:
            assert row["seconds"]["fastest"] <= row["seconds"]["median"] <= row["seconds"]["slowest"]
            assert 0 < row["density"] <= 1
    for memory in told_bench["memory"]:
        assert memory["tensors_bytes"] > 0


def test_bench_sweeps_tokens_dims_and_dtypes(told):
    cases = told("bench", "--tokens", "200,400", "--dim", "16,32", "--heads", 1, "--dtype", "f32,f16", "--data", "rendered", "--blocks",
                 "2,2,2;run:50", "--direction", "forward", "--repeats", 1, "--seconds", 0, "--no-flex")["cases"]  # fmt: skip
    assert {(case["dim"], case["dtype"]) for case in cases} == {(16, "f32"), (16, "f16"), (32, "f32"), (32, "f16")}
    assert len(cases) == 8 and len({case["tokens"] for case in cases}) == 2
    for case in cases:
        rows = case["rows"]
        assert {row["block"] for row in rows if row["contender"] == "vmoba-sparse"} == {"2x2x2", "run:50"}
        assert {row["direction"] for row in rows} == {"forward", "select"}
        torch = {row["dtype"]: row["seconds"]["median"] for row in rows if row["contender"] == "torch-sdpa"}
        assert case["torch_best"] == {"forward": min(torch, key=torch.get)}
        dense = next(row for row in rows if row["contender"] == "vmoba-dense")
        assert dense["over_torch"] == pytest.approx(min(torch.values()) / dense["seconds"]["median"])


def test_bench_on_a_real_clip(told, clip):
    case = told("bench", "--tokens", 600, "--heads", 1, "--dim", 32, "--data", f"clip:{clip}", "--direction", "forward", "--repeats", 1,
                "--seconds", 0, "--no-flex")["cases"][0]  # fmt: skip
    assert case["data"] == f"clip:{clip}" and len(case["rows"]) > 5


def test_bench_prints_targets(told, refused):
    lines = told("bench", "--suite", "targets", "--quick", "--only", "1D blocks,break-even")["targets"]
    assert len(lines) == 5
    for line in lines:
        assert line["reached"] == (line["value"] <= line["target"] if line["rule"] == "<=" else line["value"] >= line["target"])
        assert ("1D blocks" in line["what"]) != ("break-even" in line["what"])
    share = next(line for line in lines if "Threshold head" in line["what"])
    assert 0 < share["value"] < 1


def test_bench_reaches_a_density(told):
    case = told("bench", "--tokens", 600, "--heads", 2, "--dim", 32, "--data", "random", "--density", "0.4", "--direction", "forward",
                "--repeats", 1, "--seconds", 0, "--no-flex")["cases"][0]  # fmt: skip
    sparse = [row for row in case["rows"] if row["contender"] == "vmoba-sparse" and row["blocks"] >= 20]
    assert sparse
    for row in sparse:
        assert abs(row["density"] - 0.4) < 0.05


@pytest.mark.parametrize(
    "words, arguments",
    [
        (["--suite", "dance"], ["--suite", "dance"]),
        (["nothing", "paper-93x576x1024"], ["--preset", "nothing"]),
        (["--data", "zeros", "clip:FILE"], ["--data", "zeros", "--tokens", 64, "--no-flex"]),
        (["--density", "outside 0..1"], ["--density", "2"]),
        (["--tau", "0"], ["--tau", "0"]),
        (["--tokens", "below 1"], ["--tokens", 0]),
        (["--direction", "up"], ["--direction", "up"]),
        (["--repeats"], ["--repeats", 0]),
        (["--tokens", "200.5", "whole"], ["--tokens", "100,200.5"]),
        (["--dim", "below 1"], ["--dim", "64,0"]),
        (["--blocks", "7,5"], ["--blocks", "7,5"]),
        (["--only", "--suite targets"], ["--only", "memory"]),
        (["--quick"], ["--quick"]),
        (["--fit", "issue"], ["--fit", "--suite", "issue"]),
        (["--tokens", "--suite targets"], ["--suite", "targets", "--tokens", 64]),
        (["--seconds", "--fit"], ["--fit", "--seconds", 1]),
        (["--data", "clip:", "clip:FILE"], ["--data", "clip:", "--tokens", 64, "--no-flex"]),
        (["warp"], ["--backend", "warp"]),
    ],
)
def test_bench_refuses(vmoba, words, arguments):
    result = vmoba("bench", *arguments)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_bench_of_a_missing_clip(vmoba, tmp_path):
    result = vmoba("bench", "--tokens", 64, "--no-flex", "--data", f"clip:{tmp_path}/none.mp4")
    assert result.returncode == 3
    assert "none.mp4" in result.stderr


def test_show_refuses_bad_files(refused, tmp_path):
    refused(3, ["none.sel"], "show", tmp_path / "none.sel")
    broken = tmp_path / "broken.sel"
    broken.write_bytes(b"vmobasel" + os.urandom(64))
    refused(3, ["broken.sel"], "show", broken)
    refused(2, ["vmoba show --help"], "show")


def test_analyze_refuses(refused, tmp_path):
    refused(2, ["--checkpoint", "vmoba analyze --help"], "analyze")
    refused(3, ["none"], "analyze", "--checkpoint", tmp_path / "none")
    refused(2, ["--sigma", "outside 0..1"], "analyze", "--checkpoint", tmp_path, "--sigma", 2)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{ not json")
    refused(3, ["config.json"], "analyze", "--checkpoint", broken)
    (broken / "config.json").write_text("{}")
    refused(3, ["broken"], "analyze", "--checkpoint", broken)


def test_report_refuses(refused, tmp_path):
    refused(2, ["vmoba report --help"], "report")
    refused(3, ["none", "metrics.jsonl"], "report", tmp_path / "none")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    refused(3, ["none.mp4"], "report", run, "--clip", f"a={tmp_path}/none.mp4")
    refused(3, ["none", "analysis.json"], "report", run, "--analysis", tmp_path / "none")
    refused(3, ["/nonexistent/python"], "report", run, "--python", "/nonexistent/python")


def test_report_names_what_was_typed_when_python_fails(refused, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'matplotlib'\" >&2\nexit 1\n")
    python.chmod(0o755)
    refused(2, ["vmoba: vmoba report needs Python", f"{python} ended with code 1: ModuleNotFoundError", "; give --python"],
            "report", run, "--python", python)  # fmt: skip
