# SPDX-License-Identifier: Apache-2.0
"""Puts the page together: one HTML file that carries its pictures and clips, PNGs and report.json beside it."""

from __future__ import annotations

import base64
import json
import math
import os
from html import escape
from pathlib import Path
from typing import Any

from . import clips as clip_tools
from . import plots
from .runs import Analysis, BadFile, Clip, Run

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .9rem .3rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #8888; } tbody tr + tr td { border-top: 1px solid #8884; }
img { max-width: 100%; background: white; } figure { margin: 1rem 0; } figcaption, .small { font-size: .88rem; opacity: .8; }
.clips { display: flex; flex-wrap: wrap; gap: 1rem; } .clips figure { flex: 1 1 320px; } .clips video, .clips img { width: 100%; image-rendering: auto; }
.good { color: #0a7a4b; font-weight: 600; }
"""


def finite(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ("equal" if value == math.inf else "-")


def table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'


def figures_of(run: Run) -> dict[str, Any]:
    first = run.validations[0]["validation_loss"] if run.validations else float("nan")
    last = run.validations[-1]["validation_loss"] if run.validations else float("nan")
    densities = run.densities()
    return {
        "name": run.name,
        "steps": max([line["step"] for line in run.steps + run.validations], default=0),
        "tokens": run.about.get("tokens"),
        "parameters": run.about.get("parameters"),
        "first_validation_loss": first,
        "last_validation_loss": last,
        "fallen_by": 1 - last / first if first else float("nan"),
        "step_seconds": run.median("seconds", "step"),
        "tokens_per_second": run.median("tokens_per_second"),
        "seconds": {part: run.median("seconds", part) for part in plots.PARTS},
        "waiting": run.median("waiting"),
        "peak_memory_bytes": max([line.get("peak_memory", 0) for line in run.steps], default=0),
        "density_per_layer": densities,
        "density": sum(densities) / len(densities) if densities else float("nan"),
    }


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list) else value


def run_rows(figures: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for one in figures:
        faster = figures[0]["step_seconds"] / one["step_seconds"]
        rows.append([
            one["name"], str(one["steps"]), str(one["tokens"] or "-"), finite(one["first_validation_loss"]), finite(one["last_validation_loss"]),
            finite(100 * one["fallen_by"], 1) + " %", finite(one["step_seconds"], 2) + " s", finite(one["tokens_per_second"], 0),
            finite(faster, 2) + "x", finite(one["density"]), finite(100 * one["waiting"], 1) + " %", f"{one['peak_memory_bytes'] / 1e9:.2f} GB",
        ])  # fmt: skip
    return rows


RUN_HEAD = ["run", "steps", "tokens", "validation loss at first", "at last", "fallen by", "a step", "tokens/s", "speed-up", "density",
            "waiting for data", "peak memory"]  # fmt: skip


def clip_section(clips: list[Clip], report: dict[str, Any]) -> str:
    frames = {clip.name: clip_tools.read(clip.path) for clip in clips}
    measures = {name: clip_tools.motion(these) for name, these in frames.items()}
    report["clips"] = measures
    html = '<h2>Sampled clips</h2><div class="clips">'
    for clip in clips:
        html += f"<figure>{clip_tools.element(clip.path, escape(clip.name))}<figcaption>{escape(clip.name)}</figcaption></figure>"
    html += "</div>"
    rows = [
        [name, str(len(frames[name])), f"{frames[name].shape[2]}x{frames[name].shape[1]}", finite(one["flow"], 2), finite(one["flow_top"], 2),
         "yes" if one["dynamic"] else "no", finite(one["flicker"], 2), finite(one["frame_difference"], 2)]
        for name, one in measures.items()
    ]  # fmt: skip
    html += table(["clip", "frames", "size", "flow (px/frame)", "fastest 5 %", "dynamic", "flicker", "frame difference"], rows)
    share = sum(one["dynamic"] for one in measures.values()) / len(measures)
    report["dynamic_degree"] = share
    html += (f'<p class="small">Optical flow after Farneback (OpenCV); dynamic: the fastest 5 % of pixels move at least '
             f"{clip_tools.DYNAMIC_PIXELS:g} pixel a frame at 320 pixels of width ({100 * share:.0f} % of clips). Flicker: mean absolute change of "
             "luma where nothing moves, of 255.</p>")  # fmt: skip
    pairs = []
    names = list(frames)
    for other in names[1:]:
        a, b = frames[names[0]], frames[other]
        if a.shape != b.shape or min(a.shape[1:3]) < 11:
            continue
        pair = {"of": other, "against": names[0], "psnr": clip_tools.psnr(a, b), "ssim": clip_tools.ssim(a, b)}
        pairs.append(pair)
        html += (f"<p>{escape(other)} against {escape(names[0])}: PSNR {finite(pair['psnr'], 2)} dB, SSIM {finite(pair['ssim'])}. "
                 "Between two models trained apart this says how far they drifted, not which is better.</p>")  # fmt: skip
    report["pairs"] = pairs
    return html


def machine_line(machine: dict[str, Any]) -> str:
    parts = [str(machine.get("cpu", "")), f"{machine['cores']} cores" if machine.get("cores") else ""]
    if machine.get("version"):
        parts.append(f"vmoba {machine['version']} ({machine.get('commit', 'unknown')})")
    if machine.get("torch"):
        parts.append(f"torch {machine['torch']}")
    return ", ".join(part for part in parts if part)


def write(*, out: Path, title: str, runs: list[Run], clips: list[Clip], analyses: list[Analysis], machine: dict[str, Any]) -> dict[str, Any]:
    """Writes out, report.json and PNGs into out's folder; returns what report.json holds. The first run is the baseline.

    Raises BadFile for clips that cannot be decoded, OSError where nothing can be written; out is replaced last.
    """
    for clip in clips:
        if not clip.path.exists():
            raise BadFile(f"{clip.path} does not exist; give clips that vmoba sample wrote")
    folder = out.parent
    folder.mkdir(parents=True, exist_ok=True)
    figures = [figures_of(run) for run in runs]
    report: dict[str, Any] = {"format": "vmoba-report-1", "title": title, "machine": machine, "runs": figures}

    html = f"<h1>{escape(title)}</h1><p class=small>{escape(machine_line(machine))}</p>"
    if len(figures) > 1:
        base, last = figures[0], figures[-1]
        gap = abs(last["last_validation_loss"] / base["last_validation_loss"] - 1) if base["last_validation_loss"] else float("nan")
        speed = base["step_seconds"] / last["step_seconds"]
        report["speed_up"], report["validation_gap"] = speed, gap
        html += (f'<p><span class="good">{escape(last["name"])} takes {finite(speed, 2)}x fewer seconds a step than {escape(base["name"])}</span> '
                 f"at a mean attention density of {finite(last['density'])}, selection included; validation losses end "
                 f"{finite(100 * gap, 1)} % apart.</p>")  # fmt: skip
    html += table(RUN_HEAD, run_rows(figures))

    plots.losses(runs, folder / "losses.png")
    html += "<h2>Losses</h2>" + picture(folder / "losses.png", "Validation uses the same clips, noise and times in every run, so the curves compare step by step.")
    plots.time_split(runs, folder / "time.png")
    html += "<h2>Time</h2>" + picture(folder / "time.png", "Median over steps; selection is part of forward.")
    if clips:
        html += clip_section(clips, report)
    if plots.layer_density(runs, folder / "density.png"):
        html += "<h2>Density in training</h2>" + picture(folder / "density.png", "Share of query-key pairs kept, per layer, mean over heads.")
    report["analyses"] = []
    for number, analysis in enumerate(analyses):
        report["analyses"].append({"name": analysis.name, "layers": analysis.figures.get("layers", [])})
        html += f"<h2>Attention of {escape(analysis.name)}</h2>"
        if plots.selections(analysis, folder / f"selection-{number}.png"):
            html += picture(folder / f"selection-{number}.png", "What one query (red frame) attends: bright and warm where all heads select the token's block, grey where none does.")
        if plots.head_density(analysis, folder / f"heads-{number}.png"):
            html += picture(folder / f"heads-{number}.png", "Each head gets its own share: the threshold keeps more where attention is spread.")
        for name, caption in (
            ("neighbourhoods", "Attention near the query in time (1D), in space (2D), in both (3D), over uniform attention; rows are layers, columns heads."),
            ("top_quarter", "Mass held by the best 25 % of keys for each sampled query; one band a layer, rows are heads, columns queries in raster order."),
            ("half_pairs", "Share of pairs that holds half of a head's attention; rows are layers, columns heads; yellow is uniform attention."),
        ):  # fmt: skip
            if (analysis.path / f"{name}.png").is_file():
                html += picture(analysis.path / f"{name}.png", caption)
    options = {run.name: run.about.get("options", {}) for run in runs}
    html += f"<details><summary>Options of the runs</summary><pre>{escape(json.dumps(options, indent=2))}</pre></details>"
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>{html}</body></html>\n'
    clean: dict[str, Any] = without_nan(report)
    (folder / "report.json").write_text(json.dumps(clean, indent=1) + "\n", encoding="utf-8")
    temporary = out.with_name(out.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, out)
    return clean
