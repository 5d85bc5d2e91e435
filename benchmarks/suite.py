# SPDX-License-Identifier: Apache-2.0
"""What a family of benchmarks brings to the runner: cases, tensors, truths, peers, our side, targets."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmarks.oracle import relative_error

__all__ = [
    "FAMILIES",
    "ITEMSIZE",
    "STOCK",
    "Call",
    "Case",
    "Missing",
    "Out",
    "Peer",
    "Problem",
    "Target",
    "both",
    "cases_of",
    "generator",
    "public_op",
    "select",
    "values",
]

ITEMSIZE = {"float32": 4, "bfloat16": 2}
PERIOD = 1 << 20
MODES = ("neutral", "default-fresh", "out", "captured", "eager")
Out: TypeAlias = Tensor | tuple[Tensor, ...] | None
"""Where a call writes: reused buffers, the state where it works in place, None for fresh results."""
Call: TypeAlias = Callable[[], Any]

# Seconds of a complete run in which each family may begin rows, so that none starves another: with the
# allocator that keeps memory (all modes of a GPU), and with the stock one.
FAMILIES: dict[str, tuple[float, float]] = {
    "regions": (200.0, 150.0),
    "merge": (35.0, 12.0),
    "amdm": (75.0, 8.0),
    "hmc": (100.0, 40.0),
    "rng": (20.0, 8.0),
    "rope": (110.0, 25.0),
    "alloc": (5.0, 25.0),
    "e2e": (110.0, 1.0),
}
STOCK = ("default-fresh", "out")


class Missing(Exception):
    """What a row needs is not installed or not part of the library: the row is left out, with this reason."""


@dataclass(frozen=True)
class Target:
    """What one row must reach; a field of None is not asked for. Ratios are peer time over ours.

    `versus` holds (peer, ratio) pairs. `figures` holds (name, bound) pairs for what a family measures beside
    time; a figure must not exceed its bound, or not fall below it where the name ends in " >=".
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    best: float | None = None
    idiom: float | None = None
    floor: float | None = None
    max_us: float | None = None
    error: float | None = None
    stretch: float | None = None
    launches: int | None = None
    versus: tuple[tuple[str, float], ...] = ()
    figures: tuple[tuple[str, float], ...] = ()
    mode: str | None = None


def both(**must: Any) -> tuple[Target, ...]:
    """Return one target on the GPU for each dtype."""
    return tuple(Target(device="cuda", dtype=dtype, **must) for dtype in ITEMSIZE)


@dataclass(frozen=True)
class Peer:
    """A formulation to race; `idiom` is the public code people run.

    `slow` ones join only complete neutral runs. `listed` peers are those the targets were set against; the
    others are reported beside them. `forms` are those it can do: fresh results, reused ones, in place.
    `compiled` ones begin with empty compiler caches. What stands `aside` is timed, but is no rival.
    """

    name: str
    build: Callable[[Any, Any], Call]
    idiom: bool = False
    slow: bool = False
    listed: bool = True
    compiled: bool = False
    aside: bool = False
    forms: tuple[str, ...] = ("fresh", "out", "inplace")


@dataclass(frozen=True)
class Case:
    """One named row of the suite, as data.

    `form` is fresh, out or inplace where the case is about it; None: fresh results, reused ones in the modes
    "out" and "captured". `modes` and `threads` are those it runs in; a number of threads that only a target
    asks for need not be listed, and the stock allocator is for one thread. `heavy` ones take so long that
    they are called for timing alone.
    """

    name: str
    provenance: str = ""
    _: KW_ONLY
    targets: tuple[Target, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    devices: tuple[str, ...] = ("cpu", "cuda")
    quick: bool = True
    form: str | None = None
    modes: tuple[str, ...] = MODES
    threads: tuple[int, ...] = (1,)
    heavy: bool = False

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make the tensors; raise Missing where the row cannot run."""
        raise NotImplementedError

    def runs(self, mode: str, threads: int, dtype: str, device: str, *, any_threads: bool = False) -> bool:
        """Return whether the case has a row for these settings; `any_threads`: where these were asked for."""
        reused = self.form in ("out", "inplace")
        if (
            mode not in self.modes
            or (mode == "default-fresh" and reused)
            or (mode == "out" and self.form == "fresh")
        ):
            return False
        asked = {t.threads for t in self.targets if (t.device, t.dtype) == (device, dtype)}
        wanted = {1} if mode in STOCK else {*self.threads, *asked}
        return any_threads or threads in wanted

    def form_in(self, mode: str) -> str:
        """Return how results are given back in a mode."""
        return self.form or ("out" if mode in ("out", "captured") else "fresh")


@dataclass
class Problem:
    """One case in one dtype on one device: tensors, truth, traffic, and who races."""

    case: Case
    dtype: torch.dtype
    device: torch.device
    checked: dict[tuple[str, str], float | None] = field(default_factory=dict, kw_only=True)

    @property
    def out_dtype(self) -> torch.dtype:
        """Return the dtype of the result."""
        return self.dtype

    @property
    def tolerance(self) -> float | None:
        """Return the relative error allowed to ours; None: that of the dtype."""
        return None

    @property
    def peer_tolerance(self) -> float | None:
        """Return the relative error allowed to peers; None: that of the dtype, never less than ours."""
        return None

    def buffers(self) -> Out:
        """Return result tensors to reuse; None where the op has none."""
        return None

    def state(self) -> Out:
        """Return the tensors that calls in place change, restored to their first values."""
        raise NotImplementedError

    def truth_of(self, name: str) -> tuple[Tensor, ...] | None:
        """Return the float64 results that a candidate must reproduce, or None if it has none."""
        raise NotImplementedError

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the largest relative error of a candidate's results; None: nothing to check."""
        truth = self.truth_of(name)
        if truth is None:
            return None
        if len(results) != len(truth):
            return float("inf")
        return max(map(relative_error, results, truth))

    def begin(self, name: str) -> None:
        """Prepare the one call of a candidate that is checked, such as by seeding its generator."""

    def traffic(self) -> tuple[int, int]:
        """Return (bytes that must be read once, bytes that must be written once)."""
        return 0, 0

    def ours(self, out: Out) -> Call:
        """Return our call."""
        raise NotImplementedError

    def peers(self) -> Sequence[Peer]:
        """Return the formulations that apply."""
        raise NotImplementedError

    def figures(self, row: dict[str, Any]) -> dict[str, float]:
        """Return what the family reports beside the times."""
        return {}


def values(shape: Sequence[int], dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> Tensor:
    """Return repeated normal numbers; the period is prime, so that no two neighbouring regions are equal."""
    count, generator = math.prod(shape), torch.Generator().manual_seed(seed)
    numbers = torch.randn(min(count, PERIOD - 3), generator=generator).to(device, dtype)
    return numbers.repeat(-(-count // numbers.numel()))[:count].reshape(tuple(shape)).contiguous()


def generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a generator of a device's, seeded: on a GPU the default one, as a graph can record no other."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def public_op(name: str, *arguments: str) -> Callable[..., Any]:
    """Return a function of `intarsia.ops`; raise Missing where it, or one of `arguments`, is not there."""
    ops = importlib.import_module("intarsia.ops")
    if not hasattr(ops, name):
        raise Missing(f"intarsia.ops has no {name}")
    found: Callable[..., Any] = getattr(ops, name)
    if lacking := set(arguments) - set(inspect.signature(found).parameters):
        raise Missing(f"intarsia.ops.{name} has no {', '.join(sorted(lacking))}")
    return found


def cases_of(family: str) -> Iterable[Case]:
    """Return the cases of a family, in order."""
    cases: Iterable[Case] = importlib.import_module(f"benchmarks.families.{family}").CASES
    return cases


def select(only: str, device: str, quick: bool, families: Sequence[str] = ()) -> list[tuple[str, Case]]:
    """Return (family, case) pairs.

    Args:
        only: Comma-separated words; a case is taken when its name contains one. Empty: all.
        device: "cpu" or "cuda".
        quick: Leave out the cases that are not for a quick run, unless `only` names them.
        families: Names of `FAMILIES`; empty: all.

    Returns:
        The pairs, in the order of the suite.
    """
    words = [word for word in only.split(",") if word]
    found = [(name, case) for name in FAMILIES if not families or name in families for case in cases_of(name)]
    return [
        (name, case)
        for name, case in found
        if device in case.devices
        and (not words or any(word in case.name for word in words))
        and (case.quick or words or not quick)
    ]
