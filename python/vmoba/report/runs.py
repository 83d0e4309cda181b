# SPDX-License-Identifier: Apache-2.0
"""Reads what training runs, samplings and analyses left behind. Every file may be broken."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BadFile(Exception):
    """A file that cannot be used; the message names it and says what to do."""


def refusing(work: Callable[[], None], out: Path) -> int:
    """Does the work; a file that cannot be used becomes one sentence on stderr. The exit code: 0 or 3. `out` is what is written."""
    try:
        work()
    except BadFile as error:
        print(f"vmoba: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        path = error.filename or out  # a full disk names no file
        print(f"vmoba: {path} cannot be read or written ({error.strerror}); check the path and the disk", file=sys.stderr)
        return 3
    return 0


def named(item: str) -> tuple[str, Path]:
    """NAME=PATH, or PATH whose last part becomes the name."""
    name, equals, path = item.partition("=")
    return (name, Path(path)) if equals else (Path(item).stem, Path(item))


def named_apart(items: list[str]) -> list[tuple[str, Path]]:
    """The same for several; a name that came before gets a number."""
    count: dict[str, int] = {}
    apart = []
    for name, path in map(named, items):
        count[name] = count.get(name, 0) + 1
        apart.append((name if count[name] == 1 else f"{name} ({count[name]})", path))
    return apart


@dataclass(frozen=True)
class Clip:
    """A sampled clip: any file OpenCV opens."""

    name: str
    path: Path


@dataclass(frozen=True)
class Run:
    """A training run: its options and the lines of metrics.jsonl."""

    name: str
    path: Path
    about: dict[str, Any]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    def median(self, *keys: str) -> float:
        """Median over steps of a nested number, the first line (warm-up) left out where there are more."""
        values = []
        for line in self.steps[1:] or self.steps:
            value: Any = line
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, float):
                values.append(value)
        return statistics.median(values) if values else float("nan")

    def densities(self) -> list[float]:
        """Mean density of each layer over the lines that carry one."""
        lines: list[list[float]] = [line["density"] for line in self.steps if "density" in line]
        if not lines:
            return []
        width = min(len(line) for line in lines)
        return [statistics.fmean(line[layer] for line in lines) for layer in range(width)]


@dataclass(frozen=True)
class Analysis:
    """What vmoba analyze wrote: figures, and the selections of a few queries over the frames of the clip."""

    name: str
    path: Path
    figures: dict[str, Any]
    frames: NDArray[np.uint8] | None = None  # [T, Hp, Wp, 3]
    queries: list[int] = field(default_factory=list)
    maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # layer: [Q, T, Y, X], share of heads


# Deeper than anything the program writes; Python and numpy walk values by recursion.
_DEEPEST = 64
_LONGEST_LINE = 1 << 20  # bytes of a line of metrics; ours have some hundred
_LARGEST_JSON = 64 << 20  # bytes


def parse(text: str) -> Any:
    """The JSON value; ValueError where text is none or nests too deep. NaN and Infinity, which JSON has not, become null."""
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for one in level if isinstance(one, (dict, list)) for item in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return value
    raise ValueError("it nests too deep")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of at most 64 MB holds; BadFile for anything else."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise BadFile(f"{path} is larger than {_LARGEST_JSON >> 20} MB; give a folder that the program wrote")
        data = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFile(f"{path} is not JSON ({error}); give a folder that the program wrote") from error
    if not isinstance(data, dict):
        raise BadFile(f"{path} holds no JSON object; give a folder that the program wrote")
    return data


def number(value: Any) -> float | None:
    """A finite number that a plot can show, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
        return None
    return float(value)


def metrics_line(text: str) -> dict[str, Any] | None:
    """What a line of metrics.jsonl says in the fields that are known here; None for one that a crash cut off."""
    try:
        data = parse(text)
    except ValueError:
        return None
    step = data.get("step") if isinstance(data, dict) else None
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 53:
        return None
    line: dict[str, Any] = {"step": step}
    for key in ("loss", "smoothed", "validation_loss", "elapsed", "tokens_per_second", "waiting", "peak_memory"):
        if (value := number(data.get(key))) is not None:
            line[key] = value
    seconds = data.get("seconds")
    if isinstance(seconds, dict):
        line["seconds"] = {part: value for part, item in seconds.items() if (value := number(item)) is not None}
    density = [number(item) for item in data["density"]] if isinstance(data.get("density"), list) else []
    if density and None not in density:
        line["density"] = density
    return line


def read_run(name: str, path: Path) -> Run:
    """A folder of vmoba train: run.json and metrics.jsonl, lines that are none passed over. Raises BadFile, OSError."""
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise BadFile(f"{path} holds no metrics.jsonl; give a folder that vmoba train wrote")
    steps: list[dict[str, Any]] = []
    validations: list[dict[str, Any]] = []
    with metrics.open("rb") as file:
        # A line that is longer than any of ours comes in pieces, and no piece is one.
        while text := file.readline(_LONGEST_LINE):
            line = metrics_line(text.decode("utf-8", errors="replace"))
            if line is None:
                continue
            if "validation_loss" in line:
                validations.append(line)
            elif "loss" in line:
                steps.append(line)
    if not steps and not validations:
        raise BadFile(f"{metrics} holds no metrics; train for at least one step that is logged")
    about = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    return Run(name, path, about, steps, validations)


def checked_layers(path: Path, figures: dict[str, Any]) -> None:
    """Refuses layers that the plots cannot read: numbers of layers, densities of heads."""
    layers = figures.get("layers", [])
    fine = isinstance(layers, list) and all(isinstance(one, dict) and isinstance(one.get("layer"), int) for one in layers)
    chosen = [one["selection"] for one in layers if "selection" in one] if fine else []
    fine = fine and all(isinstance(one, dict) and isinstance(one.get("block"), str) and isinstance(one.get("density"), list) for one in chosen)
    fine = fine and len({len(one["density"]) for one in chosen}) <= 1
    if not fine or any(number(share) is None for one in chosen for share in one["density"]):
        raise BadFile(f"{path} holds layers that cannot be read; run vmoba analyze again")


def read_analysis(name: str, path: Path) -> Analysis:
    """A folder of vmoba analyze: analysis.json, selections.safetensors if there. Raises BadFile, OSError."""
    if not (path / "analysis.json").is_file():
        raise BadFile(f"{path} holds no analysis.json; give a folder that vmoba analyze wrote")
    figures = read_json(path / "analysis.json")
    checked_layers(path / "analysis.json", figures)
    selections = path / "selections.safetensors"
    if not selections.is_file():
        return Analysis(name, path, figures)
    from safetensors.numpy import load_file

    try:
        tensors = load_file(selections)
    except Exception as error:  # the library has no common base class
        raise BadFile(f"{selections} is no safetensors file ({error}); run vmoba analyze again") from error
    frames = tensors.get("frames")
    queries = tensors.get("queries", np.zeros(0, np.int64))
    maps = {int(key[5:]): value for key, value in tensors.items() if key.startswith("layer") and key[5:].isdecimal()}
    shapes = {value.shape for value in maps.values()}
    fine = len(shapes) <= 1 and queries.ndim == 1 and queries.dtype == np.int64
    for shape in shapes:  # [Q, T, Y, X]
        fine = fine and len(shape) == 4 and min(shape) > 0 and len(queries) == shape[0]
        fine = fine and all(0 <= query < shape[1] * shape[2] * shape[3] for query in queries.tolist())
        fine = fine and (frames is None or len(frames) == shape[1])
    fine = fine and (frames is None or (frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8 and min(frames.shape) > 0))
    if not fine or not all(value.dtype == np.float32 and np.isfinite(value).all() for value in maps.values()):
        raise BadFile(f"{selections} holds other tensors than vmoba analyze writes; run it again")
    return Analysis(name, path, figures, frames, [int(query) for query in queries], maps)
