# SPDX-License-Identifier: Apache-2.0
"""Timing: every candidate in the same rounds, in rotated order; disturbed rounds are told apart."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

__all__ = ["QuietMeter", "Race", "captured", "race"]

ENOUGH_QUIET = 4
OTHERS = 0.10


class QuietMeter:
    """Tells whether all other processes together used less than a tenth of a core since `start`."""

    def __init__(self) -> None:
        """Look once whether /proc/stat is readable."""
        self.available = os.path.exists("/proc/stat")
        self._tick = 1.0 / os.sysconf("SC_CLK_TCK")
        self._began = (0.0, 0.0, 0.0)

    def _read(self) -> tuple[float, float, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        busy = 0.0
        if self.available:
            with open("/proc/stat") as stat:
                user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
            busy = (user + nice + system + irq + softirq + steal) * self._tick
        return time.perf_counter(), busy, own.ru_utime + own.ru_stime

    def start(self) -> None:
        """Begin a round."""
        self._began = self._read()

    def quiet(self) -> bool:
        """End a round; one clock tick is allowed on top, the resolution of /proc/stat."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._began, strict=True))
        return not self.available or busy - own < OTHERS * wall + self._tick


@dataclass
class Race:
    """Seconds per call of every candidate, the number of quiet rounds, and who was retired early."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    quiet: list[bool] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)

    @property
    def quiet_rounds(self) -> int:
        """Return how many rounds passed the filter."""
        return sum(self.quiet)

    @property
    def disturbed(self) -> bool:
        """Return whether too few rounds were quiet, so that the medians are over all of them."""
        return self.quiet_rounds < ENOUGH_QUIET

    def median(self, name: str) -> float:
        """Return the median seconds per call over the quiet rounds (all of them when too few were)."""
        times = self.samples[name]
        if not self.disturbed and name not in self.retired:
            times = [t for t, quiet in zip(times, self.quiet, strict=True) if quiet]
        return statistics.median(times)


Timer = Callable[[Callable[[], object], int], float]


def _cpu_timer(call: Callable[[], object], loops: int) -> float:
    began = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - began) / loops


def _cuda_timer(call: Callable[[], object], loops: int) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(loops):
        call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e-3 / loops


def captured(call: Callable[[], object], calls: int = 20) -> Callable[[], object]:
    """Return the replay of a CUDA graph that holds `calls` calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def race(
    candidates: Mapping[str, Callable[[], object]],
    *,
    optional: tuple[str, ...] = (),
    rounds: int = 7,
    sample_seconds: float = 0.004,
    round_seconds: float = 0.1,
    limit_seconds: float = 8.0,
    cuda: bool = False,
    retire_factor: float = 3.0,
    long: bool = False,
) -> Race:
    """Time the candidates round-robin.

    Args:
        candidates: Name to call.
        optional: Names that leave after two rounds if `retire_factor` times slower than the fastest of them.
        rounds: Quiet rounds wanted; up to three times as many are run to get them.
        sample_seconds: Least duration of one sample.
        round_seconds: Least duration of one round: the quiet filter counts in ticks of 10 ms.
        limit_seconds: No new round is begun after this.
        cuda: Time with CUDA events instead of the host's clock.
        retire_factor: See `optional`.
        long: One call is a sample, and every candidate has been called before.

    Returns:
        The samples.
    """
    timer: Timer = _cuda_timer if cuda else _cpu_timer
    least = max(sample_seconds, round_seconds / max(len(candidates), 1))
    loops: dict[str, int] = {}
    for name, call in candidates.items():
        if long:
            loops[name] = 1
            continue
        call()
        once = max(timer(call, 1), 1e-7)
        if once < 0.1:
            once = max(min(once, timer(call, 1)), 1e-7)
        loops[name] = 1 if once >= least else int(least / max(timer(call, int(0.002 / once) + 1), 1e-7)) + 1
    result = Race({name: [] for name in candidates})
    meter, names, began = QuietMeter(), list(candidates), time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(3 * rounds):
            enough = result.quiet_rounds >= rounds
            if enough or (time.perf_counter() - began > limit_seconds and number >= 3):
                break
            order = names[number % len(names) :] + names[: number % len(names)]
            meter.start()
            for name in order:
                result.samples[name].append(timer(candidates[name], loops[name]))
            result.quiet.append(meter.quiet())
            if number == 1 and optional:
                bar = retire_factor * min(min(result.samples[name]) for name in optional)
                result.retired = [n for n in optional if min(result.samples[n]) > bar]
                names = [n for n in names if n not in result.retired]
    finally:
        if collecting:
            gc.enable()
    return result
