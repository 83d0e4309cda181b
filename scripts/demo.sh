#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job once, on two cores in a quarter of an hour: one small video transformer trained twice from the same seed on
# the same clips, dense and with VMoBA; clips sampled from both; demo/report.html.
set -euo pipefail
cd "$(dirname "$0")/.."
out=demo
steps=${STEPS:-120}

# The user's clips, else those beside the project, else rendered ones.
clips=${VIDEOS:-}
if [[ -z $clips && -d ../shared/data/videos ]]; then clips=../shared/data/videos; fi
if [[ -n $clips && ! -d $clips ]]; then
  echo "demo: VIDEOS=$clips is not a folder; name a folder of video files, or leave VIDEOS out" >&2
  exit 2
fi
data=(--rendered-clips 12) origin="12 clips rendered by the program"
if [[ -n $clips ]]; then data=(--data "$clips" --cache "$out/latents") origin="clips of $clips"; fi

# Crops of 12 x 16 x 20 latents (45 frames of 128 x 160 pixels) from frames of 480 x 720, the size of the clips beside the
# project, are 3,840 tokens: enough for sparse attention to win, few enough for a second or two a step on two cores. Times as they
# are used in sampling: uniform, shifted to 3.
frame=(--height 480 --width 720) crop=12,16,20
cycle="3,f,f;f,4,5;4,4,5"
common=("${data[@]}" "${frame[@]}" --crop "$crop" --steps "$steps" --seed 1 --times uniform --shift 3 --validate-every 40 --checkpoint-every "$steps" --log-every 10)

say() { printf '\ndemo: %s\n' "$*"; }
mkdir -p "$out"
rm -rf "$out/dense" "$out/vmoba"
say "1/4 training dense, $steps steps, $origin"
build/vmoba train --out "$out/dense" --policy dense "${common[@]}"
say "2/4 training with VMoBA, same seed and clips"
build/vmoba train --out "$out/vmoba" --policy threshold:0.25 --cycle "$cycle" "${common[@]}"
say "3/4 sampling a clip from each"
prompt=${PROMPT:-}
for run in dense vmoba; do
  build/vmoba sample --checkpoint "$out/$run" --prompt "$prompt" --steps 20 --seed 7 --guidance 1 --out "$out/$run.mp4"
done
say "4/4 looking at the attention and writing the report"
clip=()
if [[ -n $clips ]]; then
  first=$(find "$clips" -maxdepth 1 -type f \( -name '*.webm' -o -name '*.mp4' -o -name '*.mkv' -o -name '*.gif' -o -name '*.mov' \) | sort | head -1)
  if [[ -n $first ]]; then clip=(--clip "$first"); fi
fi
build/vmoba analyze --checkpoint "$out/vmoba" "${clip[@]}" --out "$out/analysis" >/dev/null
build/vmoba report dense="$out/dense" vmoba="$out/vmoba" --clip dense="$out/dense.mp4" --clip vmoba="$out/vmoba.mp4" \
  --analysis vmoba="$out/analysis" --out "$out/report.html" >/dev/null

.venv/bin/python - "$out" <<'PYTHON'
import json
import sys
from pathlib import Path
from statistics import median

out = Path(sys.argv[1])
runs = {name: [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()] for name in ("dense", "vmoba")}


def losses(rows):
    values = [row["validation_loss"] for row in rows if row.get("validation_loss") is not None]
    return values[0], values[-1]


def seconds(rows):
    return median(row["seconds"]["step"] for row in rows if "seconds" in row)


(d0, d1), (v0, v1) = losses(runs["dense"]), losses(runs["vmoba"])
ds, vs = seconds(runs["dense"]), seconds(runs["vmoba"])
print()
print(f"Trained one video transformer twice on the same clips and seed: dense attention, and VMoBA (1D, 2D, 3D blocks in turn).")
print(f"Validation loss {d0:.3f} -> {d1:.3f} dense, {v0:.3f} -> {v1:.3f} VMoBA; {ds:.2f} s a step dense, {vs:.2f} s VMoBA: {ds / vs:.2f} x as fast.")
print(f"Look at {out}/report.html; the sampled clips are {out}/dense.mp4 and {out}/vmoba.mp4.")
PYTHON
