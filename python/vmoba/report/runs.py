# SPDX-License-Identifier: Apache-2.0
"""Reads what training runs, samplings and analyses left behind. Every file may be broken."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BadFile(Exception):
    """A file that cannot be used; the message names it and says what to do."""


def named(item: str) -> tuple[str, Path]:
    """NAME=PATH, or PATH whose last part becomes the name."""
    name, equals, path = item.partition("=")
    return (name, Path(path)) if equals else (Path(item).stem, Path(item))


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
            if isinstance(value, (int, float)):
                values.append(float(value))
        return statistics.median(values) if values else float("nan")

    def densities(self) -> list[float]:
        """Mean density of each layer over the lines that carry one."""
        lines = [line["density"] for line in self.steps if isinstance(line.get("density"), list) and line["density"]]
        if not lines:
            return []
        width = min(len(line) for line in lines)
        return [statistics.fmean(float(line[layer]) for line in lines) for layer in range(width)]


@dataclass(frozen=True)
class Analysis:
    """What vmoba analyze wrote: figures, and the selections of a few queries over the frames of the clip."""

    name: str
    path: Path
    figures: dict[str, Any]
    frames: NDArray[np.uint8] | None = None  # [T, Hp, Wp, 3]
    queries: list[int] = field(default_factory=list)
    maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # layer: [Q, T, Y, X], share of heads


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is not JSON ({error}); give a folder that the program wrote") from error
    if not isinstance(data, dict):
        raise BadFile(f"{path} holds no JSON object; give a folder that the program wrote")
    return data


def read_run(name: str, path: Path) -> Run:
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise BadFile(f"{path} holds no metrics.jsonl; give a folder that vmoba train wrote")
    steps: list[dict[str, Any]] = []
    validations: list[dict[str, Any]] = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            data = json.loads(line)
        except ValueError:
            continue  # a line that a crash cut off
        if not isinstance(data, dict) or not isinstance(data.get("step"), int):
            continue
        if isinstance(data.get("validation_loss"), (int, float)):
            validations.append(data)
        elif isinstance(data.get("loss"), (int, float)):
            steps.append(data)
    if not steps and not validations:
        raise BadFile(f"{metrics} holds no metrics; train for at least one step that is logged")
    about = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    return Run(name, path, about, steps, validations)


def read_analysis(name: str, path: Path) -> Analysis:
    if not (path / "analysis.json").is_file():
        raise BadFile(f"{path} holds no analysis.json; give a folder that vmoba analyze wrote")
    figures = read_json(path / "analysis.json")
    selections = path / "selections.safetensors"
    if not selections.is_file():
        return Analysis(name, path, figures)
    from safetensors.numpy import load_file

    try:
        tensors = load_file(selections)
    except Exception as error:  # the library has no common base class
        raise BadFile(f"{selections} is no safetensors file ({error}); run vmoba analyze again") from error
    maps = {int(key[5:]): value for key, value in tensors.items() if key.startswith("layer") and key[5:].isdigit()}
    frames = tensors.get("frames")
    queries = [int(query) for query in tensors.get("queries", np.zeros(0, np.int64))]
    return Analysis(name, path, figures, frames, queries, maps)
