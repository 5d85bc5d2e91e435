# SPDX-License-Identifier: Apache-2.0
"""How long steps take, and how much of it the network: stamps around each call of it and after each step."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import QuietMeter
from experiments.diffusers_speed.scene import Run

__all__ = ["Clocked", "clocked", "peak_bytes"]


@dataclass
class Clocked:
    """One run.

    Attributes:
        seconds: of the whole run, preparations included.
        steps: seconds of each step but the first, whose beginning nobody outside can see.
        network: of these, the seconds within the network.
        quiet: whether other processes kept still.
    """

    seconds: float
    steps: list[float]
    network: list[float]
    quiet: bool

    @property
    def overhead(self) -> float:
        """What the steps take beyond the network, in percent of the network."""
        return 100 * (sum(self.steps) / sum(self.network) - 1)

    @property
    def step(self) -> float:
        """Seconds of a step, the median."""
        return statistics.median(self.steps)


class _Stamps:
    def __init__(self, cuda: bool) -> None:
        self.cuda, self.found = cuda, list[tuple[str, Any]]()

    def add(self, what: str) -> None:
        stamp: Any = time.perf_counter()
        if self.cuda:
            stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()
        self.found.append((what, stamp))

    def seconds(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last)) * 1e-3 if self.cuda else float(last - first)

    def summary(self) -> tuple[list[float], list[float]]:
        """Seconds per step, and of the network in each, from the end of the first step on."""
        steps, network = list[float](), list[float]()
        before = begun = None
        inside = 0.0
        for what, stamp in self.found:
            if what == "in":
                begun = stamp
            elif what == "out":
                inside += self.seconds(begun, stamp)
            else:
                if before is not None:
                    steps.append(self.seconds(before, stamp))
                    network.append(inside)
                before, inside = stamp, 0.0
        return steps, network


def clocked(run: Run, unet: torch.nn.Module, steps: int) -> Clocked:
    """Run, and look at the clock: the host's, or on a GPU that of its stream."""
    cuda = next(unet.parameters()).is_cuda
    stamps, meter = _Stamps(cuda), QuietMeter()
    hooks = [
        unet.register_forward_pre_hook(lambda *_: stamps.add("in")),
        unet.register_forward_hook(lambda *_: stamps.add("out")),
    ]
    try:
        _settle(cuda)
        meter.start()
        began = time.perf_counter()
        run(steps, lambda: stamps.add("step"))
        _settle(cuda)
        seconds = time.perf_counter() - began
        return Clocked(seconds, *stamps.summary(), meter.quiet())
    finally:
        for hook in hooks:
            hook.remove()


def _settle(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def peak_bytes(call: Any, *, cuda: bool) -> int:
    """Return the most memory that a call holds beyond what is held before it: resident, or of the GPU."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    # 5 forgets the greatest resident size so far.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    held = _status("VmRSS")
    call()
    return _status("VmHWM") - held


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) << 10
