# SPDX-License-Identifier: Apache-2.0
"""One leapfrog step of Hamiltonian Monte Carlo: refresh, kicks, drift, energies, acceptance of each sample.

v0 = g v + sqrt(1 - g^2) sqrt(M) n;  v1 = v0 + h/2 grad;  x1 = x + h v1 / M;  v2 = v1 + h/2 grad1;
K = 1/2 sum v^2 / M;  accept = u < exp(U + K(v0) - U1 - K(v2));  (x1, v2) if accept else (x, -v0).

Both gradients, the potential energies and u are given: what lies between is the network's time, not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.families import hmc_ours, hmc_peers
from benchmarks.oracle import relative_error
from benchmarks.suite import Call, Out, Peer, Target, values

__all__ = ["CASES", "Case", "Problem", "leapfrog_truth"]

STEP, DAMPING, MASS = 0.05, 0.9, 0.8
SEED = 7


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """A state [batch, *shape]; `kind` is step (noise drawn inside), given_noise or mid (interior)."""

    kind: str
    batch: int
    shape: tuple[int, ...]

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make a state, its gradients, and energies that reject every fourth sample."""
        return Problem(self, getattr(torch, dtype), device)


@dataclass
class Problem(suite.Problem):
    """One case made concrete."""

    case: Case
    step_size: float = STEP
    damping: float = DAMPING
    mass: float = MASS
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        shape, batch = (self.case.batch, *self.case.shape), self.case.batch
        first, second, third, fourth, fifth = (
            values(shape, self.dtype, self.device, seed=seed) for seed in range(5)
        )
        self.position, self.momentum, self.gradient, self.next_gradient = first, second, third, fourth
        self.noise = fifth
        self.potential = torch.zeros(batch, dtype=torch.float64, device=self.device)
        # Energies so far apart that no rounding decides.
        change = torch.tensor([1e9 if b % 4 == 3 else -1e9 for b in range(batch)], dtype=torch.float64)
        self.next_potential = change.to(self.device)
        self.uniform = torch.full((batch,), 0.5, dtype=torch.float64, device=self.device)
        self.generator = suite.generator(self.device, SEED)
        self._first = (self.position.clone(), self.momentum.clone())

    def buffers(self) -> tuple[Tensor, ...]:
        """Return the memory of position and momentum."""
        return torch.empty_like(self.position), torch.empty_like(self.momentum)

    def state(self) -> tuple[Tensor, ...]:
        """Return position and momentum as they were first."""
        self.position.copy_(self._first[0])
        self.momentum.copy_(self._first[1])
        return self.position, self.momentum

    def begin(self, name: str) -> None:
        """Seed the noise of the peers that draw their own."""
        self.generator.manual_seed(SEED)
        torch.manual_seed(SEED)

    def truth_of(self, name: str) -> tuple[Tensor, ...]:
        """Return position and momentum in float64, with the noise that the candidate met."""
        x, v = (tensor.double() for tensor in self._first)
        if self.case.kind == "mid":
            v = v + self.step_size * self.gradient.double()
            return x + self.step_size * v, v
        if self.case.kind == "given_noise":
            noise = self.noise
        elif name == "intarsia":
            noise = hmc_ours.noise_of(self)
        else:
            again = suite.generator(self.device, SEED)
            noise = torch.randn(x.shape, generator=again, dtype=self.dtype, device=self.device)
        return leapfrog_truth(self, x, v, noise.double())

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the error; the noise of a compiled step is read back from the momentum that it led to."""
        if self.case.kind != "step" or name != hmc_peers.COMPILED:
            return super().error_of(name, results)
        x, v = (tensor.double() for tensor in self._first)
        gradients = self.gradient.double() + self.next_gradient.double()
        spread = ((1 - self.damping**2) * self.mass) ** 0.5
        accepted = (self.next_potential < 0).view(-1, *[1] * (x.ndim - 1))
        before = torch.where(
            accepted, results[1].double() - self.step_size / 2 * gradients, -results[1].double()
        )
        noise = (before - self.damping * v) / spread
        if float(noise.mean().abs()) > 6 / noise.numel() ** 0.5 or not 0.9 < float(noise.var()) < 1.1:
            return float("inf")
        return max(map(relative_error, results, leapfrog_truth(self, x, v, noise)))

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of two passes with the gradient's evaluation between them."""
        tensor = self.position.numel() * self.position.element_size()
        reads, writes = {"step": (5, 3), "given_noise": (6, 3), "mid": (3, 2)}[self.case.kind]
        return reads * tensor, writes * tensor

    def ours(self, out: Out) -> Call:
        """Return the public ops."""
        return hmc_ours.build(self, out)

    def peers(self) -> Sequence[Peer]:
        """Return the formulations of torch."""
        return hmc_peers.PEERS[self.case.kind]


def leapfrog_truth(problem: Any, x: Tensor, v: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the definition, sample by sample, [B, ..] float64 each."""
    h, g, M = problem.step_size, problem.damping, problem.mass
    xs, vs = torch.empty_like(x), torch.empty_like(v)
    for b in range(x.shape[0]):
        v0 = g * v[b] + ((1 - g * g) * M) ** 0.5 * noise[b]
        v1 = v0 + h / 2 * problem.gradient[b].double()
        x1 = x[b] + h * v1 / M
        v2 = v1 + h / 2 * problem.next_gradient[b].double()
        kinetic, next_kinetic = float(v0.square().sum()) / (2 * M), float(v2.square().sum()) / (2 * M)
        change = float(problem.potential[b] - problem.next_potential[b]) + kinetic - next_kinetic
        accept = change >= 0 or float(problem.uniform[b]) < 2.718281828459045**change
        xs[b], vs[b] = (x1, v2) if accept else (x[b], -v0)
    return xs, vs


SIZES: dict[str, tuple[int, tuple[int, ...]]] = {
    "b4_64": (4, (4, 64, 64)),
    "b16_64": (16, (4, 64, 64)),
    "b16_128": (16, (4, 128, 128)),
    "b4_270x480": (4, (4, 270, 480)),
    "pixel4k": (1, (3, 2160, 3840)),
}
STEP_MUST = {"b4_64": 3.2, "b16_64": 3.2, "b16_128": 2.8, "b4_270x480": 2.3, "pixel4k": 2.0}
PUBLIC, TUNED, COMPILED = hmc_peers.PUBLIC, hmc_peers.TUNED, hmc_peers.COMPILED


def _step(size: str) -> Case:
    batch, shape = SIZES[size]
    must = STEP_MUST[size]
    targets = (
        Target(best=must, versus=((PUBLIC, 4.0), (COMPILED, 14.0)), stretch=5.0 if must > 3 else 3.0),
        Target(threads=2, best=3.2 if size == "pixel4k" else 5.0),
        Target(device="cuda", versus=((TUNED, 3.0), (COMPILED, 1.1))),
    )
    return Case(
        f"hmc.step.{size}", "noise drawn inside", targets=targets, dtypes=("float32",), kind="step",
        batch=batch, shape=shape, quick=size in ("b4_64", "b16_128"), modes=_modes(size),
    )  # fmt: skip


def _given(size: str) -> Case:
    batch, shape = SIZES[size]
    large = size == "pixel4k"
    targets = (
        Target(
            floor=2.2,
            versus=((COMPILED, 0.95 if large else 1.1), (TUNED, 1.3)),
            stretch=1.2 if large else 1.4,
        ),
        Target(device="cuda", floor=1.2),
    )
    return Case(
        f"hmc.given_noise.{size}", "noise given", targets=targets, dtypes=("float32",), kind="given_noise",
        batch=batch, shape=shape, quick=size in ("b4_64", "b16_128"), modes=_modes(size),
    )  # fmt: skip


def _mid(size: str) -> Case:
    batch, shape = SIZES[size]
    targets = (
        Target(best=1.0, versus=((hmc_peers.PUBLIC_MID, 5.0),)),
        Target(device="cuda", floor=1.2),
    )
    return Case(
        f"hmc.mid.{size}", "interior step in place", targets=targets, dtypes=("float32",), kind="mid",
        batch=batch, shape=shape, quick=size in ("b4_64", "b16_128"), form="inplace",
        modes=("neutral", "captured"),
    )  # fmt: skip


def _modes(size: str) -> tuple[str, ...]:
    return suite.MODES if size == "pixel4k" else ("neutral", "captured")


CASES = tuple(make(size) for make in (_step, _given, _mid) for size in SIZES)
