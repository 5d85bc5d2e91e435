# SPDX-License-Identifier: Apache-2.0
"""One denoising step of a composite, from a noisy canvas to the next: ours, and the loops of public code."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.families.e2e import networks
from benchmarks.oracle import relative_error
from benchmarks.suite import Call, Out, Peer, values

__all__ = ["Case", "Problem", "spread"]

TOKENS = 77


def spread(size: tuple[int, ...], patch: tuple[int, ...], counts: tuple[int, ...]) -> Tensor:
    """Return the offsets [R, n] of regions spread evenly from edge to edge."""
    axes = [
        torch.linspace(0, S - s, k, dtype=torch.float64).round().long()
        for S, s, k in zip(size, patch, counts, strict=True)
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """A canvas [1, channels, *size] and its regions, of which `at_once` go through the network together."""

    channels: int = 4
    size: tuple[int, ...] = (270, 480)
    patch: tuple[int, ...] = (64, 64)
    counts: tuple[int, ...] = (8, 11)
    network: str = "null"
    window: str = "gaussian"
    guided: bool = True
    at_once: int = 8
    loops: tuple[Peer, ...] = ()
    form: str | None = "fresh"

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make the canvas, the network and the conditions."""
        return Problem(self, torch.float32, device)


@dataclass
class Problem(suite.Problem):
    """One case made concrete. `latents` are variance-preserving, at `time`, as networks see them."""

    case: Case
    index: int = 25
    scale: float = 7.5

    def __post_init__(self) -> None:
        case, device = self.case, self.device
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        self.kept = (1 - betas).cumprod(0)
        self.time = 981 - 20 * self.index
        self.levels = float(self.kept[self.time]), float(self.kept[self.time - 20])
        self.offsets = spread(case.size, case.patch, case.counts)
        self.places = [
            (slice(None), slice(None), *(slice(o, o + s) for o, s in zip(start, case.patch, strict=True)))
            for start in self.offsets.tolist()
        ]
        rows = case.at_once * (2 if case.guided else 1)
        real = networks.make(case.network, case.channels, case.patch, max(rows, 32), device)
        self.net = networks.Clocked(real) if case.network != "null" and device.type == "cpu" else real
        self.latents = values((1, case.channels, *case.size), torch.float32, device)
        self.text = values((len(self.places), TOKENS, networks.TEXT), torch.float32, device, seed=1)
        if case.window == "uniform":
            self.text = self.text[:1].expand(len(self.places), -1, -1)
        self.empty_text = values((1, TOKENS, networks.TEXT), torch.float32, device, seed=2)

    @functools.cached_property
    def factors(self) -> tuple[Tensor, ...]:
        """Return the window's factors."""
        from intarsia import layout

        return getattr(layout, self.case.window)(self.case.patch, device=self.device)

    @functools.cached_property
    def weight(self) -> Tensor:
        """Return the whole window."""
        return functools.reduce(lambda a, b: a.unsqueeze(-1) * b, self.factors)

    @property
    def tolerance(self) -> float:
        """Return a wider bound where a float32 network runs in batches of another size than the truth's."""
        if self.case.network == "null":
            return 1e-6
        large = self.case.network == "unet" and self.device.type == "cuda"  # It runs in bfloat16.
        return 5e-2 if large else 1e-5 if self.device.type == "cpu" else 1e-4

    @functools.cached_property
    @torch.no_grad()
    def truth(self) -> Tensor:
        """Return the next canvas in float64, from the network's float32 answers, region by region."""
        value = torch.zeros(self.latents.shape, dtype=torch.float64, device=self.device)
        count, told = torch.zeros_like(value), torch.full((1,), self.time, device=self.device)
        for place, text in zip(self.places, self.text, strict=True):
            crop = self.latents[place]
            answer = self.net(crop, told, {"text": text[None]}).double()
            if self.case.guided:
                without = self.net(crop, told, {"text": self.empty_text}).double()
                answer = without + self.scale * (answer - without)
            value[place] += answer * self.weight
            count[place] += self.weight
        noise, (a, b) = value / count, self.levels
        clean = (self.latents.double() - (1 - a) ** 0.5 * noise) / a**0.5
        return b**0.5 * clean + (1 - b) ** 0.5 * noise

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the error of the next canvas; ours keeps it divided by sqrt(alpha)."""
        if not results:
            return None
        ours = name == "intarsia"
        return relative_error(results[0].double() * (self.levels[1] ** 0.5 if ours else 1.0), self.truth)

    def ours(self, out: Out) -> Call:
        """Return one Euler step (DDIM's) of the composite, by the public classes."""
        return step_of(self, self.net)

    def peers(self) -> Sequence[Peer]:
        """Return the loops of the case."""
        return self.case.loops

    def figures(self, row: dict[str, Any]) -> dict[str, float]:
        """Return microseconds per region, and what is not spent in the network as a share of what is."""
        regions, found = len(self.places), {}
        for name, ms in row["ms"].items():
            key = "us per region" if name == "intarsia" else f"us per region, {name}"
            found[key] = ms * 1e3 / regions
        if isinstance(self.net, networks.Clocked):
            found |= self._overhead()
        return found

    def _overhead(self) -> dict[str, float]:
        """Return the median over a few steps, or over a second of them."""
        call, shares, began = self.ours(None), [], time.perf_counter()
        while len(shares) < 5 and (not shares or time.perf_counter() - began < 1):
            inside, start = self.net.seconds, time.perf_counter()
            call()
            total, inside = time.perf_counter() - start, self.net.seconds - inside
            shares.append(100 * (total - inside) / inside)
        return {"overhead %": statistics.median(shares)}


def step_of(problem: Problem, net: Any) -> Call:
    """Return our step around a network."""
    from intarsia import compose, denoisers, guidance, layout, samplers

    case = problem.case
    D: Any = denoisers.from_eps(net, alphas_cumprod=problem.kept, quantize=True, dtype=torch.float32)
    cond = {"text": problem.text.contiguous()} if case.guided else None
    if case.guided:
        D = guidance.CFG(D, uncond={"text": problem.empty_text}, scale=problem.scale)
    places = layout.Layout(size=case.size, patch=case.patch, offsets=problem.offsets)
    rows = case.at_once * (2 if case.guided else 1)
    factor = compose.Factor(D, places, getattr(layout, case.window), cond=cond, max_batch=rows)
    composite, solver = compose.average(factor), samplers.Euler()
    sigma, lower = (((1 - level) / level) ** 0.5 for level in problem.levels)
    state = solver.init(problem.latents / problem.levels[0] ** 0.5)

    @torch.no_grad()
    def call() -> Tensor:
        after, _ = solver.step(composite, state, sigma, lower)
        found: Tensor = after.x
        return found

    return call
