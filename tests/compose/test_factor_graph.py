# SPDX-License-Identifier: Apache-2.0
"""Bethe and Kikuchi composites against closed forms of Gaussian fields, and what a bad graph is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from analytic import GaussianField
from intarsia import Factor, compose, layout
from intarsia.layout import BoxSet, Layout
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class Marginals:
    """A Gaussian field [B, 1, *S] whose network answers for any box that its condition names."""

    covariance: Tensor
    size: tuple[int, ...]

    def places(self, offset: Tensor, extent: tuple[int, ...]) -> Tensor:
        """Flat indices of a box around closed axes."""
        index = torch.zeros((), dtype=torch.int64)
        for axis, length in enumerate(self.size):
            along = (int(offset[axis]) + torch.arange(extent[axis])) % length
            index = index[..., None] * length + along if index.ndim else along
        return index.flatten()

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        rows = []
        for row, level, offset in zip(x, sigma, cond["offset"], strict=True):
            own = self.places(offset, tuple(row.shape[1:]))
            part = self.covariance[own][:, own]
            gain = part @ torch.linalg.inv(part + level**2 * torch.eye(len(own), dtype=F64))
            rows.append((gain @ row.flatten()).reshape(row.shape))
        return torch.stack(rows)


def offsets(regions: Layout | BoxSet) -> dict[str, Tensor]:
    return {"offset": torch.tensor([offset for offset, _ in regions.boxes()])}


def composite(field: Marginals, regions: Layout | BoxSet) -> compose.Composite:
    between = layout.separators(regions)
    return compose.bethe(
        field,
        regions,
        cond=offsets(regions),
        separator_cond=None if between is None else offsets(between),
    )


def matrix(D: Any, size: tuple[int, ...], sigma: float) -> Tensor:
    """The composite as a matrix, by what it makes of the unit vectors."""
    count = int(torch.tensor(size).prod())
    basis = torch.eye(count, dtype=F64).reshape(count, 1, *size)
    return D(basis, torch.full((count,), sigma, dtype=F64), None).reshape(count, count).T


def closed_form(field: Marginals, regions: Layout | BoxSet, sigma: float) -> Tensor:
    """The same sum in matrices, with counting numbers by inclusion and exclusion over single elements.

    Written without the library: each region's gain is lifted to the canvas, and the coefficients come
    from the definition `sum of c over all regions that hold a region = 1`.
    """
    nodes = {frozenset(field.places(torch.tensor(o), e).tolist()): (o, e) for o, e in regions.boxes()}
    patches = set(nodes)
    grown = True
    while grown:
        found = {a & b for a in nodes for b in patches if a & b} - set(nodes)
        parts: set[frozenset[int]] = set()
        for one in found:
            parts |= pieces(one, field.size)
        grown = bool(parts - set(nodes))
        for one in parts - set(nodes):
            nodes[one] = ((), ())
    result = torch.zeros(len(field.covariance), len(field.covariance), dtype=F64)
    counts: dict[frozenset[int], int] = {}
    for node in sorted(nodes, key=len, reverse=True):
        counts[node] = 1 - sum(count for other, count in counts.items() if node < other)
        own = torch.tensor(sorted(node))
        part = field.covariance[own][:, own]
        gain = part @ torch.linalg.inv(part + sigma**2 * torch.eye(len(own), dtype=F64))
        result[own[:, None], own] += counts[node] * gain
    return result


def pieces(places: frozenset[int], size: tuple[int, ...]) -> set[frozenset[int]]:
    """The connected parts of a set of elements of a closed canvas, by neighbours."""
    strides = [int(torch.tensor(size[axis + 1 :]).prod()) for axis in range(len(size))]
    left, parts = set(places), set()
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            at = edge.pop()
            part.add(at)
            for length, stride in zip(size, strides, strict=True):
                along = at // stride % length
                for step in (-1, 1):
                    near = at + ((along + step) % length - along) * stride
                    if near in left:
                        left.discard(near)
                        edge.add(near)
        parts.add(frozenset(part))
    return parts


def markov(size: tuple[int, ...], wrap: tuple[bool, ...], correlation: float = 0.8) -> Marginals:
    """A separable field: AR(1) along every axis, on rings where the axis is closed."""
    covariance = torch.ones(1, 1, dtype=F64)
    for length, closed in zip(size, wrap, strict=True):
        if closed:
            precision = (1 + correlation**2) * torch.eye(length, dtype=F64)
            shifted = torch.roll(torch.eye(length, dtype=F64), 1, 0)
            own = torch.linalg.inv(precision - correlation * (shifted + shifted.T))
        else:
            own = GaussianField.autoregressive(length, correlation).covariance
        covariance = torch.kron(covariance, own.contiguous())
    return Marginals(covariance, size)


def true_gain(field: Marginals, sigma: float) -> Tensor:
    eye = torch.eye(len(field.covariance), dtype=F64)
    return field.covariance @ torch.linalg.inv(field.covariance + sigma**2 * eye)


GRAPHS: dict[str, Layout | BoxSet] = {
    "chain": layout.chain(20, 8, 4),
    "chain of small overlaps": layout.chain(26, 8, 6),
    "cycle": layout.loop(24, 8, 4),
    "checkerboard": layout.checkerboard((8, 8), (4, 4)),
    "closed checkerboard": layout.checkerboard((8, 8), (4, 4), (True, True)),
    "dense grid": layout.grid((6, 8), (4, 4), (2, 2)),
    "closed dense grid": layout.grid((6, 8), (4, 4), (2, 2), (False, True)),
    "tree": layout.boxes((5, 9), [((0, 0), (5, 3)), ((0, 2), (3, 7)), ((3, 2), (2, 7))]),
}


@pytest.mark.parametrize("sigma", [0.05, 0.7, 10.0])
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "tree"])
def test_equal_to_the_closed_form(name: str, sigma: float) -> None:
    regions = GRAPHS[name]
    field = markov(regions.size, regions.wrap)
    got = matrix(composite(field, regions), regions.size, sigma)
    torch.testing.assert_close(got, closed_form(field, regions, sigma), rtol=1e-9, atol=1e-9)


def score_error(name: str, sigma: float) -> float:
    """Relative error of the precision that the composite stands for, against the true one."""
    regions = GRAPHS[name]
    field = markov(regions.size, regions.wrap)
    eye = torch.eye(len(field.covariance), dtype=F64)
    got = (eye - matrix(composite(field, regions), regions.size, sigma)) / sigma**2
    want = (eye - true_gain(field, sigma)) / sigma**2
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", ["chain", "chain of small overlaps", "dense grid"])
def test_exact_for_clean_markov_fields_without_cycles(name: str) -> None:
    coarse, fine = score_error(name, 1e-1), score_error(name, 1e-3)
    assert fine < 1e-5 and fine < coarse / 10, (coarse, fine)


@pytest.mark.parametrize("name", ["cycle", "checkerboard", "closed checkerboard"])
def test_not_exact_on_cycles_and_checkerboards(name: str, record_property: Any) -> None:
    gap = score_error(name, 1e-3)
    record_property("relative error of the precision", gap)
    assert gap > 1e-3


def test_the_known_gap_of_a_cycle() -> None:
    """AR(1) on a ring of 24 with windows of 8: its precision is off by 1.24 %, that of a chain by nothing."""
    gaps = []
    for regions in (layout.loop(24, 8, 4), layout.chain(24, 8, 4)):
        field = markov((24,), regions.wrap, correlation=0.9)
        eye, sigma = torch.eye(24, dtype=F64), 1e-4
        got = (eye - matrix(composite(field, regions), (24,), sigma)) / sigma**2
        want = (eye - true_gain(field, sigma)) / sigma**2
        gaps.append(float((got - want).norm() / want.norm()))
    assert gaps[0] == pytest.approx(0.0124, abs=5e-4), gaps
    assert gaps[1] < 1e-6


def decomposable(regions: Layout | BoxSet) -> Marginals:
    """A field whose regions have given marginals, and which is Markov on the tree that they form."""
    field = markov(regions.size, regions.wrap)
    between = layout.separators(regions)
    assert between is not None
    precision = torch.zeros_like(field.covariance)
    for part, sign in ((regions, 1), (between, -1)):
        for offset, extent in part.boxes():
            own = field.places(torch.tensor(offset), extent)
            precision[own[:, None], own] += sign * torch.linalg.inv(field.covariance[own][:, own])
    return Marginals(torch.linalg.inv(precision), regions.size)


def test_exact_on_a_tree_of_boxes() -> None:
    regions = GRAPHS["tree"]
    field = decomposable(regions)
    eye = torch.eye(len(field.covariance), dtype=F64)
    gaps = []
    for sigma in (0.3, 1e-3):
        got = (eye - matrix(composite(field, regions), regions.size, sigma)) / sigma**2
        want = (eye - true_gain(field, sigma)) / sigma**2
        gaps.append(float((got - want).norm() / want.norm()))
    assert gaps[1] < 1e-4 < gaps[0], gaps


@pytest.mark.parametrize("radius", [2, 4])
def test_a_network_that_looks_no_farther_than_the_overlap_is_composed_exactly(radius: int) -> None:
    """What a patch gets wrong at its edge, its separator gets wrong as well, and takes away."""
    weight = torch.randn(1, 1, 2 * radius + 1, dtype=F64)

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(torch.nn.functional.conv1d(x, weight, padding=radius))

    x, sigma = torch.randn(1, 1, 24, dtype=F64), torch.ones(1, dtype=F64)
    close = torch.allclose(compose.bethe(D, layout.chain(24, 8, 4))(x, sigma), D(x, sigma))
    # Half of the overlap on either side.
    assert close == (radius <= 2)


def test_every_seam_of_a_loop_is_left_plus_right_less_their_overlap() -> None:
    ring = layout.loop(24, 8, 4)
    field = markov((24,), (True,))
    D = composite(field, ring)
    x = torch.randn(1, 1, 24, dtype=F64)
    sigma = torch.tensor([0.4], dtype=F64)
    whole = D(x, sigma, None)
    for start in range(0, 24, 4):
        seam = (torch.arange(4) + start) % 24

        def part(begin: int, extent: int) -> Tensor:
            places = (torch.arange(extent) + begin) % 24
            cond = {"offset": torch.tensor([[begin % 24]])}
            return field(x[..., places], sigma, cond)

        left, right, overlap = part(start - 4, 8)[..., 4:], part(start, 8)[..., :4], part(start, 4)
        torch.testing.assert_close(whole[..., seam], left + right - overlap)


def test_shifting_a_loop_by_its_stride_shifts_the_result() -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv1d(2, 2, 13, padding=6, dtype=F64)

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(net(x))

    ring = compose.bethe(D, layout.loop(24, 8, 4))
    x, sigma = torch.randn(1, 2, 24, dtype=F64), torch.ones(1, dtype=F64)
    with torch.no_grad():
        plain = ring(x, sigma)
        torch.testing.assert_close(ring(x.roll(8, -1), sigma), plain.roll(8, -1), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(ring(x.roll(4, -1), sigma), plain.roll(4, -1), rtol=1e-6, atol=1e-9)
        assert not torch.allclose(ring(x.roll(1, -1), sigma), plain.roll(1, -1), atol=1e-3)


def identity(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
    return x


@pytest.mark.parametrize("name", list(GRAPHS))
def test_composing_the_identity_gives_the_identity(name: str) -> None:
    regions = GRAPHS[name]
    x = torch.randn(2, 3, *regions.size, dtype=F64)
    torch.testing.assert_close(compose.bethe(identity, regions)(x, torch.ones(2, dtype=F64)), x)


def test_a_separate_denoiser_of_the_separators() -> None:
    seen: list[tuple[int, ...]] = []

    def separate(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return x

    class Fixed:
        sizes = ((8,),)

        def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
            assert x.shape[2:] == (8,)
            return x

    D = compose.bethe(Fixed(), layout.chain(20, 8, 4), separator_denoiser=separate)
    x = torch.randn(1, 1, 20)
    torch.testing.assert_close(D(x, torch.ones(1)), x)
    assert seen == [(4,)]
    with pytest.raises(ValueError, match=r"separators of a size.*\(8,\).*got \(4,\).*separator_denoiser"):
        compose.bethe(Fixed(), layout.chain(20, 8, 4))


class TwoSizes:
    sizes = ((8,), (4,))

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return x


def test_illegal_lengths_name_the_legal_ones() -> None:
    with pytest.raises(ValueError, match=r"got \(6,\).*legal lengths of axis 0 are 20 and 24"):
        compose.bethe(TwoSizes(), layout.chain(22, 8, 4))
    assert compose.bethe(TwoSizes(), layout.chain(24, 8, 4)).rows == 5 + 4


def test_conditions_of_patches_need_one_for_separators() -> None:
    chain = layout.chain(20, 8, 4)
    with pytest.raises(ValueError, match="separator_cond must be given where cond differs"):
        compose.bethe(identity, chain, cond={"prompt": torch.arange(4)})
    told: list[Any] = []

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        told.append((tuple(x.shape[2:]), cond["prompt"].tolist()))
        return x

    null = {"prompt": torch.tensor([-1])}
    compose.bethe(D, chain, cond={"prompt": torch.arange(4)}, separator_cond=null)(
        torch.zeros(1, 1, 20), torch.ones(1)
    )
    assert told == [((8,), [0, 1, 2, 3]), ((4,), [-1, -1, -1])]
    compose.bethe(D, chain, cond={"prompt": torch.tensor([7])})


def test_factor_graph_by_hand() -> None:
    size = (9,)
    cliques = layout.boxes(size, [((0,), (4,)), ((3,), (4,)), ((3,), (6,))])
    shared = layout.boxes(size, [((3,), (4,)), ((3,), (1,))])
    D = compose.factor_graph(Factor(identity, cliques), variables=[Factor(identity, shared)])
    assert D.factors[1].coefficients.tolist() == [-1.0, -1.0]
    x = torch.randn(1, 1, 9)
    torch.testing.assert_close(D(x, torch.ones(1)), x)


BAD: list[tuple[Any, str]] = [
    (
        lambda f: compose.factor_graph(f([((0,), (6,)), ((4,), (5,))])),
        r"sum to one at every canvas element, got 2 at \(4,\), held by factor \[0..6\], factor \[4..9\]",
    ),
    (
        lambda f: compose.factor_graph(f([((0,), (6,))]), variables=[f([((4,), (2,))])]),
        r"got 0 at \(6,\), held by nothing",
    ),
    (
        lambda f: compose.factor_graph(f([((0,), (9,)), ((0,), (9,))])),
        r"got 2 at \(0,\), held by factor \[0..9\], factor \[0..9\]",
    ),
    (
        lambda f: compose.factor_graph(
            f([((0,), (6,)), ((4,), (5,))]), variables=[f([((4,), (2,))]), f([((4,), (2,))])]
        ),
        r"variables must be different places, got \[4..6\] twice",
    ),
    (
        lambda f: compose.factor_graph(f([((0,), (6,)), ((4,), (5,))]), variables=[f([((4,), (3,))])]),
        r"at \(4,\), held by factor \[0..6\], factor \[4..9\], variable \[4..7\] with",
    ),
    (lambda f: compose.factor_graph(), "factors must be one or more Factor, got none"),
    (
        lambda f: compose.factor_graph(Factor(identity, layout.chain(9, 9, 9), layout.gaussian)),
        "factors must have uniform weights, got another at 0",
    ),
    (
        lambda f: compose.factor_graph(Factor(identity, layout.chain(9, 9, 9), coefficient=2.0)),
        "factors must have coefficients of 1, got others at 0",
    ),
    (
        lambda f: compose.factor_graph(f([((0,), (9,))]), Factor(identity, layout.chain(8, 8, 8))),
        r"share one canvas, got \(8,\) with wrap \(False,\) and \(9,\)",
    ),
    (lambda f: compose.factor_graph(identity), "factors must be Factors, got function at 0"),
]


@pytest.mark.parametrize(("build", "message"), BAD)
def test_bad_graphs_name_the_node(build: Any, message: str) -> None:
    def factor(boxes: list[Any]) -> Factor:
        return Factor(identity, layout.boxes((9,), boxes))

    with pytest.raises(ValueError, match=message):
        build(factor)
