# SPDX-License-Identifier: Apache-2.0
"""Against loops written from the papers' descriptions, and against the untiled network where one can be."""

from __future__ import annotations

import pytest
import torch
from intarsia import layout, samplers
from intarsia.compose import Factor, average
from intarsia.layout import Layout
from intarsia.ops import CoverageError
from torch import Tensor, nn


def network(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
    """Not pointwise: every element depends on its whole patch."""
    level = sigma.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype)
    return (x.roll(1, -1) - x.flip(-2) / 2 + x.mean((-1, -2), keepdim=True)).tanh() / (1 + level)


def multidiffusion(x: Tensor, sigma: Tensor, patch: int, stride: int, window: Tensor) -> Tensor:
    """Value and count, view after view, as MultiDiffusion describes it; sizes that the stride divides."""
    value, count = torch.zeros_like(x), torch.zeros_like(x)
    height, width = x.shape[2:]
    for top in range(0, height - patch + 1, stride):
        for left in range(0, width - patch + 1, stride):
            view = (..., slice(top, top + patch), slice(left, left + patch))
            value[view] += window * network(x[view], sigma)
            count[view] += window
    return torch.where(count > 0, value / count, value)


def gaussian(n: int) -> Tensor:
    """The weights of Mixture of Diffusers, number by number."""
    j, middle = torch.arange(n, dtype=torch.float64), (n - 1) / 2
    w = torch.exp(-(((j - middle) / n) ** 2) / (2 * 0.01)) / (2 * torch.pi * 0.01) ** 0.5
    return w[:, None] * w


@pytest.mark.parametrize("name", ["uniform", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_naive_double_loop_gives_the_same_canvas(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 24, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.5, 3.0])
    window = torch.ones(16, 16, dtype=torch.float64) if name == "uniform" else gaussian(16)
    expected = multidiffusion(x, sigma.double(), 16, 4, window)
    composite = average(
        Factor(network, layout.grid((24, 40), (16, 16), (4, 4)), getattr(layout, name), max_batch=5)
    )
    got = composite(x.to(dtype), sigma.to(dtype))
    torch.testing.assert_close(
        got.double(), expected, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-12
    )


def test_a_ddim_step_on_the_composite_equals_averaging_the_steps_of_the_regions() -> None:
    """For a deterministic single-step solver predictions and states may be averaged alike."""
    size, sigma, lower = (16, 28), 2.0, 0.7
    region = layout.grid(size, (16, 16), (4, 4))
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    level = torch.tensor([sigma], dtype=torch.float64)
    per_region = torch.stack(
        [p * (lower / sigma) + (1 - lower / sigma) * network(p, level) for p in region.extract(x).unbind(1)],
        1,
    )
    composite = average(Factor(network, region))
    levels = torch.tensor([sigma, lower], dtype=torch.float64)
    stepped = samplers.sample(composite, x, levels, samplers.DDIM(), progress=False)
    torch.testing.assert_close(stepped, region.merge(per_region), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(composite(x, level), multidiffusion(x, level, 16, 4, torch.ones(16, 16)))


def test_noise_drawn_per_region_would_blur_the_overlaps_and_noise_per_canvas_does_not() -> None:
    region = layout.loop(4096, 64, 8)
    draw = torch.Generator().manual_seed(3)
    apart = region.merge(torch.randn(1, region.num_regions, 1, 64, generator=draw))
    assert float(apart.var()) == pytest.approx(1 / 8, rel=0.1)
    together = region.merge(region.extract(torch.randn(1, 1, 4096, generator=draw)))
    assert float(together.var()) == pytest.approx(1, rel=0.1)


def conv_net(radius: int, seed: int) -> nn.Module:
    """Zero-padded convolutions, each of 3 cells: an element sees `radius` neighbours on each side."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for depth in range(radius):
        layers += [
            nn.Conv2d(2 if depth == 0 else 4, 2 if depth == radius - 1 else 4, 3, padding=1),
            nn.Tanh(),
        ]
    return nn.Sequential(*layers[:-1]).double().requires_grad_(False)


def interior(region: Layout, margin: int) -> Tensor:
    """1 at least `margin` cells from every edge of a patch that is not the canvas's own, else 0: [R, *s]."""
    weight = torch.ones(region.num_regions, *region.patch)
    for index, (offset, patch) in enumerate(region.boxes()):
        for axis, (first, extent) in enumerate(zip(offset, patch, strict=True)):
            along = weight[index].movedim(axis, 0)
            if first > 0:
                along[:margin] = 0
            if first + extent < region.size[axis]:
                along[extent - margin :] = 0
    return weight


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_tiled_equals_untiled_once_the_overlap_holds_the_receptive_field(radius: int, seed: int) -> None:
    """An element is right in a patch if its receptive field is: so crop `radius`, and overlap twice that."""
    net, patch = conv_net(radius, seed), 12
    denoiser = lambda x, sigma, cond=None: net(x)  # noqa: E731
    x = torch.randn(1, 2, 31, 26, dtype=torch.float64)
    enough = layout.grid((31, 26), (patch, patch), (patch - 2 * radius,) * 2)
    sigma = torch.ones(1, dtype=torch.float64)
    exact = average(Factor(denoiser, enough, interior(enough, radius)))(x, sigma)
    torch.testing.assert_close(exact, net(x), rtol=0, atol=1e-12)

    one_short = average(Factor(denoiser, enough, interior(enough, radius - 1)))(x, sigma)
    assert (one_short - net(x)).abs().max() > 1e-4, "a crop one cell short keeps wrong elements"

    less = layout.grid((31, 26), (patch, patch), (patch - 2 * radius + 1,) * 2)
    with pytest.raises(CoverageError):
        average(Factor(denoiser, less, interior(less, radius)))


def test_average_weights_never_hide_the_border_of_a_patch() -> None:
    """Windows that are positive everywhere weigh wrong elements little, but not with 0."""
    net = conv_net(1, 0)
    region = layout.grid((31, 26), (12, 12), (4, 4))
    x = torch.randn(1, 2, 31, 26, dtype=torch.float64)
    errors = [
        float((average(Factor(lambda x, s, cond: net(x), region, w))(x, torch.ones(1)) - net(x)).abs().mean())
        for w in (layout.uniform, layout.gaussian)
    ]
    assert errors[0] > 20 * errors[1] > 0
