# SPDX-License-Identifier: Apache-2.0
"""A picture that a part of the canvas follows for the first steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from intarsia.types import Info, State, marginal

__all__ = ["ImageGuide"]


@dataclass(frozen=True, eq=False)
class ImageGuide:
    """Overwrite a box of the canvas with a picture, noised to the level just reached (SDEdit per rectangle).

    `x[box] = a * image + s * noise[box]` after every step while the share of steps done is at most
    `strength`; (a, s) are the scales of signal and noise at that level, `noise` is that which the run began
    with. It is a callback: `samplers.sample(..., callback=ImageGuide(...))`.

    Args:
        image: [B or 1, C, *s], clean, in the scale of the canvas (for latent models: encoded).
        box: (offset, size) in axis order; the size is that of the image.
        strength: 0 never acts, 1 acts in every step, the last included, so that the box ends as the image.
        noise: [B or 1, C, *S], standard normal: the unscaled noise of the whole canvas that `x` began with.
        wrap: per axis, whether the canvas closes onto itself, so that the box may cross its edge.
        weight: [*s] in [0, 1], how much of the guide each element takes; None takes all of it.

    Raises:
        ValueError: a strength outside 0 to 1, a size that is not the image's, or a box outside the canvas.

    Note:
        Outpainting is a guide of strength 1 inside a larger canvas; a guide of a former result everywhere but
        in one part makes that part anew. It works at any level of any solver that says `State.marginal`.

    Source:
        Meng et al. 2022, "SDEdit", section 3; Jimenez 2023, "Mixture of Diffusers", algorithm 2, which noises
        to the level before the step.

    Example:
        >>> guide = ImageGuide(torch.ones(1, 1, 2), ((1,), (2,)), 0.5, noise=torch.zeros(1, 1, 4))
        >>> state = State(torch.zeros(1, 1, 4), sigma=0.0, step=1, num_steps=2)
        >>> guide(0, state, Info(1.0, 0.0)).x
        tensor([[[0., 1., 1., 0.]]])
    """

    image: Tensor
    box: tuple[Sequence[int], Sequence[int]]
    strength: float
    noise: Tensor = field(kw_only=True)
    wrap: Sequence[bool] | None = field(default=None, kw_only=True)
    weight: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(
                f"ImageGuide: strength must be within 0 and 1, got {self.strength}. "
                "It is the share of the steps in which the guide acts."
            )
        offset, size = (tuple(map(int, part)) for part in self.box)
        canvas = tuple(self.noise.shape[2:])
        if size != tuple(self.image.shape[2:]) or len(size) != len(canvas):
            raise ValueError(
                f"ImageGuide: box must have the image's size {tuple(self.image.shape[2:])}, got {size}. "
                "A box is (offset, size) in axis order; resize the image to it."
            )
        wrap = tuple(self.wrap or (False,) * len(size))
        for axis, (start, length, whole) in enumerate(zip(offset, size, canvas, strict=True)):
            if length > whole or (not wrap[axis] and not 0 <= start <= whole - length):
                raise ValueError(
                    f"ImageGuide: box must lie on the canvas {canvas}, got {start} to {start + length} on "
                    f"axis {axis}. Move it, or wrap the axis."
                )
        if self.weight is not None and tuple(self.weight.shape) != size:
            raise ValueError(
                f"ImageGuide: weight must have shape {list(size)}, got {list(self.weight.shape)}. "
                "Give one number in [0, 1] for each element of the box."
            )
        object.__setattr__(self, "box", (offset, size))
        object.__setattr__(self, "wrap", wrap)

    def acts(self, steps: int, num_steps: int) -> bool:
        """Say whether it acts after `steps` steps of `num_steps` are done."""
        return 0 < steps <= self.strength * num_steps + 1e-9

    def apply(self, x: Tensor, a: float, s: float) -> Tensor:
        """Return the canvas `x` [B, C, *S] with the box at signal scale `a` and noise scale `s`."""
        index = self._index(x.device)
        noise = self.noise.to(x.device)[index]
        guided = (a * self.image.to(x.device) + s * noise).to(x.dtype)
        if self.weight is not None:
            guided = torch.lerp(x[index], guided.expand_as(x[index]), self.weight.to(x))
        x = x.clone()
        x[index] = guided
        return x

    def __call__(self, step: int, state: State, info: Info) -> State | None:
        """Return the state with its box overwritten, or None where the guide no longer acts.

        Raises:
            ValueError: the canvas differs from the noise in shape, or the state has no level or no end.
        """
        if state.num_steps is None:
            raise ValueError(
                "ImageGuide: state must know how many steps its run has, got num_steps=None. "
                "States of samplers.sample and trajectory do."
            )
        if not self.acts(state.step, state.num_steps):
            return None
        if state.x.shape[1:] != self.noise.shape[1:]:
            raise ValueError(
                f"ImageGuide: noise must have the canvas {list(state.x.shape)}, "
                f"got {list(self.noise.shape)}. "
                "Pass the noise that the run began with."
            )
        a, s = marginal(state)
        return replace(state, x=self.apply(state.x, a, s))

    def _index(self, device: torch.device) -> tuple[slice | Tensor, ...]:
        offset, size = self.box
        canvas = self.noise.shape[2:]
        axes = len(canvas)
        places = [
            ((torch.arange(length, device=device) + start) % whole).reshape(-1, *(1,) * (axes - axis - 1))
            for axis, (start, length, whole) in enumerate(zip(offset, size, canvas, strict=True))
        ]
        return (slice(None), slice(None), *places)
