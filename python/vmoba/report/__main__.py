# SPDX-License-Identifier: Apache-2.0
"""Command line of the report; what `vmoba report` runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .page import write
from .runs import Clip, named_apart, read_analysis, read_run, refusing


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vmoba.report", description=__doc__)
    parser.add_argument("runs", nargs="+", help="training run folders, NAME=DIR or DIR")
    parser.add_argument("--clip", action="append", default=[], help="sampled clips, NAME=FILE or FILE")
    parser.add_argument("--analysis", action="append", default=[], help="folders of vmoba analyze, NAME=DIR or DIR")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.add_argument("--title", default="", help="left out: the names of the runs")
    parser.add_argument("--machine", default="{}", help="JSON of the machine and the commit")
    parser.add_argument("--json", action="store_true", help="print report.json")
    arguments = parser.parse_args(words)

    def work() -> None:
        runs = [read_run(*item) for item in named_apart(arguments.runs)]
        figures = write(
            out=arguments.out,
            title=arguments.title or f"Training: {', '.join(run.name for run in runs)}",
            runs=runs,
            clips=[Clip(*item) for item in named_apart(arguments.clip)],
            analyses=[read_analysis(*item) for item in named_apart(arguments.analysis)],
            machine=json.loads(arguments.machine),
        )
        if arguments.json:
            print(json.dumps(figures, indent=2))
        else:
            print(f"{arguments.out} written ({arguments.out.stat().st_size / 1e6:.1f} MB), with report.json and pictures beside it")

    return refusing(work, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
