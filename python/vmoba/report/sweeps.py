# SPDX-License-Identifier: Apache-2.0
"""Pictures of a file that `vmoba bench --suite sweeps` wrote: speed-up over tokens, density, blocks and dtypes; a roofline.

    python -m vmoba.report.sweeps bench/results/FILE.json

writes FILE-tokens.svg, FILE-density.svg, FILE-blocks.svg, FILE-dtypes.svg, FILE-memory.svg and FILE-roofline.svg beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .runs import BadFile, read_json, refusing
from .style import COLOURS, save

DIRECTIONS = ("forward", "forward+backward")
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS
GREY = "#666666"
FLEX = ("density", "seconds", "sdpa_seconds", "vmoba_seconds")
MEMORY = {
    "select_bytes": "select, beyond it",
    "forward_bytes": "forward, beyond it",
    "backward_bytes": "backward, beyond it",
    "tensors_bytes": "what the process holds with its tensors",
}


@dataclass(frozen=True)
class Point:
    """A row of a case: one contender at one point of a sweep."""

    sweep: str
    data: str
    tokens: int
    dim: int
    dtype: str
    contender: str
    direction: str
    layer: str
    blocks: int
    density: float
    gflops: float
    intensity: float  # FLOPs by selected pairs a byte of tensors
    spread: float  # interquartile range over median
    over_torch: float  # nan: torch has no such direction
    selection: float  # share of the time; nan: none


@dataclass(frozen=True)
class Sweeps:
    caption: str
    peak: float  # GFLOP/s of the tier that ran
    tier: str
    bandwidth: float  # GB/s
    points: list[Point]
    memory: list[dict[str, float]]  # MEMORY and tokens
    flex: list[dict[str, float]]  # FLEX

    def of(self, sweep: str, **wanted: Any) -> list[Point]:
        return [
            p for p in self.points if p.sweep == sweep and all(getattr(p, name) == value for name, value in wanted.items())
        ]

    def data_of(self, sweep: str) -> list[str]:
        return list(dict.fromkeys(p.data for p in self.of(sweep)))


def point_of(case: dict[str, Any], row: dict[str, Any]) -> Point:
    seconds = float(row["seconds"]["median"])
    return Point(
        sweep=str(case["sweep"]),
        data=str(case["data"]),
        tokens=int(case["tokens"]),
        dim=int(case["dim"]),
        dtype=str(row["dtype"]),
        contender=str(row["contender"]),
        direction=str(row["direction"]),
        layer=str(row.get("layer", "")),
        blocks=int(row.get("blocks", 0)),
        density=float(row["density"]),
        gflops=float(row["flops"]) / seconds / 1e9,
        intensity=float(row["flops"]) / float(row["bytes"]),
        spread=float(row["seconds"]["spread"]),
        over_torch=float(row.get("over_torch", "nan")),
        selection=float(row.get("selection_seconds", "nan")) / seconds,
    )


def memory_of(row: dict[str, Any]) -> dict[str, float]:
    t, y, x = row["grid"]
    return {"tokens": float(t * y * x)} | {name: float(row[name]) for name in MEMORY}


def read_sweeps(path: Path) -> Sweeps:
    """Raises BadFile for anything else than a file of the suite."""
    way_out = "give a file that vmoba bench --suite sweeps --out wrote"
    try:
        data = read_json(path)
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror}); {way_out}") from error
    if data.get("format") != "vmoba-bench-1" or data.get("suite") != "sweeps":
        raise BadFile(f"{path} is not of format vmoba-bench-1 and suite sweeps; {way_out}")
    try:
        machine = data["machine"]
        peak = next(one for one in data["peaks"] if one["tier"] == data["peak_tier"])
        flex = data["flex_attention"].get("runs", [])
        return Sweeps(
            caption=f"{machine['cpu']}, {data['threads']} threads of {machine['cores']} cores; vmoba {machine['version']} ({machine['commit']}), "
            f"torch {machine['torch']}; {data['when'][:10]}; preset {data['cases'][0]['preset']}" + ("; quick" if data["quick"] else ""),
            peak=float(peak["flops_per_second"]) / 1e9,
            tier=str(peak["tier"]),
            bandwidth=float(data["bandwidth"]["bytes_per_second"]) / 1e9,
            points=[point_of(case, row) for case in data["cases"] for row in case["rows"]],
            memory=[memory_of(one) for one in data["memory"] if "skipped" not in one],
            flex=[{name: float(run[name]) for name in FLEX} for run in flex if "tiles" in run["selection"]],
        )
    except KeyError as error:
        raise BadFile(f"{path} has no {error} where one belongs; {way_out}") from error
    except (TypeError, ValueError, AttributeError, IndexError, StopIteration, ArithmeticError) as error:
        raise BadFile(f"{path} holds a value that no run writes ({str(error) or 'no peak of its tier'}); {way_out}") from error


def plain(axis: Any, ticks: list[float] | None = None) -> None:
    """Numbers as people write them on a logarithmic axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    if ticks is not None:
        axis.set_ticks(ticks)


def line(axes: Any, points: list[Point], x: Callable[[Point], float], y: Callable[[Point], float] | None = None, **style: Any) -> None:
    """Medians with their interquartile ranges."""
    points = sorted(points, key=x)
    values = [(y or (lambda p: p.over_torch))(p) for p in points]
    axes.errorbar([x(p) for p in points], values, yerr=[v * p.spread / 2 for v, p in zip(values, points)], capsize=2, lw=1.6, ms=5,
                  elinewidth=1, **style)  # fmt: skip


def finish(figure: Any, sweeps: Sweeps, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=12)
    figure.text(0.5, 0.005, sweeps.caption, ha="center", va="bottom", fontsize=7.5, color=GREY)
    figure.supxlabel(" ", fontsize=6)  # room for the caption
    options = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
    save(figure, path, **options)


def panels(rows: list[str], columns: tuple[str, ...], height: float = 3.3) -> tuple[Any, Any]:
    """A row of panels a kind of data, sharing scales."""
    return plt.subplots(len(rows), len(columns), figsize=(10.5, 0.9 + height * len(rows)), sharex=True, sharey="col", squeeze=False)


def shared_axis(axes: Any, name: str, ticks: list[float], last: bool) -> None:
    """The x axis of a column of panels: its numbers and name stand below the last one."""
    axes.set_xscale("log")
    plain(axes.xaxis, ticks)
    axes.tick_params(axis="x", labelbottom=last)
    if last:
        axes.set_xlabel(name)


def speed_panel(axes: Any, title: str) -> None:
    axes.axhline(1, color=GREY, lw=1)
    axes.set_yscale("log", base=2)
    plain(axes.yaxis)
    axes.set_title(title, fontsize=10)


OVER_TORCH = "times torch SDPA"


def over_tokens(sweeps: Sweeps, path: Path) -> None:
    data = sweeps.data_of("tokens")
    figure, all_axes = panels(data, DIRECTIONS)
    for row, kind in enumerate(data):
        for column, direction in enumerate(DIRECTIONS):
            axes = all_axes[row][column]
            mine = sweeps.of("tokens", data=kind, direction=direction)
            for layer, colour, marker in zip(("1D", "2D", "3D"), (BLUE, ORANGE, GREEN), "o^s"):
                line(axes, [p for p in mine if p.layer == layer], lambda p: p.tokens, color=colour, marker=marker, label=f"VMoBA, {layer} blocks")
            line(axes, [p for p in mine if p.contender == "vmoba-dense"], lambda p: p.tokens, color=PINK, marker="D", ls="--", label="our dense")
            shared_axis(axes, "tokens", sorted({float(p.tokens) for p in sweeps.of("tokens")}), row + 1 == len(data))
            speed_panel(axes, f"{direction}, {kind} data")
            if column == 0:
                axes.set_ylabel(OVER_TORCH)
    all_axes[0][0].legend(fontsize=8)
    finish(figure, sweeps, "Speed-up over tokens: the presets' own policy, selection included; torch: the better of f32 and bf16", path)


def over_density(sweeps: Sweeps, path: Path) -> None:
    data = sweeps.data_of("density")
    figure, all_axes = panels(data, DIRECTIONS)
    flex_row = data.index("random") if "random" in data else 0
    for row, kind in enumerate(data):
        for column, direction in enumerate(DIRECTIONS):
            axes = all_axes[row][column]
            mine = sweeps.of("density", data=kind, direction=direction)
            sparse = [p for p in mine if p.contender == "vmoba-sparse" and not p.layer.endswith("policy")]
            line(axes, sparse, lambda p: p.density, color=BLUE, marker="o", label="VMoBA, 3D blocks, selection included")
            for dense in (p for p in mine if p.contender == "vmoba-dense"):
                ends = [min((p.density for p in sparse), default=1.0), 1.0]
                axes.plot(ends, [dense.over_torch / d for d in ends], color=GREY, ls=":", lw=1.4, label="our dense / density")
                line(axes, [dense], lambda p: p.density, color=PINK, marker="D", ls="", label="our dense")
            line(axes, [p for p in mine if p.layer.endswith("policy")], lambda p: p.density, color=ORANGE, marker="*", ls="",
                 label="the preset's policy")  # fmt: skip
            if row == flex_row and column == 0 and sweeps.flex:
                runs = sorted(sweeps.flex, key=lambda run: run["density"])
                for key, colour, label in (("seconds", GREEN, "FlexAttention"), ("vmoba_seconds", SKY, "vmoba.attend")):
                    axes.plot([r["density"] for r in runs], [r["sdpa_seconds"] / r[key] for r in runs], color=colour, marker="s", ms=4,
                              lw=1.4, ls="--", label=f"{label} on whole tiles, without selection")  # fmt: skip
            shared_axis(axes, "density", [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0], row + 1 == len(data))
            speed_panel(axes, f"{direction}, {kind} data")
            if column == 0:
                axes.set_ylabel(OVER_TORCH)
    all_axes[flex_row][0].legend(fontsize=8, loc="lower left")
    finish(figure, sweeps, f"Speed-up over density, {tokens_text(sweeps.of('density'))}", path)


def over_blocks(sweeps: Sweeps, path: Path) -> None:
    data = sweeps.data_of("blocks")
    figure, all_axes = panels(data, ("speed", "selection"))
    for row, kind in enumerate(data):
        speed, share = all_axes[row]
        for direction, colour, marker in zip(DIRECTIONS, (BLUE, ORANGE), "o^"):
            mine = sweeps.of("blocks", data=kind, direction=direction)
            sparse = [p for p in mine if p.contender == "vmoba-sparse"]
            line(speed, sparse, lambda p: p.blocks, color=colour, marker=marker, label=direction)
            for dense in (p for p in mine if p.contender == "vmoba-dense"):
                speed.axhline(dense.over_torch, color=colour, ls="--", lw=1.2, label=f"our dense, {direction}")
            line(share, sparse, lambda p: p.blocks, lambda p: 100 * p.selection, color=colour, marker=marker, label=direction)
        for axes in (speed, share):
            shared_axis(axes, "number of blocks", sorted({float(p.blocks) for p in sweeps.of("blocks") if p.blocks}), row + 1 == len(data))
        speed_panel(speed, f"speed-up, {kind} data")
        speed.set_ylabel(OVER_TORCH)
        share.set_title(f"selection, {kind} data", fontsize=10)
        share.set_ylabel("% of the time")
        share.set_ylim(0, None)
    all_axes[0][0].legend(fontsize=8)
    finish(figure, sweeps, f"Speed-up over the number of blocks, density 0.2, {tokens_text(sweeps.of('blocks'))}", path)


def over_dtypes(sweeps: Sweeps, path: Path) -> None:
    data = sweeps.data_of("dtypes")
    sparse = sweeps.of("dtypes", contender="vmoba-sparse")
    names = sorted({(p.dim, p.dtype) for p in sparse}, key=lambda name: (name[0], ["f32", "bf16", "f16"].index(name[1])))
    figure, all_axes = plt.subplots(1, 2, figsize=(10.5, 3.9), sharey=True)
    for axes, direction in zip(all_axes, DIRECTIONS):
        for place, (kind, colour) in enumerate(zip(data, COLOURS)):
            mine = {(p.dim, p.dtype): p.over_torch for p in sparse if p.data == kind and p.direction == direction}
            width = 0.8 / len(data)
            axes.bar([i + (place - (len(data) - 1) / 2) * width for i in range(len(names))], [mine.get(name, 0) for name in names], width,
                     color=colour, label=f"{kind} data")  # fmt: skip
        axes.set_xticks(range(len(names)), [f"{dtype}\nD {dim}" for dim, dtype in names])
        axes.grid(axis="x", visible=False)
        axes.axhline(1, color=GREY, lw=1)
        axes.set_title(direction, fontsize=10)
    all_axes[0].set_ylabel(OVER_TORCH)
    all_axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    finish(figure, sweeps, f"Speed-up by dtype and head dim, 3D blocks, density 0.2, {tokens_text(sparse)}", path)


def memory(sweeps: Sweeps, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    rows = sorted(sweeps.memory, key=lambda row: row["tokens"])
    tokens = [row["tokens"] for row in rows]
    for (key, label), colour, marker in zip(MEMORY.items(), (GREEN, BLUE, ORANGE, GREY), "s^oD"):
        # A call that takes no new page at all is drawn at 10 kB: a logarithm has no 0.
        axes.plot(tokens, [max(row[key], 1e4) / 1e6 for row in rows], color=colour, marker=marker, ms=5, label=label,
                  ls="--" if colour == GREY else "-")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain(axes.xaxis, tokens)
    plain(axes.yaxis)
    axes.set(xlabel="tokens", ylabel="MB")
    axes.legend(fontsize=8)
    finish(figure, sweeps, "Memory of each call, 3D blocks", path)


def roofline(sweeps: Sweeps, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(10.5, 5.6))
    kinds = [
        ("torch-sdpa", GREY, "torch SDPA"),
        ("vmoba-dense", PINK, "our dense"),
        ("vmoba-sparse", BLUE, "VMoBA, selection included"),
        ("select", GREEN, "selection alone (gates)"),
    ]
    for contender, colour, label in kinds:
        for direction, marker in (*zip(DIRECTIONS, "o^"), ("select", "x")):
            shown = [p for p in sweeps.points if p.direction == direction and (direction if direction == "select" else p.contender) == contender]
            if shown:
                name = label if direction == "select" else f"{label}, {direction}"
                axes.scatter([p.intensity for p in shown], [p.gflops for p in shown], s=26, color=colour, marker=marker, alpha=0.6, lw=1,
                             edgecolors=None if marker == "x" else "none", label=name)  # fmt: skip
    far = [p.intensity for p in sweeps.points]
    ridge = sweeps.peak / sweeps.bandwidth
    ends = [min([*far, ridge]) / 2, ridge, max([*far, ridge]) * 2]
    axes.plot(ends, [min(sweeps.peak, sweeps.bandwidth * x) for x in ends], color="black", lw=1.5)
    axes.text(ends[2], sweeps.peak * 1.05, f"multiply-adds of {sweeps.tier}: {sweeps.peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=9)
    axes.text(ends[0] * 1.6, sweeps.bandwidth * ends[0] * 1.1, f"memory: {sweeps.bandwidth:.1f} GB/s", ha="left", va="bottom", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain(axes.xaxis)
    plain(axes.yaxis)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_ylim(min([p.gflops for p in sweeps.points] + [sweeps.bandwidth * ends[0]]) / 1.3, sweeps.peak * 1.5)
    axes.set(xlabel="FLOPs by selected pairs a byte of tensors, each read or written once", ylabel="GFLOP/s by selected pairs")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    finish(figure, sweeps, "Roofline, every point of every sweep", path)


def tokens_text(points: list[Point]) -> str:
    counts = sorted({p.tokens for p in points})
    return " and ".join(f"{count:,}" for count in counts) + " tokens"


FIGURES: dict[str, Callable[[Sweeps, Path], None]] = {
    "tokens": over_tokens,
    "density": over_density,
    "blocks": over_blocks,
    "dtypes": over_dtypes,
    "memory": memory,
    "roofline": roofline,
}


def draw(source: Path, folder: Path, ending: str) -> list[Path]:
    sweeps = read_sweeps(source)
    out = []
    for name, figure in FIGURES.items():
        if name in ("memory", "roofline") or sweeps.of(name):
            if name == "memory" and not sweeps.memory:
                continue
            out.append(folder / f"{source.stem}-{name}.{ending}")
            figure(sweeps, out[-1])
    return out


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vmoba.report.sweeps", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON of vmoba bench --suite sweeps")
    parser.add_argument("--out", type=Path, help="folder; the file's own unless given")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    arguments = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "vmoba"  # the same file gives the same pictures, byte by byte

    def work() -> None:
        for path in draw(arguments.file, arguments.out or arguments.file.parent, arguments.format):
            print(f"{path} written")

    return refusing(work, arguments.out or arguments.file.parent)


if __name__ == "__main__":
    sys.exit(main())
