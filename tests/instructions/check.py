#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of fixed problems (valgrind, callgrind) and compares them with the kept counts.

    check.py PROGRAM [--update]

More than 3 % above a kept count fails; more than 3 % below asks for --update, which writes counts.json. Counts belong to one compiler, build
type and valgrind: with others the check is skipped in words. Ends with "N passed, N failed, N skipped"; exit code 1 when one failed.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

KEPT = pathlib.Path(__file__).with_name("counts.json")
TIERS = ("cpu:haswell", "cpu:generic")  # valgrind 3.19 does not run AVX-512
TOLERANCE = 0.03


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True)


def skip(why, names=1):
    print(f"instruction counts: skipped, {why}")
    print(f"0 passed, 0 failed, {names} skipped")
    sys.exit(0)


def count(program, tier, problem):
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no", "--toggle-collect=measured", program, tier, problem],
        capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found or int(found[1]) == 0:
        raise RuntimeError(f"{tier} {problem}: no count\n{done.stderr}")
    return int(found[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()

    head, *problems = output(arguments.program).stdout.splitlines()
    try:
        made_by = f"{head}; {output('valgrind', '--version').stdout.strip()}"
    except FileNotFoundError:
        skip("valgrind is not installed")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"made_by": "", "counts": {}}
    if not arguments.update and kept["made_by"] != made_by:
        skip(f"the kept counts are of {kept['made_by'] or 'nothing'}, this is {made_by}")

    work = [(tier, problem) for tier in TIERS for problem in problems]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = {f"{tier} {problem}": n for (tier, problem), n in zip(work, pool.map(lambda w: count(arguments.program, *w), work))}
    if arguments.update:
        KEPT.write_text(json.dumps({"made_by": made_by, "counts": counts}, indent=1) + "\n")
        print(f"wrote {len(counts)} counts to {KEPT}")
        return 0

    failed = 0
    for name, n in counts.items():
        before = kept["counts"].get(name)
        change = n / before - 1 if before else None
        if change is None:
            failed += 1
            print(f"FAILED {name}: {n} instructions, no count is kept; run check.py --update")
        elif change > TOLERANCE:
            failed += 1
            print(f"FAILED {name}: {n} instructions, {before} are kept: {change:+.1%}; find out why, or run check.py --update")
        elif change < -TOLERANCE:
            print(f"{name}: {n} instructions, {before} are kept: {change:+.1%}; run check.py --update to hold on to it")
    for name in sorted(set(kept["counts"]) - set(counts)):
        print(f"{name}: kept, but no longer counted; run check.py --update")
    print(f"{len(counts) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
