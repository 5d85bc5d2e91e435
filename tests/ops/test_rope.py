# SPDX-License-Identifier: Apache-2.0
"""What rope computes: against hand-made tables, complex numbers in float64, and what rotations must keep."""

from __future__ import annotations

import math

import pytest
import rope_oracle
import torch
from intarsia import ops
from rope_oracle import PAIRINGS, lattice

pytestmark = pytest.mark.usefixtures("poisoned_empty")
pairings = pytest.mark.parametrize("pairing", PAIRINGS)


def heads(backend, dtype, *shape):
    return torch.randn(shape).to(dtype).to(backend.device)


def test_a_table_made_by_hand(backend, dtype):
    quarter = torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2], device=backend.device)
    q = torch.tensor([1.0, 2.0], dtype=dtype, device=backend.device).expand(1, 1, 4, 2)
    turned, nothing = ops.rope(q, positions=quarter)
    assert nothing is None and turned.dtype is dtype
    expected = [[1.0, 2.0], [-2.0, 1.0], [-1.0, -2.0], [2.0, -1.0]]
    # Triton's interpreter cuts bfloat16 off where all others round it.
    slack = 2**-7 if backend.slow else 1e-6
    torch.testing.assert_close(turned[0, 0].float().cpu(), torch.tensor(expected), rtol=0, atol=slack)


def test_which_channels_turn_with_which_axis(backend):
    ones = torch.ones(1, 1, 3, 8, device=backend.device)
    places = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], device=backend.device)
    changed = (ops.rope(ones, positions=places)[0][0, 0] != 1).int().tolist()
    assert changed == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    changed = (ops.rope(ones, positions=places, pairing="half")[0][0, 0] != 1).int().tolist()
    assert changed == [[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0, 1]]


@pairings
@pytest.mark.parametrize("axes,dim", [(1, 6), (2, 16), (3, 20), (2, 64), (1, 128), (3, 34)])
def test_equals_complex_multiplication(backend, dtype, axes, dim, pairing, assert_near):
    backend.keep_to(dtype is torch.float32 and dim in (6, 20))
    q, k = heads(backend, dtype, 2, 3, 7, dim), heads(backend, dtype, 2, 2, 7, dim)
    for places in (20 * torch.randn(7, axes), 20 * torch.randn(2, 7, axes)):
        turned = ops.rope(q, k, places.to(backend.device), pairing=pairing)
        for ours, given in zip(turned, (q, k), strict=True):
            exact = rope_oracle.rope(given, places, pairing)
            if dtype in (torch.float32, torch.float64):
                # A table in float32 is half a unit in its last place off.
                assert_near(ours / 4, exact / 4, dtype)
            else:
                # One rounding, whatever the arithmetic before it.
                torch.testing.assert_close(ours.cpu(), exact.to(dtype), rtol=2**-7, atol=1e-6)


@pairings
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_err_at_most_twice_as_much_as_pytorch(backend, half, pairing):
    if backend.slow:
        pytest.skip("Triton's interpreter cuts off where hardware rounds")
    q, places = heads(backend, half, 2, 4, 64, 32), lattice(8, 8).to(backend.device)
    exact = rope_oracle.rope(q, places, pairing)
    table = ops.rope_table(places, 32)
    if pairing == "half":
        wide = torch.cat((table, table), -1).to(half)
        theirs = rope_oracle.published(q, wide[:, 0], wide[:, 1])
    else:
        turn = torch.complex(table[:, 0], table[:, 1])
        pairs = torch.view_as_complex(q.float().unflatten(-1, (-1, 2)))
        theirs = torch.view_as_real(pairs * turn).flatten(-2).to(half)
    error = (ops.rope(q, table=table, pairing=pairing)[0].cpu().double() - exact).abs()
    bound = (theirs.cpu().double() - exact).abs()
    assert error.max() <= 2 * bound.max() and error.mean() <= 2 * bound.mean()


@pairings
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_inner_products_depend_on_differences_alone(backend, axes, pairing):
    q, k = heads(backend, torch.float64, 1, 2, 5, 24), heads(backend, torch.float64, 1, 2, 5, 24)
    places = 9 * torch.randn(5, axes, dtype=torch.float64, device=backend.device)

    def scores(shift):
        a, b = ops.rope(q, k, places + shift, pairing=pairing)
        return a @ b.mT

    expected = scores(0.0)
    for axis in range(axes):
        shift = torch.zeros(axes, dtype=torch.float64, device=backend.device)
        shift[axis] = 3.7
        torch.testing.assert_close(scores(shift), expected, rtol=1e-11, atol=1e-11)
        alone = ops.rope(q, k, places + shift, pairing=pairing)[0] @ ops.rope(k, positions=places)[0].mT
        assert (alone - expected).abs().max() > 1e-2, "a shift of the queries alone must show"


@pairings
def test_norms_are_kept_and_duplicates_are_equal(backend, pairing):
    q = heads(backend, torch.float32, 1, 2, 1, 20).expand(1, 2, 6, 20)
    places = torch.tensor([[3.5, -2.0], [7.0, 1.0], [3.5, -2.0], [0.0, 0.0], [7.0, 1.0], [-3.5, 2.0]])
    turned, _ = ops.rope(q, positions=places.to(backend.device), pairing=pairing)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], turned[:, :, 2]) and torch.equal(turned[:, :, 1], turned[:, :, 4])
    assert not torch.equal(turned[:, :, 0], turned[:, :, 5])


@pairings
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_position_zero_keeps_every_bit(backend, dtype, pairing):
    backend.keep_to(dtype is torch.float32)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.5, 1e-40, -1e-7]).to(dtype)
    q = special[torch.randint(8, (2, 3, 4, 34))].to(backend.device)
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[q.element_size()]
    turned, _ = ops.rope(q, positions=torch.zeros(4, 2, device=backend.device), pairing=pairing)
    same = turned.view(integer) == q.view(integer)
    assert bool((same | (q.isnan() & turned.isnan())).all())


def test_equals_the_published_rotate_half(backend):
    q, k = heads(backend, torch.float32, 2, 4, 40, 32), heads(backend, torch.float32, 2, 4, 40, 32)
    angles = torch.outer(torch.arange(40).double(), 10000.0 ** (-torch.arange(0, 32, 2).double() / 32))
    wide = torch.cat((angles, angles), -1).to(backend.device)
    cosine, sine = wide.cos().float(), wide.sin().float()
    turned = ops.rope(q, k, torch.arange(40, device=backend.device), pairing="half")
    for ours, given in zip(turned, (q, k), strict=True):
        torch.testing.assert_close(ours, rope_oracle.published(given, cosine, sine), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("far", [1e6, -1e6, 2.0**40])
def test_large_positions_are_accurate(backend, far):
    q = heads(backend, torch.float32, 1, 1, 3, 16)
    places = torch.tensor([far, far + 0.5, far + 1], dtype=torch.float64)
    turned, _ = ops.rope(q, positions=places.to(backend.device))
    exact = rope_oracle.rope(q, places[:, None])
    # float64 knows an angle of 2^40 to 2^-13 of a turn or better, and both sides know the same.
    torch.testing.assert_close(turned.cpu().double(), exact, rtol=0, atol=1e-6)


def test_integer_positions_of_any_kind(backend):
    q = heads(backend, torch.float32, 1, 2, 4, 8)
    expected, _ = ops.rope(q, positions=torch.tensor([0.0, 3.0, 7.0, 3.0], device=backend.device))
    for kind in (torch.int64, torch.int32, torch.uint8, torch.float64, torch.bfloat16):
        places = torch.tensor([0, 3, 7, 3], device=backend.device).to(kind)
        assert torch.equal(ops.rope(q, positions=places)[0], expected)
        assert torch.equal(ops.rope(q, positions=places[:, None])[0], expected)


def test_frequencies_may_be_given_per_axis(backend):
    q = heads(backend, torch.float32, 1, 2, 6, 12)
    chosen = [[0.5, 0.25], [1.0, 0.1, 0.01, 0.001]]
    places = 5 * torch.randn(6, 2)
    expected = rope_oracle.rope(q, places, chosen=chosen)
    for given in (chosen, tuple(map(torch.tensor, chosen))):
        turned, _ = ops.rope(q, positions=places.to(backend.device), frequencies=given)
        torch.testing.assert_close(turned.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    plain = ops.rope(q, positions=places.to(backend.device), theta=100.0)[0]
    assert torch.equal(
        plain,
        ops.rope(
            q, positions=places.to(backend.device), frequencies=ops.rope_frequencies(12, 2, theta=100.0)
        )[0],
    )


@pytest.mark.parametrize("length", [12, 64.0])
def test_rounded_frequencies_close_a_wrapped_axis(backend, length):
    q = heads(backend, torch.float64, 1, 1, 5, 16)
    places = torch.rand(5, 2, dtype=torch.float64, device=backend.device) * 12
    fitted = ops.rope_frequencies(16, 2, period=(None, length))
    once = torch.tensor([0.0, length], dtype=torch.float64, device=backend.device)
    here = ops.rope(q, positions=places, frequencies=fitted)[0]
    torch.testing.assert_close(ops.rope(q, positions=places + once, frequencies=fitted)[0], here)
    plain = ops.rope(q, positions=places)[0]
    assert (ops.rope(q, positions=places + once)[0] - plain).abs().max() > 1e-2


@pytest.mark.parametrize("kept", [torch.float16, torch.float32, torch.float64])
def test_a_table_made_once_serves_many_calls(backend, kept):
    q, k = heads(backend, torch.bfloat16, 2, 3, 6, 8), heads(backend, torch.bfloat16, 2, 1, 6, 8)
    places = torch.randn(2, 6, 2, device=backend.device)
    table = ops.rope_table(places, 8)
    assert table.shape == (2, 6, 2, 4) and table.dtype is torch.float32
    expected = ops.rope(q, k, places)
    turned = ops.rope(q, k, table=table.to(kept))
    for ours, theirs in zip(turned, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-2 if kept is torch.float16 else 0)
    packed = torch.stack((table, table), 1)[:, 0]
    assert torch.equal(ops.rope(q, k, table=packed)[0], expected[0])


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4)])
def test_nothing_to_do_is_legal(backend, shape):
    q = torch.randn(shape, device=backend.device)
    k = torch.randn(shape[0], 1, *shape[2:], device=backend.device)
    for inplace in (False, True):
        turned = ops.rope(q, k, torch.rand(shape[2], 2, device=backend.device), inplace=inplace)
        assert turned[0].shape == shape and turned[1].shape == k.shape
