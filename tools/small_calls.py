# SPDX-License-Identifier: Apache-2.0
"""Call every operator once per dtype on small inputs, for a memory checker to watch.

    compute-sanitizer --tool memcheck python tools/small_calls.py --device cuda

Inputs are made on the processor and copied, results copied back: on the device next to nothing runs but ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "ops"))


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a backend is missing or a result is not finite."""
    parser = argparse.ArgumentParser(description="Call every operator once per dtype.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backend", default="", help="default: the device's compiled kernels")
    parser.add_argument("--only", default="", help="a part of an operator's name")
    chosen = parser.parse_args(argv)

    from calls import CALLS
    from intarsia import ops

    backend = chosen.backend or chosen.device
    if ops.backends()[backend] != "available":
        print(f"small_calls: backend {backend}: {ops.backends()[backend]}", file=sys.stderr)
        return 1
    count, wrong = 0, []
    torch.manual_seed(0)
    with ops.use_backend(backend):
        for call in CALLS:
            if chosen.only in call.name:
                for dtype in call.dtypes:
                    results = call(call.inputs(dtype, chosen.device))
                    count += 1
                    if not all(bool(result.cpu().isfinite().all()) for result in results):
                        wrong.append(f"{call.name} {dtype}")
    print(
        f"{count} calls of {len(CALLS)} operators on {backend}" + "".join(f"\nnot finite: {w}" for w in wrong)
    )
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    sys.exit(main())
