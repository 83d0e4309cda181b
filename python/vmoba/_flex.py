# SPDX-License-Identifier: Apache-2.0
"""FlexAttention under torch.compile on the selection that VMoBA makes; `vmoba bench` runs it as `python -m vmoba._flex JSON`.

Prints one JSON object: the times of FlexAttention, of torch SDPA and of vmoba.attend beside it, or {"skipped": reason}.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import torch


def block_of(text: str) -> Any:
    """ "7x5x13", "3xfullxfull" or "run:1024" as the functions of the package want it."""
    import vmoba

    if text.startswith("run:"):
        return vmoba.Run(int(text[4:]))
    return tuple(None if extent == "full" else int(extent) for extent in text.split("x"))


def timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(request: dict[str, Any]) -> dict[str, Any]:
    import vmoba
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.set_num_threads(int(request["threads"]))
    torch.manual_seed(1)
    t, y, x = request["grid"]
    tokens, heads, dim = t * y * x, int(request["heads"]), int(request["dim"])
    q, k, v = (torch.randn(1, tokens, heads, dim) for _ in range(3))
    selection = vmoba.select(
        q, k, grid=(t, y, x), block=block_of(request["block"]), policy=vmoba.Threshold(float(request["tau"]))
    )
    # Tokens in the order of their blocks, so that whole tiles of 128 fall away where they can.
    labels = selection.labels()
    order = torch.argsort(labels, stable=True)
    mask = selection.mask()[0][:, order]
    sorted_labels = labels[order].contiguous()
    by_block = [tensor[:, order].transpose(1, 2).contiguous() for tensor in (q, k, v)]

    def selected(_batch: Any, head: Any, query: Any, key: Any) -> Any:
        return mask[head, query, sorted_labels[key]]

    block_mask = create_block_mask(selected, 1, heads, tokens, tokens, device="cpu")
    compiled = torch.compile(flex_attention)
    with torch.no_grad():
        start = time.perf_counter()
        out = compiled(*by_block, block_mask=block_mask)
        compile_seconds = time.perf_counter() - start
        expected = vmoba.attend(q, k, v, selection)
        error = float((out.transpose(1, 2) - expected[:, order]).norm() / expected.norm())
        flex, dense, ours = [], [], []
        for _ in range(int(request["repeats"])):
            flex.append(timed(lambda: compiled(*by_block, block_mask=block_mask)))
            dense.append(timed(lambda: torch.nn.functional.scaled_dot_product_attention(*by_block)))
            ours.append(timed(lambda: vmoba.attend(q, k, v, selection)))
    return {
        "grid": [t, y, x],
        "tokens": tokens,
        "heads": heads,
        "dim": dim,
        "block": request["block"],
        "density": float(selection.density().mean()),
        "seconds": statistics.median(flex),
        "sdpa_seconds": statistics.median(dense),
        "vmoba_seconds": statistics.median(ours),  # attend alone: FlexAttention chooses nothing either
        "compile_seconds": compile_seconds,
        "relative_error_to_vmoba": error,
    }


def main() -> int:
    try:
        told = measure(json.loads(sys.argv[1]))
    except Exception as error:  # whatever the compiler throws: the bench goes on without
        lines = str(error).strip().splitlines()
        told = {"skipped": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
