# SPDX-License-Identifier: Apache-2.0
"""Seven ways to a panorama with a network of square patches, with the network calls that each takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from intarsia import Factor, compose, conditioning, layout, samplers, schedules
from intarsia.types import Cond, Denoiser
from torch import Tensor


@dataclass
class Counted:
    """The network with its rows counted, in patches: a separator of half a patch counts as half."""

    denoiser: Any
    patch: tuple[int, int]
    rows: float = 0.0
    backward: float = 0.0
    sizes: Any = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = self.denoiser.sizes

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        share = x.shape[0] * x.shape[-1] / self.patch[1]
        self.rows += share
        self.backward += share if x.requires_grad else 0.0
        return self.denoiser(x, sigma, cond)


@dataclass(frozen=True)
class Task:
    """What all ways share.

    Attributes:
        denoiser: of the patches.
        patch: (h, w).
        width: of the panorama; h is its height.
        style: class of the condition.
        steps: of the sampler.
        sigmas: (smallest, largest).
        max_batch: rows of a network call.
    """

    denoiser: Counted
    patch: tuple[int, int]
    width: int
    style: int
    steps: int
    sigmas: tuple[float, float]
    max_batch: int = 16

    @property
    def cond(self) -> dict[str, Tensor]:
        """One style, the whole height."""
        return {"style": torch.tensor([self.style]), "vertical": torch.tensor([[0.5, 1.0]])}

    def sample(
        self, D: Denoiser, noise: Tensor, seeds: Sequence[int], cond: Cond = None, corrector: Any = None
    ) -> Tensor:
        """Run the stochastic sampler that all ways share; every picture has its own generator."""
        levels = schedules.karras(self.steps, *self.sigmas)
        generators = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
        return samplers.sample(
            D,
            levels[0].float() * noise,
            levels,
            samplers.EulerAncestral(),
            cond=cond,
            corrector=corrector,
            generator=generators,
            progress=False,
        )

    def noise(self, seeds: Sequence[int], width: int) -> Tensor:
        """`[B, 3, h, width]` from the pictures' seeds."""
        height = self.patch[0]
        return torch.stack(
            [torch.randn(3, height, width, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )


def _chain(task: Task, stride: int) -> layout.Layout:
    height = task.patch[0]
    return layout.grid((height, task.width), task.patch, (height, stride))


def concat(task: Task, seeds: Sequence[int]) -> Tensor:
    """Independent pieces, side by side."""
    pieces = Factor(task.denoiser, _chain(task, task.patch[1]), cond=task.cond, max_batch=task.max_batch)
    return task.sample(compose.average(pieces), task.noise(seeds, task.width), seeds)


def _blend(task: Task, seeds: Sequence[int], window: layout.Window) -> Tensor:
    regions = _chain(task, task.patch[1] // 2)
    factor = Factor(task.denoiser, regions, window, cond=task.cond, max_batch=task.max_batch)
    return task.sample(compose.average(factor), task.noise(seeds, task.width), seeds)


def average(task: Task, seeds: Sequence[int]) -> Tensor:
    """MultiDiffusion: every half a patch, equal weights."""
    return _blend(task, seeds, layout.uniform)


def gaussian(task: Task, seeds: Sequence[int]) -> Tensor:
    """Mixture of Diffusers: the same patches, Gaussian weights."""
    return _blend(task, seeds, layout.gaussian)


def _bethe(task: Task, seeds: Sequence[int], corrector: Any) -> Tensor:
    regions = _chain(task, task.patch[1] // 2)
    D = compose.bethe(task.denoiser, regions, cond=task.cond, max_batch=task.max_batch)
    return task.sample(D, task.noise(seeds, task.width), seeds, corrector=corrector)


def bethe(task: Task, seeds: Sequence[int]) -> Tensor:
    """DiffCollage: the same patches, less their overlaps."""
    return _bethe(task, seeds, None)


def bethe_ula(task: Task, seeds: Sequence[int]) -> Tensor:
    """The same, with one Langevin step at each level."""
    return _bethe(task, seeds, samplers.ULA(0.5))


Hold = Callable[[Denoiser, Tensor, Tensor], Denoiser]


def _onwards(task: Task, seeds: Sequence[int], hold: Hold) -> Tensor:
    """One patch after the other, each half known: what of its estimate is held to that is `hold`'s."""
    height, width = task.patch
    half = width // 2
    noise = task.noise(seeds, task.width)
    canvas = torch.empty_like(noise)
    canvas[..., :width] = task.sample(task.denoiser, noise[..., :width], seeds, cond=task.cond)
    where = torch.zeros(height, width, dtype=torch.bool)
    where[:, :half] = True
    for number, start in enumerate(range(half, task.width - width + 1, half), 1):
        known = torch.zeros(len(seeds), 3, height, width)
        known[..., :half] = canvas[..., start : start + half]
        D = hold(task.denoiser, where, known)
        own = [seed + 1_000 * number for seed in seeds]
        piece = task.sample(D, noise[..., start : start + width], own, cond=task.cond)
        canvas[..., start + half : start + width] = piece[..., half:]
    return canvas


def replacement(task: Task, seeds: Sequence[int]) -> Tensor:
    """From left to right, the known half replaced in every estimate."""
    return _onwards(
        task, seeds, lambda D, where, y: conditioning.Replacement(conditioning.Known(where), y, D)
    )


def reconstruction(task: Task, seeds: Sequence[int]) -> Tensor:
    """From left to right, estimates pulled to the known half by the gradient, and replaced there."""

    def hold(D: Denoiser, where: Tensor, y: Tensor) -> Denoiser:
        known = conditioning.Known(where)
        return conditioning.Replacement(known, y, conditioning.Reconstruction(known, y, 0.5, D))

    return _onwards(task, seeds, hold)


WAYS: dict[str, Callable[[Task, Sequence[int]], Tensor]] = {
    "concat": concat,
    "replacement": replacement,
    "reconstruction": reconstruction,
    "average": average,
    "gaussian": gaussian,
    "bethe": bethe,
    "bethe + ULA": bethe_ula,
}
