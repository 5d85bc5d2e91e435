# SPDX-License-Identifier: Apache-2.0
"""The sphere as crossing rings: continuity, counting, turns of the whole sphere, and regions of any kind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from intarsia import Factor, compose, guidance, layout
from intarsia.layout import Gathered
from torch import Tensor

F64 = torch.float64


def conv(channels: int = 1, size: int = 5) -> Any:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, channels, size, size, generator=generator, dtype=F64)

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=size // 2))

    return D


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """The whole sphere turned: each element takes what lies where its direction comes from."""
    face = x.shape[-1]
    directions = layout.cubemap(face).directions().reshape(-1, 3)
    # The cube's own symmetries map centres of elements to centres of elements.
    apart = torch.cdist(directions @ rotation, directions)
    assert float(apart.min(1).values.max()) < 1e-6
    return x.flatten(2)[..., apart.argmin(1)].reshape(x.shape)


def rotations() -> list[Tensor]:
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3, dtype=F64)
            for row, (column, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            if float(torch.linalg.det(matrix)) > 0:
                found.append(matrix)
    assert len(found) == 24
    return found


QUARTER = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]], dtype=F64)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rings_are_continuous_and_closed(symmetric: bool) -> None:
    face = 16
    cube = layout.cubemap(face, symmetric=symmetric)
    seen = cube.rings.extract(cube.directions().permute(3, 0, 1, 2)[None])[0]
    step = (seen - seen.roll(-1, -1)).norm(dim=1)
    # Neighbours on the sphere are at most the width of an element apart, also across an edge of the cube.
    assert float(step.max()) < 2.1 / face
    # The horizon keeps the sky up: its rows have one height above the ground at the middle of faces.
    middle = seen[0, 1, :, face // 2 :: face]
    assert torch.allclose(middle, middle[:, :1]) and bool((middle[:-1] > middle[1:]).all())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("face", "patch", "stride"), [(8, None, None), (8, 4, 2), (12, (12, 6), (12, 3)), (8, 8, 8)]
)
def test_every_element_counts_once(symmetric: bool, face: int, patch: Any, stride: Any) -> None:
    cube = layout.cubemap(face, patch=patch, stride=stride, symmetric=symmetric)
    D = compose.bethe(lambda x, sigma, cond=None: x, cube)
    x = torch.randn(2, 3, 6, face, face, dtype=F64)
    torch.testing.assert_close(D(x, torch.ones(2, dtype=F64)), x)


def test_two_rings_less_a_face() -> None:
    cube = layout.cubemap(8, symmetric=False)
    kinds = {part.kind: part for part in cube.parts}

    def count(kind: str) -> Tensor:
        part = kinds[kind]
        weighted = part.coefficient.reshape(1, -1, 1, 1, 1) * torch.ones(
            1, part.layout.num_regions, 1, *part.layout.patch, dtype=F64
        )
        return part.layout.merge(weighted)

    assert bool((count("ring") + count("seam") == 2).all())
    assert bool((count("face") == -1).all())


@pytest.mark.parametrize("patch", [None, 4])
def test_quarter_turns_about_the_axis_with_any_network(patch: int | None) -> None:
    cube = layout.cubemap(8, patch=patch)
    D = compose.bethe(conv(), cube)
    x, sigma = torch.randn(1, 1, 6, 8, 8, dtype=F64), torch.ones(1, dtype=F64)
    whole = D(x, sigma)
    for _ in range(4):
        x, whole = turned(x, QUARTER), turned(whole, QUARTER)
        torch.testing.assert_close(D(x, sigma), whole, rtol=1e-6, atol=1e-6)
    # Three rings seen from one side are not the same after a turn, nor is the cube about another axis.
    three = compose.bethe(conv(), layout.cubemap(8, patch=patch, symmetric=False))
    assert not torch.allclose(three(turned(x, QUARTER), sigma), turned(three(x, sigma), QUARTER), atol=1e-3)
    over = QUARTER[[1, 0, 2]][:, [1, 0, 2]]
    assert not torch.allclose(D(turned(x, over), sigma), turned(whole, over), atol=1e-3)


def test_all_rotations_with_a_pointwise_network() -> None:
    D = compose.bethe(lambda x, sigma, cond=None: torch.tanh(x), layout.cubemap(6))
    x, sigma = torch.randn(1, 2, 6, 6, 6, dtype=F64), torch.ones(1, dtype=F64)
    for rotation in rotations():
        torch.testing.assert_close(D(turned(x, rotation), sigma), turned(D(x, sigma), rotation))


def test_equal_to_the_rings_by_hand() -> None:
    """Three Bethe loops over strips, less six faces: written with ring composites and a face composite."""
    face, net = 8, conv()
    cube = layout.cubemap(face, symmetric=False)
    x, sigma = torch.randn(1, 1, 6, face, face, dtype=F64), torch.tensor([0.5], dtype=F64)
    ring = compose.bethe(net, layout.grid((face, 4 * face), (face, face), (face, face // 2), (False, True)))
    by_hand = compose.weighted_sum(Factor(ring, cube.rings), Factor(net, cube.faces, coefficient=-1.0))
    got = compose.bethe(net, cube)(x, sigma)
    torch.testing.assert_close(got, by_hand(x, sigma))


def test_conditions_know_where_a_region_is() -> None:
    cube = layout.cubemap(8)
    told: list[Tensor] = []

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        told.append(cond["up"])
        return x

    composite = compose.bethe(D, cube, cond=lambda part: {"up": part.directions[:, 1]})
    composite(torch.zeros(1, 1, 6, 8, 8), torch.ones(1))
    faces = next(part for part in cube.parts if part.kind == "face")
    assert faces.directions[:, 1].round().tolist() == [0.0] * 4 + [1.0] * 4 + [-1.0] * 4
    assert faces.turn.tolist() == [0] * 4 + [0, 1, 2, 3] * 2
    assert torch.equal(torch.cat(told)[-12:], faces.directions[:, 1])


def test_directions_of_the_faces() -> None:
    middle = layout.cubemap(8).directions()[:, 3:5, 3:5].mean((1, 2))
    want = [[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]
    normal = torch.nn.functional.normalize(middle, dim=-1)
    torch.testing.assert_close(normal, torch.tensor(want, dtype=F64), rtol=0, atol=1e-9)


def test_gathered_is_the_adjoint_and_averages_like_a_layout() -> None:
    grid = layout.grid((6, 8), (4, 4), (2, 4), (False, True))
    index = grid.extract(torch.arange(48, dtype=F64).reshape(1, 1, 6, 8))[0, :, 0].long()
    free = Gathered((6, 8), index)
    x = torch.randn(2, 3, 6, 8, dtype=F64, requires_grad=True)
    patches = torch.randn(2, grid.num_regions, 3, 4, 4, dtype=F64)
    assert torch.equal(free.extract(x), grid.extract(x))
    (x_grad,) = torch.autograd.grad((free.extract(x) * patches).sum(), x)
    torch.testing.assert_close(x_grad, free.merge(patches))

    def net(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(x) * cond["gain"].reshape(-1, 1, 1, 1)

    guided = guidance.CFG(net, {"gain": torch.zeros(1)}, torch.linspace(1, 2, grid.num_regions))
    canvas, sigma = torch.randn(2, 3, 6, 8, dtype=F64), torch.ones(2, dtype=F64)
    results = []
    for regions in (grid, free):
        factor = Factor(guided, regions, layout.triangle, cond={"gain": torch.ones(1)}, max_batch=3)
        composite = compose.average(factor)
        with torch.no_grad():
            results.append(composite(canvas, sigma))
            results.append(composite.affine(canvas, sigma, a=0.5, b=-2.0, c=3.0, noise=canvas))
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])


def test_regions_of_your_own() -> None:
    class Halves:
        size, patch, num_regions = (4,), (2,), 2

        def extract(self, canvas: Tensor) -> Tensor:
            return torch.stack(canvas.split(2, dim=2), dim=1)

        def merge(self, patches: Tensor) -> Tensor:
            return torch.cat(patches.unbind(1), dim=2)

    D = compose.average(Factor(lambda x, sigma, cond=None: 2 * x, Halves()))
    assert D(torch.ones(1, 1, 4), torch.ones(1)).tolist() == [[[2.0] * 4]]
    with pytest.raises(ValueError, match="layout must be a Layout, a BoxSet or Regions of your own, got int"):
        Factor(lambda x, sigma, cond=None: x, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: layout.cubemap(8, patch=9), "patch must be two numbers within the face"),
        (lambda: layout.cubemap(9), r"stride must divide the ring \(36\), got 5"),
        (lambda: Gathered((4,), torch.zeros(0, 2)), "index must have shape"),
        (lambda: Gathered((4,), torch.tensor([[4]])), r"index must lie in \[0, 3\], got 4"),
        (
            lambda: compose.bethe(lambda x, s, c=None: x, layout.cubemap(4), separator_cond={}),
            "separator_denoiser must be None for a cube map",
        ),
    ],
)
def test_refusals(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
