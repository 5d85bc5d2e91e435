# SPDX-License-Identifier: Apache-2.0
"""What holds for every layout, window and dimension, because the weights of a composite sum to one."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia import layout
from intarsia.compose import Composite, Factor, average, weighted_sum
from intarsia.layout import BoxSet, Layout, Window
from torch import Tensor

CASES = settings(derandomize=True, deadline=None, max_examples=60, print_blob=True)
WINDOWS: list[Window] = [
    layout.uniform,
    layout.triangle,
    layout.cosine,
    layout.gaussian,
    partial(layout.gaussian, sigma_fraction=0.25),
    layout.quartic,
]
LARGEST = {1: 12, 2: 6, 3: 4}


@st.composite
def grids(draw: st.DrawFn) -> Layout:
    ndim = draw(st.integers(1, 3))
    patch = draw(st.lists(st.integers(1, LARGEST[ndim]), min_size=ndim, max_size=ndim))
    stride = [draw(st.integers(1 if ndim == 1 else max(1, p // 3), p)) for p in patch]
    wrap = draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
    size = [
        s * (math.ceil(p / s) + draw(st.integers(0, 2))) if w else p + draw(st.integers(0, 5))
        for p, s, w in zip(patch, stride, wrap, strict=True)
    ]
    return layout.grid(size, patch, stride, wrap)


@st.composite
def boxes(draw: st.DrawFn) -> BoxSet:
    ndim = draw(st.integers(1, 3))
    size = tuple(draw(st.lists(st.integers(2, 2 * LARGEST[ndim]), min_size=ndim, max_size=ndim)))
    wrap = draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
    given_boxes = []
    for _ in range(draw(st.integers(0, 5))):
        extent = tuple(draw(st.integers(1, s)) for s in size)
        last = [s - 1 if w else s - e for s, e, w in zip(size, extent, wrap, strict=True)]
        given_boxes.append((tuple(draw(st.integers(0, end)) for end in last), extent))
    place = draw(st.integers(0, len(given_boxes)))
    given_boxes.insert(place, ((0,) * ndim, size))
    return layout.boxes(size, given_boxes, wrap=wrap)


LAYOUTS = st.one_of(grids(), boxes())
WEIGHTS = st.sampled_from(WINDOWS)


def canvas(region: Layout | BoxSet, dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(len(region.boxes()))
    return torch.randn(batch, 2, *region.size, generator=draw, dtype=torch.float64).to(dtype)


def sigma_of(x: Tensor) -> Tensor:
    return torch.linspace(0.5, 2, x.shape[0], dtype=x.dtype if x.dtype == torch.float64 else torch.float32)


def run(composite: Composite, x: Tensor) -> Tensor:
    with torch.no_grad():
        return composite(x, sigma_of(x))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Exact in float64 but for the last digits of a quotient of sums; 1e-6 in float32."""
    near = 1e-14 if actual.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(actual, expected, rtol=near, atol=near)


def starts(region: Layout | BoxSet) -> Tensor:
    return torch.tensor([offset for offset, _ in region.boxes()])


def field(region: Layout | BoxSet, dtype: torch.dtype) -> Tensor:
    """A number for every place of the canvas, `[*S]`."""
    return torch.linspace(-2, 3, math.prod(region.size), dtype=dtype).reshape(region.size).sin()


def adds_its_place(region: Layout | BoxSet, dtype: torch.dtype):
    """D(x) = 2x + field at the places that `cond["start"]` names."""
    table, size = field(region, dtype), region.size

    def denoiser(x: Tensor, sigma: Tensor, cond: dict[str, Tensor]) -> Tensor:
        rows = []
        for start in cond["start"].tolist():
            part = table
            for axis, (first, extent) in enumerate(zip(start, x.shape[2:], strict=True)):
                part = part.index_select(axis, (torch.arange(extent) + first) % size[axis])
            rows.append(part)
        return 2 * x + torch.stack(rows)[:, None]

    return denoiser


@CASES
@given(LAYOUTS, WEIGHTS, st.sampled_from([torch.float32, torch.float64]))
def test_identity_in_identity_out(region: Layout | BoxSet, window: Window, dtype: torch.dtype) -> None:
    x = canvas(region, dtype)
    assert_same(run(average(Factor(lambda x, sigma, cond: x, region, window, max_batch=3)), x), x)


@CASES
@given(LAYOUTS, WEIGHTS, st.sampled_from([torch.float32, torch.float64]))
def test_a_pointwise_denoiser_that_knows_its_place_is_applied_everywhere_once(
    region: Layout | BoxSet, window: Window, dtype: torch.dtype
) -> None:
    x = canvas(region, dtype)
    factor = Factor(
        adds_its_place(region, dtype), region, window, cond={"start": starts(region)}, max_batch=4
    )
    assert_same(run(average(factor), x), 2 * x + field(region, dtype))


@CASES
@given(LAYOUTS, WEIGHTS, WEIGHTS, st.floats(0.1, 5))
def test_several_factors_still_give_the_identity(
    region: Layout | BoxSet, one: Window, other: Window, coefficient: float
) -> None:
    whole = Layout(region.size, region.size, torch.zeros(1, len(region.size)))
    x = canvas(region)
    same = lambda x, sigma, cond: x  # noqa: E731
    composite = average(Factor(same, region, one, coefficient=coefficient), Factor(same, whole, other))
    assert_same(run(composite, x), x)


@CASES
@given(LAYOUTS, WEIGHTS)
def test_signed_sums_still_give_the_identity(region: Layout | BoxSet, window: Window) -> None:
    """+1 region weights, -1 the same again, +1 the canvas: negative coefficients that sum to one."""
    whole = Layout(region.size, region.size, torch.zeros(1, len(region.size)))
    x = canvas(region)
    same = lambda x, sigma, cond: x  # noqa: E731
    composite = weighted_sum(
        Factor(same, region, window),
        Factor(same, region, window, coefficient=-1.0),
        Factor(same, whole),
    )
    torch.testing.assert_close(run(composite, x), x, rtol=1e-12, atol=1e-12)


@CASES
@given(LAYOUTS, WEIGHTS)
def test_the_result_is_the_same_bits_for_every_max_batch(region: Layout | BoxSet, window: Window) -> None:
    x = canvas(region, torch.float32)
    scale = torch.linspace(0.5, 1.5, region.num_regions)

    def pointwise(x: Tensor, sigma: Tensor, cond: dict[str, Tensor]) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 1)
        return (x * cond["scale"].reshape(shape)).tanh() / (1 + sigma.reshape(shape))

    results = [
        run(average(Factor(pointwise, region, window, cond={"scale": scale}, max_batch=most)), x)
        for most in (1, 2, 7, None)
    ]
    for result in results[1:]:
        assert torch.equal(result, results[0])


@CASES
@given(LAYOUTS, WEIGHTS, st.randoms(use_true_random=False))
def test_the_order_of_distinct_regions_does_not_matter_bit_for_bit(region, window, random) -> None:
    unique = list(dict.fromkeys(region.boxes()))
    order = list(range(len(unique)))
    random.shuffle(order)
    denoiser = lambda x, sigma, cond: (x * cond["gain"].reshape(-1, *(1,) * (x.ndim - 1))).sin()  # noqa: E731
    gain = torch.linspace(0.5, 2, len(unique))

    def result(kept: list[int]) -> Tensor:
        chosen = layout.boxes(region.size, [unique[k] for k in kept], wrap=region.wrap)
        return run(
            average(Factor(denoiser, chosen, window, cond={"gain": gain[kept]})),
            canvas(region, torch.float32),
        )

    assert torch.equal(result(order), result(sorted(order)))


@CASES
@given(grids(), WEIGHTS)
def test_one_region_that_covers_the_canvas_is_the_plain_network(region: Layout, window: Window) -> None:
    whole = Layout(region.size, region.size, torch.zeros(1, len(region.size)))
    network = lambda x, sigma, cond: x.flip(-1).tanh() + x.mean((1, 2), keepdim=True).sin()  # noqa: E731
    x = canvas(region, torch.float32)
    plain = network(x, sigma_of(x), None)
    assert torch.equal(run(average(Factor(network, whole)), x), plain)
    assert_same(run(average(Factor(network, whole, window)), x), plain)


@CASES
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_disjoint_regions_are_each_region_alone(ndim: int, patch: int, count: int, wrap: bool) -> None:
    size = (patch * count,) * ndim
    region = layout.grid(size, (patch,) * ndim, (patch,) * ndim, (wrap,) * ndim)
    network = lambda x, sigma, cond: x.flip(-1).tanh() + x.std(-1, keepdim=True, correction=0)  # noqa: E731
    x = canvas(region, torch.float32)
    merged = run(average(Factor(network, region)), x)
    for index, alone in enumerate(region.extract(x).unbind(1)):
        assert torch.equal(region.extract(merged)[:, index], network(alone, None, None))


@CASES
@given(LAYOUTS, WEIGHTS, st.floats(0.05, 20))
def test_eps_v_score_and_x0_compose_to_the_same(
    region: Layout | BoxSet, window: Window, level: float
) -> None:
    x = canvas(region)
    square = 1 + level**2
    network = lambda x: (3 * x).sin() + x.flip(-1)  # noqa: E731
    to = {
        "eps": lambda x, D: (x - D) / level,
        "v": lambda x, D: (x / square - D) * math.sqrt(square) / level,
        "score": lambda x, D: (D - x) / level**2,
        "flow": lambda x, D: (x - D) / level - D,
    }
    composed = run(average(Factor(lambda x, sigma, cond: network(x), region, window)), x)
    for convert in to.values():
        within = average(Factor(lambda x, sigma, cond, c=convert: c(x, network(x)), region, window))
        torch.testing.assert_close(run(within, x), convert(x, composed), rtol=1e-9, atol=1e-9)


def test_a_plain_sum_of_experts_is_not_the_same_in_every_space_and_is_refused() -> None:
    region = layout.chain(6, 4, 2)
    with pytest.raises(ValueError, match="weighted_sum: weights must sum to one"):
        weighted_sum(Factor(lambda x, sigma, cond: x, region))
