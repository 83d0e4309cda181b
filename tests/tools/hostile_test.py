# SPDX-License-Identifier: Apache-2.0
"""Files that lie, disks that are full, interrupts: one line that names the file, the exit code, nothing lost."""

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time

import pytest
from program import PROGRAM, one_line, run, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile") / "run"
    result = run("train", "--out", out, "--steps", 4, "--ema", 0.9, "--checkpoint-every", 2, *small())
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_end(data):
    return data[: len(data) // 2]


def empty(data):
    return b""


def garbage(data):
    return bytes(range(1, 256)) * (len(data) // 255)


def header_of_10_gb(data):
    return struct.pack("<Q", 10**10) + data[8:]


def not_a_number(data):
    return data[:-4] + struct.pack("<f", float("nan"))


def enormous(data):
    """Finite numbers whose products are not."""
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    return data[:begin] + struct.pack("<f", 3e38) * ((len(data) - begin) // 4)


SAMPLE = ["--prompt", "x", "--steps", 1, "--guidance", 1, "--threads", 1]
VERBS = {
    "sample": lambda folder, out: ["sample", "--checkpoint", folder, *SAMPLE, "--out", out / "clip.mp4"],
    "averaged": lambda folder, out: ["sample", "--checkpoint", folder, *SAMPLE, "--ema", "--out", out / "clip.mp4"],
    "resume": lambda folder, out: ["train", "--out", folder, "--resume", "--steps", 5],
    "init": lambda folder, out: ["train", "--out", out / "new", "--init", folder, "--steps", 1, *small()],
    "analyze": lambda folder, out: ["analyze", "--checkpoint", folder, "--queries", 10, "--out", out / "analysis"],
}
WEIGHTS, TEXT = "diffusion_pytorch_model.safetensors", "text_embedding.safetensors"
BROKEN, TENSORS = [without_end, empty, garbage], [without_end, empty, garbage, header_of_10_gb, not_a_number]
CASES = [
    *((WEIGHTS, damage, verb) for damage in TENSORS for verb in ("sample", "resume")),
    *((WEIGHTS, not_a_number, verb) for verb in ("init", "analyze")),
    *((WEIGHTS, enormous, verb) for verb in ("sample", "analyze")),
    *((TEXT, damage, verb) for damage in TENSORS for verb in ("sample", "resume")),
    *(("optimizer.safetensors", damage, "resume") for damage in TENSORS),
    *((f"ema/{name}", not_a_number, verb) for name in (WEIGHTS, TEXT) for verb in ("averaged", "resume")),
    *(("config.json", damage, verb) for damage in BROKEN for verb in ("sample", "init")),
    *(("state.json", damage, verb) for damage in BROKEN for verb in ("sample", "resume", "analyze")),
]


@pytest.mark.parametrize("name, damage, verb", CASES, ids=lambda part: getattr(part, "__name__", part))
def test_a_damaged_checkpoint_is_named(copy, tmp_path, name, damage, verb):
    path = copy / "checkpoints" / "step-00000004" / name
    path.write_bytes(damage(path.read_bytes()))
    before = contents(copy / "checkpoints")
    out = tmp_path / "out"
    out.mkdir()
    result = run(*VERBS[verb](copy, out))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, "step-00000004")
    assert contents(copy / "checkpoints") == before  # what is good is still there
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "field, value",
    [("num_layers", 10**9), ("num_attention_heads", -1), ("ffn_dim", 2**62), ("attention_head_dim", 24.5), ("eps", None),
     ("patch_size", [1, 2, 10**12]), ("qk_norm", {"deep": []})],
)  # fmt: skip
def test_an_absurd_config_is_named(copy, tmp_path, field, value):
    path = copy / "checkpoints" / "step-00000004" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    result = run(*VERBS["sample"](copy, tmp_path))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, "step-00000004")


DEEP = "[" * 100_000 + "]" * 100_000


def with_deep(text, key):
    """The JSON of text with 100,000 brackets as the value of key: parsers that return, then copy or write by recursion, end here."""
    return json.dumps({**json.loads(text), key: "@"}).replace('"@"', DEEP)


@pytest.mark.parametrize("verb", ["sample", "resume", "analyze"])
@pytest.mark.parametrize("key", [None, "step", "dataset", "options", "unknown"])
def test_deep_nesting_in_a_state_is_named(copy, tmp_path, key, verb):
    path = copy / "checkpoints" / "step-00000004" / "state.json"
    path.write_text(DEEP if key is None else with_deep(path.read_text(), key))
    result = run(*VERBS[verb](copy, tmp_path))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, "state.json")


@pytest.mark.parametrize("name", ["config.json", f"{WEIGHTS}.index.json"])
@pytest.mark.parametrize("verb", ["sample", "init", "analyze"])
def test_deep_nesting_in_a_models_json_is_named(copy, tmp_path, name, verb):
    path = copy / "checkpoints" / "step-00000004" / name
    path.write_text('{"weight_map": %s, "num_layers": %s}' % (DEEP, DEEP))
    result = run(*VERBS[verb](copy, tmp_path))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, name)


@pytest.mark.parametrize(
    "field, value",
    [("crop", [2**40, 1, 1]), ("crop", [1000, 1000, 1000]), ("crop", [1e300, 1, 1]), ("crop", [0, 5, 7]), ("crop", [3, 5, 7, 9]), ("fps", -1),
     ("fps", 1e300), ("layers", 10**9), ("layers", 999), ("batch", 10**12), ("steps", 1.5), ("steps", 2**70), ("seed", -1), ("threads", 10**9),
     ("validation-samples", 10**15), ("accumulate", 2**62), ("plan", {"cycle": []}), ("bf16", 3)],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["sample", "resume"])
def test_absurd_options_in_a_state_are_named(copy, tmp_path, field, value, verb):
    if (field, value, verb) == ("layers", 999, "sample"):
        pytest.skip("sample reads config.json, which says how many there are")
    path = copy / "checkpoints" / "step-00000004" / "state.json"
    state = json.loads(path.read_text())
    state["options"][field] = value
    path.write_text(json.dumps(state))
    result = run(*VERBS[verb](copy, tmp_path))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, "state.json")


@pytest.mark.parametrize("text", ["\ufeff{}", "{}\r\n"], ids=["mark", "crlf"])
def test_what_an_editor_does_to_a_state_is_harmless(copy, tmp_path, text):
    path = copy / "checkpoints" / "step-00000004" / "state.json"
    path.write_bytes(text.replace("{}", json.dumps(json.loads(path.read_text()), indent=1)).replace("\n", "\r\n").encode())
    result = run(*VERBS["sample"](copy, tmp_path))
    assert result.returncode == 0, result.stderr


def not_json(path):
    path.write_text("what a crash left {")


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def latin(path):
    path.write_bytes(b'{"a": "caf\xe9"}\n')


def nothing(path):
    path.touch()


def deep(path):
    path.write_text(DEEP)


def absent(path):
    pass


@pytest.mark.parametrize("make", [not_json, folder, pipe, latin, nothing, deep, absent], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "arguments",
    [["show", "FILE"], ["explain", "--grid", "4,4,4", "--cost", "FILE"], ["sample", "--checkpoint", "RUN", "--embedding", "FILE"],
     ["sample", "--checkpoint", "RUN", "--out", "OUT/x.mp4", "--prompts", "FILE/prompts"], ["analyze", "--checkpoint", "RUN", "--clip", "FILE"],
     ["analyze", "--checkpoint", "FILE"], ["train", "--out", "OUT/run", "--init", "FILE"], ["train", "--out", "OUT/run", "--data", "FILE/videos"]],
    ids=lambda arguments: " ".join(word for word in arguments if word.islower() and "." not in word and "," not in word),
)  # fmt: skip
def test_what_is_no_such_file_is_named(trained, tmp_path, make, arguments):
    path, out = tmp_path / "input.json", tmp_path / "out"
    make(path)
    out.mkdir()
    words = [word.replace("FILE", str(path)).replace("RUN", str(trained)).replace("OUT", str(out)) for word in arguments]
    if arguments[0] == "sample" and "--out" not in words:
        words += ["--out", out / "x.mp4"]
    result = run(*words, timeout=60)
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, "input.json")
    assert [left for left in out.rglob("*") if left.is_file()] == []


def test_metrics_that_a_crash_cut_off_are_continued(copy):
    path = copy / "metrics.jsonl"
    good = path.read_text()
    path.write_text(f'{{"step": 1, "deep": {DEEP}}}\n{DEEP}\nnull\n\n{good}{{"step": 4, "lo')
    result = run("train", "--out", copy, "--resume", "--steps", 5)
    assert result.returncode == 0, result.stderr
    lines = path.read_text()
    assert lines.startswith(good) and [json.loads(line)["step"] for line in lines[len(good) :].splitlines()] == [5, 5]


@pytest.mark.parametrize("damage", [deep, latin, nothing, folder, pipe, not_json], ids=lambda make: make.__name__)
def test_captions_that_lie_cost_a_line(clip, tmp_path, damage):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos)
    for name in ("captions.json", "captions.csv"):
        damage(videos / name)
    result = run("train", "--out", tmp_path / "run", "--data", videos, "--cache", tmp_path / "cache", "--steps", 1, *small())
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stdout.splitlines() if line.startswith("caption passed over: ")]
    assert said and all(f"{videos}/captions." in line for line in said), result.stdout
    # The manifest of the cache is damaged in the same way, and the videos have changed.
    manifest = tmp_path / "cache" / "manifest.json"
    manifest.unlink()
    damage(manifest)
    shutil.copy(clip, videos / f"again-{os.path.basename(clip)}")
    result = run("train", "--out", tmp_path / "next", "--data", videos, "--cache", tmp_path / "cache", "--steps", 1, *small())
    assert result.returncode == 0, result.stderr


def limited(size):
    """Files may not grow beyond size: the full disk that every user can have."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return {"preexec_fn": limit}


@pytest.mark.parametrize("size", [0, 20000])  # not even the metrics; only the next checkpoint
def test_a_full_disk_keeps_every_checkpoint(copy, size):
    before = contents(copy / "checkpoints")
    result = run("train", "--out", copy, "--resume", "--steps", 6, **limited(size))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, str(copy), "space")
    assert contents(copy / "checkpoints") == before
    again = run("train", "--out", copy, "--resume", "--steps", 6)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "latents.safetensors"])
def test_a_full_disk_keeps_the_old_file(trained, tmp_path, name):
    out = tmp_path / name
    out.write_bytes(b"old")
    option = "--latents" if name.startswith("latents") else "--out"
    result = run("sample", "--checkpoint", trained, *SAMPLE, option, out, **limited(100))
    assert result.returncode == 3, (result.returncode, result.stderr)
    one_line(result, name)
    assert contents(tmp_path) == {out.relative_to(tmp_path): b"old"}  # nor is anything temporary left


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_standard_output_loses_no_run(tmp_path):
    with open("/dev/full", "w") as full:
        result = run("train", "--out", tmp_path / "run", "--steps", 2, *small(),
                     capture_output=False, stdout=full, stderr=subprocess.PIPE)  # fmt: skip
    assert result.returncode == 3
    one_line(result, "standard output")
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").exists()


def test_videos_that_lie(trained, clip, tmp_path):
    with open(clip, "rb") as file:
        good = file.read()
    folder = tmp_path / "videos"
    folder.mkdir()
    videos = {"cut.mp4": good[: len(good) // 50], "empty.webm": b"", "zeros.mkv": bytes(5000), "text.gif": b"GIF89a, says it",
              "other.mp4": b"#EXTM3U\n/etc/passwd\n"}  # fmt: skip
    for name, data in videos.items():
        path = folder / name
        path.write_bytes(data)
        result = run("analyze", "--checkpoint", trained, "--clip", path, "--out", tmp_path / "analysis")
        assert result.returncode == 3, (name, result.stderr)
        one_line(result, name)
    assert not (tmp_path / "analysis").exists()
    # A folder of them trains on what is left: the good clip, and each of the others costs a line.
    shutil.copy(clip, folder)
    result = run("train", "--out", tmp_path / "run", "--data", folder, "--steps", 1, *small())
    assert result.returncode == 0, result.stderr
    skipped = [line for line in result.stdout.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == len(videos)
    assert all(any(name in line for line in skipped) for name in videos)


@pytest.mark.parametrize(
    "position, arguments",
    [(5, ["train", "--out", "run", "--cache", b"\xff"]), (5, ["sample", "--checkpoint", "run", "--out", b"\xff.mp4", "--compare"]),
     (5, ["sample", "--checkpoint", "run", "--prompt", b"caf\xe9"]), (3, ["analyze", "--checkpoint", b"\xc0\x80"])],
)  # fmt: skip
def test_arguments_are_utf8(tmp_path, position, arguments):
    command = [os.fsencode(PROGRAM), *map(os.fsencode, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    one_line(result, f"argument {position} is not UTF-8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["check", "--full"], ["sample", "--checkpoint", "RUN", "--prompt", "x", "--steps", 1000000, "--out", "OUT/clip.mp4"],
     ["analyze", "--checkpoint", "RUN", "--grid", "12,40,40", "--queries", 4000, "--out", "OUT/analysis"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_an_interrupt_is_130_and_leaves_nothing(trained, tmp_path, arguments):
    words = [str(word).replace("RUN", str(trained)).replace("OUT", str(tmp_path)) for word in arguments]
    process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
