# SPDX-License-Identifier: Apache-2.0
"""From the network's two answers to the next canvas: guidance, average and solver update, in one call.

D = sum_r w_r (u_r + scale_r (c_r - u_r)) / sum_r w_r;  next = a x + b D + c noise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.families.regions import cases as regions
from benchmarks.families.regions import truth
from benchmarks.suite import Call, Out, Peer, Target, both, public_op, values

__all__ = ["CASES", "Case", "Problem"]

STEP = {"a": 0.9, "b": 0.1, "c": 0.05}


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """The regions and the canvas are those of an averaging case."""

    grid: regions.Case

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make both answers, the canvas and the noise."""
        grid, kind = self.grid, getattr(torch, dtype)
        shape, canvas = (1, 2, grid.regions(), grid.channels, *grid.patch), (1, grid.channels, *grid.size)
        place, noise = (values(canvas, torch.float32, device, seed=seed) for seed in (1, 2))
        scale = torch.linspace(3.0, 9.0, grid.regions(), device=device)
        return Problem(self, kind, device, values(shape, kind, device), place, noise, scale)


@dataclass
class Problem(suite.Problem):
    """One case made concrete: patches [1, 2, R, C, *s] (with the condition, without), canvas in float32."""

    case: Case
    patches: Tensor
    x: Tensor
    noise: Tensor
    scale: Tensor
    offsets: Tensor = field(init=False)

    def __post_init__(self) -> None:
        grid = self.case.grid
        self.offsets = grid.offsets()
        self.starts = [tuple(int(o) for o in start) for start in self.offsets]
        axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / n for n in grid.patch]
        spread = 2 * regions.SIGMA_FRACTION**2
        self.factors = tuple(torch.exp(-u.square() / spread).float().to(self.device) for u in axes)
        self.weight = functools.reduce(lambda a, b: a.unsqueeze(-1) * b, self.factors)
        self.inverse_total = truth.total(self.starts, self.weight, grid.size).reciprocal().float()
        self.places = [
            (..., *(slice(o, o + s) for o, s in zip(start, grid.patch, strict=True))) for start in self.starts
        ]

    @property
    def out_dtype(self) -> torch.dtype:
        """Return the dtype of the canvas, whatever that of the patches."""
        return torch.float32

    @property
    def peer_tolerance(self) -> float | None:
        """Return the wider bound of peers that combine bf16 answers in bf16."""
        return 5e-2 if self.dtype == torch.bfloat16 else None

    def buffers(self) -> Tensor:
        """Return the memory of the next canvas."""
        return torch.empty_like(self.x)

    @functools.cached_property
    def truth(self) -> Tensor:
        """Return the definition in float64."""
        answers = self.patches.double()
        scale = self.scale.double().view(-1, *[1] * (answers.ndim - 3))
        guided = answers[:, 1] + scale * (answers[:, 0] - answers[:, 1])
        mean = truth.average(guided, self.starts, self.weight, self.case.grid.size)
        return STEP["a"] * self.x.double() + STEP["b"] * mean + STEP["c"] * self.noise.double()

    def truth_of(self, name: str) -> tuple[Tensor, ...]:
        """Return the truth, the same for every candidate."""
        return (self.truth,)

    def traffic(self) -> tuple[int, int]:
        """Return both answers, canvas and noise read, the next canvas written."""
        canvas = self.x.numel() * 4
        return self.patches.numel() * self.patches.element_size() + 2 * canvas, canvas

    def ours(self, out: Out) -> Call:
        """Return the public op."""
        return _ours(self, out)

    def peers(self) -> Sequence[Peer]:
        """Return the formulations of torch."""
        return PEERS


def _ours(problem: Problem, out: Out) -> Call:
    scatter_average = public_op("scatter_average", "guidance", "x", "noise")
    patches, offsets, weight, size = problem.patches, problem.offsets, problem.factors, problem.case.grid.size
    scale, x, noise = problem.scale, problem.x, problem.noise
    return lambda: scatter_average(
        patches, offsets=offsets, weight=weight, size=size, guidance=scale, x=x, noise=noise, out=out, **STEP
    )


def _chain(problem: Problem, out: Out) -> Call:
    """Region by region as in public code: guide, weigh, add, count; then divide, then step."""
    weight, places, shape = problem.weight.to(problem.dtype), problem.places, problem.x.shape
    a, b, c = STEP.values()

    def call() -> Tensor:
        value, count = torch.zeros(2, *shape, device=problem.device)
        for r, place in enumerate(places):
            with_, without = problem.patches[:, 0, r], problem.patches[:, 1, r]
            value[place] += (without + problem.scale[r] * (with_ - without)) * weight
            count[place] += weight
        mean = value / count
        done = a * problem.x + b * mean + c * problem.noise
        return done if out is None else out.copy_(done)  # type: ignore[union-attr]

    return call


def _update(problem: Problem, value: Tensor, share: Tensor) -> Tensor:
    """Return a x + value * share + c noise in the memory of `value`; `share` is b over the total weight."""
    return value.mul_(share).add_(problem.x, alpha=STEP["a"]).add_(problem.noise, alpha=STEP["c"])


def _guide_all(problem: Problem, out: Out) -> Call:
    """One lerp for all regions, an addcmul_ each, one fused update with the total weight kept."""
    kept = None if out is None else torch.empty_like(problem.patches[:, 1])
    scale = problem.scale.view(-1, *[1] * (problem.patches.ndim - 3)).to(problem.dtype)
    weight, share = problem.weight, problem.inverse_total * STEP["b"]

    def call() -> Tensor:
        guided = torch.lerp(problem.patches[:, 1], problem.patches[:, 0], scale, out=kept)
        value = torch.zeros_like(problem.x) if out is None else out.zero_()  # type: ignore[union-attr]
        for r, place in enumerate(problem.places):
            value[place].addcmul_(guided[:, r], weight)
        return _update(problem, value, share)

    return call


def _two_weights(problem: Problem, out: Out) -> Call:
    """The scales folded into the windows: two addcmul_ a region, nothing in between."""
    scale = problem.scale.view(-1, *[1] * problem.weight.ndim)
    weights = [
        (on, off) for on, off in zip(scale * problem.weight, (1 - scale) * problem.weight, strict=True)
    ]
    share = problem.inverse_total * STEP["b"]

    def call() -> Tensor:
        value = torch.zeros_like(problem.x) if out is None else out.zero_()  # type: ignore[union-attr]
        for r, place in enumerate(problem.places):
            value[place].addcmul_(problem.patches[:, 0, r], weights[r][0])
            value[place].addcmul_(problem.patches[:, 1, r], weights[r][1])
        return _update(problem, value, share)

    return call


def _table(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Return which elements of [R, *s] cover each canvas element, their shares and scales, [most, prod S]."""
    grid = problem.case.grid
    covering: Tensor = torch.zeros(grid.size, dtype=torch.int64)
    index = torch.arange(grid.regions() * problem.weight.numel()).view(-1, *grid.patch)
    for place in problem.places:
        covering[place] += 1
    most = int(covering.max())
    where = torch.zeros(most, *grid.size, dtype=torch.int64)
    share, scale = torch.zeros(2, most, *grid.size)
    covering.zero_()
    inverse, weight = problem.inverse_total.cpu(), problem.weight.cpu()
    for r, place in enumerate(problem.places):
        level = covering[place].unsqueeze(0)
        where[place].scatter_(0, level, index[r].unsqueeze(0))
        share[place].scatter_(0, level, (weight * inverse[place]).unsqueeze(0))
        scale[place].scatter_(0, level, problem.scale[r].cpu().expand(level.shape))
        covering[place] += 1
    return tuple(t.flatten(1).to(problem.device) for t in (where, share, scale))  # type: ignore[return-value]


def _gather(problem: Problem, out: Out) -> Call:
    """A table of the covering elements, made once, lets a compiler fuse everything into one loop."""
    where, share, scale = _table(problem)
    shape, channels = problem.x.shape, problem.case.grid.channels
    # Channels first, as a network cannot give them: no copy is charged to this peer.
    rows = problem.patches[0].transpose(1, 2).contiguous()

    def step(rows: Tensor, x: Tensor, noise: Tensor, target: Tensor | None) -> Tensor:
        flat = rows.flatten(2)
        mean = torch.zeros(channels, where.shape[1], device=x.device)
        for k in range(where.shape[0]):
            both_ = flat[:, :, where[k]].float()
            mean = mean + share[k] * (both_[1] + scale[k] * (both_[0] - both_[1]))
        done = STEP["a"] * x + STEP["b"] * mean.view(shape) + STEP["c"] * noise
        return done if target is None else target.copy_(done)

    call = torch.compile(step, dynamic=False)
    return lambda: call(rows, problem.x, problem.noise, out)


def _compiled_ends(problem: Problem, out: Out) -> Call:
    """What a compiler can take of the loop: guidance before it, the update after it."""
    scale = problem.scale.view(-1, *[1] * (problem.patches.ndim - 3))
    weight, share = problem.weight, problem.inverse_total * STEP["b"]

    def guide(patches: Tensor) -> Tensor:
        wide = patches.float()
        return (wide[:, 1] + scale * (wide[:, 0] - wide[:, 1])).to(patches.dtype)

    def update(value: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        return STEP["a"] * x + value * share + STEP["c"] * noise

    first, last = torch.compile(guide, dynamic=False), torch.compile(update, dynamic=False)

    def call() -> Tensor:
        guided, value = first(problem.patches), torch.zeros_like(problem.x)
        for r, place in enumerate(problem.places):
            value[place].addcmul_(guided[:, r], weight)
        done = last(value, problem.x, problem.noise)
        return done if out is None else out.copy_(done)  # type: ignore[no-any-return,union-attr]

    return call


PEERS = (
    Peer("eager chain", _chain, idiom=True),
    Peer("lerp + addcmul loop", _guide_all),
    Peer("two addcmul a region", _two_weights),
    Peer("torch.compile around the loop", _compiled_ends, slow=True, compiled=True),
    Peer("torch.compile, table of elements", _gather, slow=True, compiled=True),
)


def _case(name: str, grid: str, *, quick: bool, targets: tuple[Target, ...]) -> Case:
    (found,) = [case for case in regions.CASES if case.name == grid]
    return Case(
        f"merge.cfg_avg_step{name}", found.provenance + "; guided with a scale per region, then one step",
        grid=found, quick=quick, targets=targets, modes=("neutral", "captured") if name else suite.MODES,
    )  # fmt: skip


MUST = (Target(best=3.0), Target(dtype="bfloat16", best=3.0), *both(launches=1, floor=1.3))
CASES = (
    _case("", "avg.ragged88", quick=True, targets=MUST),
    _case("_s16", "avg.latent4k_s16", quick=False, targets=()),
    _case("_pixel4k", "avg.pixel4k", quick=False, targets=()),
)
