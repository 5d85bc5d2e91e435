# SPDX-License-Identifier: Apache-2.0
"""The unknown part of a picture, painted so that it goes on from the known part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from intarsia import compose, layout, samplers, schedules
from intarsia.cli.collage import collage, vertical_place
from intarsia.cli.picture import find_solver
from intarsia.conditioning import Known, Replacement
from intarsia.layout import BoxSet
from intarsia.types import Cond, Denoiser

__all__ = ["fill", "needed", "paste", "reduced", "style_like"]

_TRIALS = 8
_LEVELS = (0.4, 1.0)


def reduced(picture: Tensor, known: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shrink the known part of a picture; nothing unknown leaks into it.

    Args:
        picture: `[3, H, W]`.
        known: `[H, W]` bool.
        size: of the result, at most (H, W).

    Returns:
        The picture `[3, h, w]`, 0 where it is not known, and where it is known throughout, `[h, w]` bool.
    """
    if size == tuple(known.shape):
        return torch.where(known, picture, 0.0), known
    share = interpolate(known.float()[None, None], size=size, mode="area")[0]
    found = interpolate(torch.where(known, picture, 0.0)[None], size=size, mode="area")[0]
    whole = share[0] >= 1 - 1e-6
    return torch.where(whole, found / share.clamp_min(1e-6), 0.0), whole


def needed(unknown: Tensor, patch: tuple[int, int]) -> BoxSet:
    """The regions of a grid at half overlap that see something unknown.

    Args:
        unknown: `[H, W]` bool, at least one of them.
        patch: `(h, w)` of a region.

    Returns:
        The regions.
    """
    size = (unknown.shape[0], unknown.shape[1])
    grid = layout.grid(size, patch, tuple(max(1, p // 2) for p in patch))
    sees = grid.extract(unknown[None, None].float()).flatten(1).reshape(grid.num_regions, -1).amax(1) > 0
    places = grid.boxes()
    return layout.boxes(size, [places[r] for r in sees.nonzero().flatten().tolist()])


def style_like(denoiser: Denoiser, y: Tensor, known: Tensor, patch: tuple[int, int], styles: int) -> int:
    """The style under which the network restores the known part best; 0, the null style, if little is known.

    Args:
        denoiser: the network.
        y: `[3, H, W]`, the picture.
        known: `[H, W]` bool.
        patch: `(h, w)` of a trial.
        styles: how many styles there are.

    Returns:
        The index of a style.
    """
    if not styles or any(n < p for n, p in zip(known.shape, patch, strict=True)):
        return 0
    grid = layout.grid(tuple(known.shape), patch, tuple(max(1, p // 4) for p in patch))
    whole = grid.extract(known[None, None].float()).reshape(grid.num_regions, -1).amin(1) > 0
    chosen = whole.nonzero().flatten()
    if not len(chosen):
        return 0
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(_TRIALS, len(chosen))).long()]
    clean = grid.extract(y[None])[0, chosen]
    vertical = vertical_place(tuple(grid.boxes()[r] for r in chosen.tolist()), known.shape[0])
    generator = torch.Generator().manual_seed(0)
    error = torch.zeros(styles + 1)
    for sigma in _LEVELS:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        for style in range(styles + 1):
            cond = {"style": torch.full((len(chosen),), style), "vertical": vertical}
            level = torch.full((len(chosen),), sigma)
            denoised = denoiser(
                clean + sigma * noise, level.to(clean), {k: v.to(clean.device) for k, v in cond.items()}
            )
            error[style] += (denoised - clean).square().mean().cpu() / sigma**2
    return int(error.argmin())


def _composite(
    denoiser: Denoiser, y: Tensor, regions: BoxSet, *, method: str, style: int, height: int, max_batch: int
) -> Denoiser:
    places = regions.boxes()
    cond = {
        "style": torch.full((len(places),), style),
        "vertical": vertical_place(places, height),
    }
    size = (y.shape[-2], y.shape[-1])
    rest = 1 - (regions.total() > 0).double()

    def known(x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        return y.to(x).expand_as(x)

    far = compose.Factor(known, layout.boxes(size, [((0, 0), size)]), rest)
    if method == "bethe":
        parts = collage(denoiser, denoiser, regions, cond=cond, height=height, max_batch=max_batch)
        return compose.weighted_sum(*parts, far)
    window = layout.gaussian if method == "gaussian" else layout.uniform
    return compose.average(compose.Factor(denoiser, regions, window, cond=cond, max_batch=max_batch), far)


def fill(
    denoiser: Denoiser,
    y: Tensor,
    known: Tensor,
    *,
    patch: tuple[int, int],
    method: str,
    style: int,
    solver: str,
    steps: int,
    seed: int,
    max_batch: int,
    sigma_range: tuple[float, float],
    callback: Callable[..., Any] | None = None,
) -> Tensor:
    """Paint what is unknown.

    Args:
        denoiser: a network of patches with cond `"style"` and `"vertical"`.
        y: `[3, H, W]`, the picture, anything where it is not known.
        known: `[H, W]` bool.
        patch: `(h, w)` of the regions.
        method: `bethe`, `gaussian` or `average`.
        style: index of the style of the regions.
        solver: name of a solver.
        steps: of the solver.
        seed: of the noise.
        max_batch: regions that go through the network at once.
        sigma_range: smallest and largest noise level.
        callback: called after each step.

    Returns:
        `[3, H, W]` on the CPU: `y` where it is known.
    """
    height, width = known.shape
    step = tuple(p // 2 for p in patch)
    size = [p + max(0, -(-(n - p) // s)) * s for n, p, s in zip((height, width), patch, step, strict=True)]
    pad = (0, size[1] - width, 0, size[0] - height)
    here = torch.nn.functional.pad(known, pad, value=False)
    wanted = torch.nn.functional.pad(~known, pad, value=False)
    canvas = torch.nn.functional.pad(torch.where(known.to(y.device), y, 0.0), pad)
    composite = _composite(
        denoiser,
        canvas,
        needed(wanted, patch),
        method=method,
        style=style,
        height=height,
        max_batch=max_batch,
    )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, *size, generator=generator).to(y.device)
    sigmas = schedules.karras(steps, *sigma_range)
    painted = samplers.sample(
        Replacement(Known(here), canvas[None], composite),
        canvas[None] + noise * sigmas[0],
        sigmas,
        find_solver(solver),
        generator=generator,
        callback=callback,
        progress=False,
    )
    return torch.where(known, y.cpu(), painted[0, :, :height, :width].float().cpu())


def paste(picture: Tensor, known: Tensor, painted: Tensor, *, feather: Sequence[int] = ()) -> Tensor:
    """Put a picture's known part, pixel by pixel, over what was painted.

    Where their resolutions differ, what was painted takes on the colours at the border over a short reach.

    Args:
        picture: `[3, H, W]`.
        known: `[H, W]` bool.
        painted: `[3, h, w]`, the whole picture at a lower resolution or the same.
        feather: reach of the correction in pixels per axis; empty takes twice the scale.

    Returns:
        `[3, H, W]`, exactly `picture` where it is known.
    """
    size = (known.shape[0], known.shape[1])
    if tuple(painted.shape[1:]) == size:
        return torch.where(known, picture, painted)
    large = interpolate(painted[None], size=size, mode="bicubic", align_corners=False)[0].clamp(-1, 1)
    scale = [2 * n / m for n, m in zip(size, painted.shape[1:], strict=True)]
    reach = tuple(feather) or tuple(max(1, round(s)) for s in scale)
    # Coarse to fine: the last pass sees pixels next to the border alone, and leaves no step there.
    while True:
        weight = _smooth(known.float()[None], reach)
        apart = _smooth(torch.where(known, picture - large, 0.0), reach) / weight.clamp_min(1e-4)
        large = large + (2 * weight).clamp_max(1) * apart
        if max(reach) == 1:
            return torch.where(known, picture, large.clamp(-1, 1))
        reach = tuple(-(-n // 2) for n in reach)


def _smooth(x: Tensor, reach: Sequence[int]) -> Tensor:
    """Two box filters `[C, H, W]` over `2 * reach + 1` pixels per axis; what lies outside counts as 0."""
    for _ in range(2):
        for axis, n in zip((1, 2), reach, strict=True):
            length = x.shape[axis]
            zero = torch.zeros_like(x.narrow(axis, 0, 1))
            running = torch.cat([zero, x.double().cumsum(axis)], axis)
            at = torch.arange(length, device=x.device)
            high = running.index_select(axis, (at + n + 1).clamp(max=length))
            x = (high - running.index_select(axis, (at - n).clamp(min=0))).div(2 * n + 1).to(x.dtype)
    return x
