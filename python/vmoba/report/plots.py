# SPDX-License-Identifier: Apache-2.0
"""The pictures of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from .runs import Analysis, Run
from .style import COLOURS, save


def losses(runs: list[Run], path: Path) -> None:
    """Validation and smoothed training loss over steps."""
    figure, axes = plt.subplots(figsize=(6, 4.2))
    # Runs of one seed see the same noise: their training losses lie on each other, so every run has dashes of its own.
    for index, (run, colour) in enumerate(zip(runs, COLOURS * len(runs))):
        if run.steps:
            axes.plot([s["step"] for s in run.steps], [s.get("smoothed", s["loss"]) for s in run.steps], color=colour, lw=1,
                      ls="-" if index == 0 else (2 * index, (4, 4)), marker="." if len(run.steps) == 1 else "",
                      label=f"{run.name}, training (smoothed)")  # fmt: skip
        if run.validations:
            axes.plot([v["step"] for v in run.validations], [v["validation_loss"] for v in run.validations], color=colour, marker="o",
                      ms=4, label=f"{run.name}, validation")  # fmt: skip
    axes.set(xlabel="step", ylabel="loss", title="Loss over steps")
    axes.legend(fontsize=9)
    save(figure, path)


def losses_over_time(runs: list[Run], path: Path) -> bool:
    """Validation loss (training loss where there is none) over minutes; false when no line says its time."""
    figure, axes = plt.subplots(figsize=(6, 4.2))
    drawn = False
    for run, colour in zip(runs, COLOURS * len(runs)):
        source, key = (run.validations, "validation_loss") if run.validations else (run.steps, "loss")
        timed = [line for line in source if "elapsed" in line]
        if timed:
            axes.plot([line["elapsed"] / 60 for line in timed], [line[key] for line in timed], color=colour, marker="o", ms=4, label=run.name)
            drawn = True
    axes.set(xlabel="minutes", ylabel="loss", title="Validation loss over time" if any(run.validations for run in runs) else "Loss over time")
    if drawn:
        axes.legend(fontsize=9)
        save(figure, path)
    else:
        plt.close(figure)
    return drawn


PARTS = ("data", "forward", "backward", "optimizer")


def time_split(runs: list[Run], path: Path) -> bool:
    """Parts of a step's time, a bar a run; false when no run has any."""
    if not any(run.median("seconds", part) > 0 for run in runs for part in PARTS):
        return False
    figure, axes = plt.subplots(figsize=(6.6, 1.6 + 0.55 * len(runs)))
    for row, run in enumerate(runs):
        left = 0.0
        for part, colour in zip(PARTS, COLOURS):
            seconds = run.median("seconds", part)
            if seconds != seconds:
                continue
            axes.barh(row, seconds, left=left, color=colour, label=part if row == 0 else None)
            left += seconds
        whole = run.median("seconds", "step")  # medians of parts do not add up to it
        axes.text(left, row, f"  {left if whole != whole else whole:.2f} s", va="center")
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.invert_yaxis()
    axes.set(xlabel="seconds a step (median)")
    axes.set_title("Where a step's time goes", pad=28)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(PARTS))
    save(figure, path)
    return True


def layer_density(runs: list[Run], path: Path) -> bool:
    """Density of each layer over training; false when no run has any below 1."""
    shown = [run for run in runs if any(value < 1 for value in run.densities())]
    if not shown:
        return False
    figure, all_axes = plt.subplots(1, len(shown), figsize=(5.5 * len(shown), 3.4), squeeze=False)
    for axes, run in zip(all_axes[0], shown):
        lines = [line for line in run.steps if "density" in line]
        for layer in range(len(run.densities())):
            axes.plot([line["step"] for line in lines], [line["density"][layer] for line in lines], color=COLOURS[layer % 3],
                      ls=["-", "--", ":", "-."][layer // 3 % 4], label=f"layer {layer} ({layer % 3 + 1}D)")  # fmt: skip
        axes.set(xlabel="step", ylabel="density", title=f"Density per layer, {run.name}", ylim=(0, None))
        axes.legend(fontsize=8, ncols=2)
    save(figure, path)
    return True


def head_density(analysis: Analysis, path: Path) -> bool:
    """Density per layer and head as a heat map."""
    rows = [(layer["layer"], layer["selection"]["density"]) for layer in analysis.figures.get("layers", []) if "selection" in layer]
    if not rows:
        return False
    values = np.array([density for _, density in rows], dtype=float)
    figure, axes = plt.subplots(figsize=(1.8 + 0.55 * values.shape[1], 1.4 + 0.42 * values.shape[0]))
    picture = axes.imshow(values, vmin=0, vmax=max(0.4, float(values.max())), cmap="viridis")
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=8, fontweight="bold",
                      color="white" if values[y, x] < 0.6 * picture.get_clim()[1] else "black")  # fmt: skip
    axes.grid(False)
    axes.set_yticks(range(len(rows)), [f"layer {layer}" for layer, _ in rows])
    axes.set_xticks(range(values.shape[1]))
    axes.set(xlabel="head", title=f"Density per layer and head, {analysis.name}")
    figure.colorbar(picture, shrink=0.8)
    save(figure, path)
    return True


def overlay(frame: NDArray[np.uint8], share: NDArray[np.float32], query: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A frame with what is attended in colour and bright, the rest darkened; the query's token is framed."""
    height, width = frame.shape[:2]
    heat = cv2.resize(share.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    grey = np.repeat(frame.mean(-1, keepdims=True), 3, -1)
    warm = np.array([255, 150, 0], dtype=np.float32)
    mixed = (1 - heat) * 0.35 * grey + heat * (0.72 * frame + 0.28 * warm)
    out: NDArray[np.uint8] = np.clip(mixed, 0, 255).astype(np.uint8)
    if query is not None:
        y, x = query
        rows, columns = share.shape
        top_left = (x * width // columns, y * height // rows)
        cv2.rectangle(out, top_left, ((x + 1) * width // columns, (y + 1) * height // rows), (255, 40, 40), 2)
    return out


def selections(analysis: Analysis, path: Path, columns: int = 6) -> bool:
    """For the first query: a row of frames a layer, attended tokens bright."""
    if analysis.frames is None or not analysis.maps or not analysis.queries:
        return False
    first = next(iter(analysis.maps.values()))
    _, frames, rows, width = first.shape
    query = analysis.queries[0]
    qt, qy, qx = query // (rows * width), query // width % rows, query % width
    shown = sorted({int(round(t)) for t in np.linspace(0, frames - 1, min(columns, frames))} | {qt})
    layers = sorted(analysis.maps)[:6]
    blocks = {layer["layer"]: layer["selection"]["block"] for layer in analysis.figures.get("layers", []) if "selection" in layer}
    aspect = analysis.frames.shape[1] / analysis.frames.shape[2]
    figure, axes = plt.subplots(len(layers), len(shown), figsize=(1.4 * len(shown), (1.4 * aspect + 0.3) * len(layers)), squeeze=False)
    for row, layer in enumerate(layers):
        for column, t in enumerate(shown):
            cell = axes[row][column]
            cell.imshow(overlay(analysis.frames[t], analysis.maps[layer][0, t], (qy, qx) if t == qt else None))
            cell.set_xticks([])
            cell.set_yticks([])
            cell.grid(False)
            for side in cell.spines.values():
                side.set_visible(False)
            if row == 0:
                cell.set_title(f"frame {t}" + (" (query)" if t == qt else ""), fontsize=9)
            if column == 0:
                cell.set_ylabel(f"layer {layer}\n{blocks.get(layer, '')}")
    save(figure, path, dpi=150)
    return True
