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
from .runs import Analysis, BadFile, Clip, Run, number

STYLE = """
:root { color-scheme: light dark; --good: #0a7a4b; --line: #8885; --card: #8881; }
@media (prefers-color-scheme: dark) { :root { --good: #58d6a2; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 1.2rem auto 3rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .4rem; }
p { margin: .5rem 0; } .small, figcaption { font-size: .88rem; opacity: .8; } .good { color: var(--good); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: .8rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem; }
.card h3 { margin: 0 0 .2rem; font-size: 1.05rem; } .card dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .9rem; margin: 0; }
.card dt { opacity: .8; } .card dd { margin: 0; font-variant-numeric: tabular-nums; } .card dd b { font-size: 1.1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: right; white-space: nowrap; } th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid var(--line); } tbody tr + tr td { border-top: 1px solid var(--line); }
img { max-width: 100%; } figure { margin: .8rem 0; } figure > img { background: white; border-radius: 6px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: .8rem; } .pair figure { margin: 0; }
.clips { display: flex; flex-wrap: wrap; gap: 1rem; } .clips figure { flex: 1 1 300px; max-width: 540px; margin: 0; }
.clips video, .clips img { width: 100%; border-radius: 6px; } pre { overflow-x: auto; font-size: .85rem; }
"""


def finite(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ("equal" if value == math.inf else "-")


def with_unit(value: float, unit: str, digits: int, factor: float = 1) -> str:
    if not math.isfinite(value):
        return "-"
    return finite(value * factor, digits) + ("" if unit in ("", "x") else " ") + unit


def table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


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
        "tokens": number(run.about.get("tokens")),
        "parameters": number(run.about.get("parameters")),
        "first_validation_loss": first,
        "last_validation_loss": last,
        "fallen_by": 1 - last / first if first else float("nan"),
        "last_loss": next((line.get("smoothed", line["loss"]) for line in reversed(run.steps)), float("nan")),
        "step_seconds": run.median("seconds", "step"),
        "tokens_per_second": run.median("tokens_per_second"),
        "seconds": {part: run.median("seconds", part) for part in plots.PARTS},
        "waiting": run.median("waiting"),
        "peak_memory_bytes": max([line.get("peak_memory", 0.0) for line in run.steps], default=0.0),
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


def ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def praised(html: str, speed: float) -> str:
    """In the colour of good news where it is."""
    return f'<span class="good">{html}</span>' if speed > 1 else f"<b>{html}</b>"


def run_rows(figures: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for one in figures:
        faster = ratio(figures[0]["step_seconds"], one["step_seconds"])
        rows.append([
            one["name"], str(one["steps"]), with_unit(one["fallen_by"], "%", 1, 100), with_unit(one["tokens_per_second"], "", 0),
            with_unit(faster, "x", 2), finite(one["density"]), with_unit(one["waiting"], "%", 1, 100),
            with_unit(one["peak_memory_bytes"], "GB", 2, 1e-9) if one["peak_memory_bytes"] else "-",
        ])  # fmt: skip
    return rows


RUN_HEAD = ["run", "steps", "validation loss fallen by", "tokens/s", "speed-up", "density", "waiting for data", "peak memory"]


def attention_words(options: dict[str, Any]) -> str:
    """What the attention of a run is, from the plan in its options: "dense", or blocks and rule."""
    plan = options.get("plan")
    if not isinstance(plan, dict) or not isinstance(plan.get("cycle"), list):
        return ""
    if plan.get("dense", not plan["cycle"]):
        return "dense attention"
    blocks, rules = [], []
    for layer in plan["cycle"]:
        block, policy = (layer.get("block"), layer.get("policy")) if isinstance(layer, dict) else (None, None)
        if isinstance(block, dict):
            blocks.append(f"runs of {block.get('run')}")
        elif isinstance(block, list):
            blocks.append(" x ".join("full" if extent is None else str(extent) for extent in block))
        if isinstance(policy, dict):
            rules.append(f"{policy.get('name')} {policy.get('amount', '')}".strip())
    return f"VMoBA, blocks {', '.join(blocks)}; {', '.join(dict.fromkeys(rules))}"


def trained_words(run: Run, figures: dict[str, Any]) -> str:
    """What was trained, on what: one sentence from run.json, as far as it says."""
    options = run.about.get("options")
    if not isinstance(options, dict):
        return ""
    size = f" of {figures['parameters'] * 1e-6:.1f} M parameters" if figures["parameters"] else ""
    parts = [f"A video transformer{size}"]
    if all(isinstance(options.get(key), int) for key in ("layers", "heads", "head-dim")):
        parts[0] += f", {options['layers']} layers of {options['heads']} heads x {options['head-dim']}"
    if isinstance(options.get("data"), str) and options["data"]:
        parts.append(f"trained on the clips of {Path(options['data']).name or options['data']}")
    elif isinstance(options.get("rendered-clips"), int):
        parts.append(f"trained on {options['rendered-clips']} clips rendered by the program")
    crop = options.get("crop")
    if isinstance(crop, list) and len(crop) == 3 and all(isinstance(axis, int) for axis in crop):
        parts.append(f"{4 * (crop[0] - 1) + 1} frames of {8 * crop[2]} x {8 * crop[1]} pixels a sample")
    if figures["tokens"]:
        parts.append(f"{figures['tokens']:,.0f} tokens")
    return ", ".join(parts) + "."


def card(run: Run, one: dict[str, Any], base: dict[str, Any]) -> str:
    """A run's losses and speed, for the first screen."""
    options = run.about.get("options")
    rows = []
    first, last = one["first_validation_loss"], one["last_validation_loss"]
    if math.isfinite(last):
        rows.append(("validation loss", (f"{finite(first)} to " if len(run.validations) > 1 else "") + f"<b>{finite(last)}</b>"))
    if math.isfinite(one["last_loss"]):
        rows.append(("training loss", f"{finite(one['last_loss'])} (smoothed)"))
    speed = ratio(base["step_seconds"], one["step_seconds"])
    if math.isfinite(one["step_seconds"]):
        times = "" if one is base or not math.isfinite(speed) else f", {praised(f'{finite(speed, 2)}x as fast', speed)}"
        rows.append(("a step", f"<b>{finite(one['step_seconds'], 2)} s</b>{times}"))
    rows.append(("steps", str(one["steps"])))
    if math.isfinite(one["density"]) and one["density"] < 1:
        rows.append(("density", f"{finite(one['density'])} of all query-key pairs"))
    what = attention_words(options) if isinstance(options, dict) else ""
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<div class="card"><h3>{escape(one["name"])}</h3><p class="small">{escape(what)}</p><dl>{items}</dl></div>'


def players(clips: list[Clip]) -> str:
    figures = "".join(
        f"<figure>{clip_tools.element(clip.path, escape(clip.name))}<figcaption>{escape(clip.name)}</figcaption></figure>" for clip in clips
    )
    return f'<h2>Sampled clips</h2><div class="clips">{figures}</div>'


def clip_measures(clips: list[Clip], report: dict[str, Any]) -> str:
    frames = {clip.name: clip_tools.read(clip.path) for clip in clips}
    measures = {name: clip_tools.motion(these) for name, these in frames.items()}
    report["clips"] = measures
    rows = [
        [name, str(len(frames[name])), f"{frames[name].shape[2]}x{frames[name].shape[1]}", finite(one["flow"], 2), finite(one["flow_top"], 2),
         "yes" if one["dynamic"] else "no", finite(one["flicker"], 2), finite(one["frame_difference"], 2)]
        for name, one in measures.items()
    ]  # fmt: skip
    html = "<h2>Motion and likeness of the clips</h2>"
    html += table(["clip", "frames", "size", "flow (px/frame)", "fastest 5 % (px/frame)", "dynamic", "flicker", "frame difference"], rows)
    share = sum(one["dynamic"] for one in measures.values()) / len(measures)
    report["dynamic_degree"] = share
    html += (f'<p class="small">Optical flow after Farneback (OpenCV); dynamic: the fastest 5 % of pixels move at least '
             f"{clip_tools.DYNAMIC_PIXELS:g} pixel a frame at 320 pixels of width ({100 * share:.0f} % of clips). Flicker: mean absolute change of "
             "luma from frame to frame where nothing moves; frame difference: everywhere; both of 255.</p>")  # fmt: skip
    pairs = []
    names = list(frames)
    for other in names[1:]:
        a, b = frames[names[0]], frames[other]
        if a.shape != b.shape or min(a.shape[1:3]) < 11:
            continue
        psnr, ssim = clip_tools.psnr(a, b), clip_tools.ssim(a, b)
        pairs.append({"of": other, "against": names[0], "psnr": psnr, "ssim": ssim})
        html += (f"<p>{escape(other)} against {escape(names[0])}: PSNR {with_unit(psnr, 'dB', 2) if psnr < math.inf else 'equal'}, SSIM {finite(ssim)}. "
                 "Between two models trained apart this says how far they drifted, not which is better.</p>")  # fmt: skip
    report["pairs"] = pairs
    return html


def highest_lift(figures: dict[str, Any]) -> str:
    """Where the colours of neighbourhoods.png end: the largest lift of any head, at least 1."""
    layers = figures.get("layers")
    heads = [head for layer in layers if isinstance(layer.get("heads"), list) for head in layer["heads"]] if isinstance(layers, list) else []
    lifts = [head["lift_1d_2d_3d"] for head in heads if isinstance(head, dict) and isinstance(head.get("lift_1d_2d_3d"), list)]
    values = [value for lift in lifts for item in lift if (value := number(item)) is not None]
    return f"{max([1.0, *values]):.2f}x" if values else "the most of them"


def replace(path: Path, text: str) -> None:
    """Writes path whole or leaves it as it was."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        clip_tools.check(clip.path)
    folder = out.parent
    folder.mkdir(parents=True, exist_ok=True)
    figures = [figures_of(run) for run in runs]
    report: dict[str, Any] = {"format": "vmoba-report-1", "title": title, "machine": machine, "runs": figures}

    html = f"<h1>{escape(title)}</h1><p>{escape(trained_words(runs[0], figures[0]))}</p>"
    if len(figures) > 1:
        base, last = figures[0], figures[-1]
        gap = abs(ratio(last["last_validation_loss"], base["last_validation_loss"]) - 1)
        speed = ratio(base["step_seconds"], last["step_seconds"])
        report["speed_up"], report["validation_gap"] = speed, gap
        said = []
        if math.isfinite(speed):
            said.append(praised(f"A step of {escape(last['name'])} is {finite(speed, 2)}x as fast as one of {escape(base['name'])}", speed)
                        + ", selection included")  # fmt: skip
        if math.isfinite(gap):
            said.append(f"{'v' if said else 'V'}alidation losses end {finite(100 * gap, 1)} % apart")
        html += f"<p>{'; '.join(said)}.</p>" if said else ""
    html += '<div class="cards">' + "".join(card(run, one, figures[0]) for run, one in zip(runs, figures)) + "</div>"
    if clips:
        html += players(clips)

    plots.losses(runs, folder / "losses.png")
    html += '<h2>Losses</h2><div class="pair">' + picture(folder / "losses.png", "Loss over steps. Validation uses the same clips, noise and times in every run, so the curves compare step by step.")
    if plots.losses_over_time(runs, folder / "losses-time.png"):
        html += picture(folder / "losses-time.png", "Loss over the time that training took, validation included.")
    html += "</div>"
    html += "<h2>Time and memory</h2>" + table(RUN_HEAD, run_rows(figures))
    if plots.time_split(runs, folder / "time.png"):
        html += picture(folder / "time.png", "Where the time of a step goes: median over steps; selection is part of forward.")
    if plots.layer_density(runs, folder / "density.png"):
        html += "<h2>Density in training</h2>" + picture(folder / "density.png", "Share of query-key pairs kept, per layer, mean over heads.")
    if clips:
        html += clip_measures(clips, report)
    report["analyses"] = []
    for number, analysis in enumerate(analyses):
        report["analyses"].append({"name": analysis.name, "layers": analysis.figures.get("layers", [])})
        html += f"<h2>Attention of {escape(analysis.name)}</h2>"
        if plots.selections(analysis, folder / f"selection-{number}.png"):
            html += picture(folder / f"selection-{number}.png", "What one query (red frame) attends: bright and warm where all heads select the token's block, grey where none does.")
        if plots.head_density(analysis, folder / f"heads-{number}.png"):
            html += picture(folder / f"heads-{number}.png", "Each head gets its own share: the threshold keeps more where attention is spread.")
        for name, caption in (
            ("neighbourhoods", "Attention on the keys near the query in time (1D, left), in space (2D), in both (3D, right), over what uniform attention "
             f"would put there: dark blue 0x, yellow {highest_lift(analysis.figures)}; rows are layers, columns heads."),
            ("top_quarter", "Attention held by the best 25 % of keys for each sampled query: dark blue 25 %, as uniform attention has it, yellow 100 %; one "
             "band a layer, rows are heads, columns queries in raster order."),
            ("half_pairs", "Share of pairs that holds half of a head's attention: dark blue 0 %, yellow 50 %, as uniform attention has it; rows are layers, "
             "columns heads."),
        ):  # fmt: skip
            if (analysis.path / f"{name}.png").is_file():
                html += picture(analysis.path / f"{name}.png", caption)
    options = {run.name: run.about.get("options", {}) for run in runs}
    html += f"<details><summary>Options of the runs</summary><pre>{escape(json.dumps(options, indent=2))}</pre></details>"
    html += f'<p class="small">{escape(machine_line(machine))}</p>'
    page = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{html}</body></html>\n")  # fmt: skip
    clean: dict[str, Any] = without_nan(report)
    replace(folder / "report.json", json.dumps(clean, indent=1) + "\n")
    replace(out, page)
    return clean
