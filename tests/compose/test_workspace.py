# SPDX-License-Identifier: Apache-2.0
"""Buffers are reused where nobody can tell, and nowhere else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from intarsia import layout
from intarsia.compose import Factor, average
from torch import Tensor

RING = layout.loop(24, 8, 4)


def pointers() -> tuple[list[int], object]:
    seen: list[int] = []

    def network(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        seen.append(x.data_ptr())
        return x * 2

    return seen, network


def test_the_patch_buffer_is_the_same_on_every_call_without_gradients() -> None:
    seen, network = pointers()
    composite = average(Factor(network, RING))
    keep = []
    with torch.no_grad():
        for _ in range(4):
            keep.append(composite(torch.randn(1, 3, 24), torch.ones(1)))
    assert len(set(seen)) == 1


def test_results_never_share_memory_with_a_buffer_or_with_each_other() -> None:
    for network in (
        lambda x, s, c: x,
        lambda x, s, c: x.transpose(-1, -2).transpose(-1, -2),
        lambda x, s, c: x + 0,
    ):
        for most in (None, 2):
            composite = average(Factor(network, RING, max_batch=most))
            with torch.no_grad():
                first = composite(torch.full((1, 1, 24), 1.0), torch.ones(1))
                kept = first.clone()
                second = composite(torch.full((1, 1, 24), 2.0), torch.ones(1))
            assert torch.equal(first, kept) and bool((second == 2).all())


def test_a_network_that_returns_a_turned_view_of_its_input_is_copied_first() -> None:
    plane = layout.grid((8, 8), (4, 4), (2, 2))
    turned = lambda x, sigma, cond=None: x.transpose(-1, -2)  # noqa: E731
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        got = [average(Factor(turned, plane, max_batch=n))(x, torch.ones(1)) for n in (1, 2, 4, None)]
    assert all(torch.equal(one, got[-1]) for one in got[:-1])


def test_a_network_that_writes_into_its_input_does_no_harm() -> None:
    x = torch.randn(1, 2, 24)
    kept = x.clone()
    with torch.no_grad():
        out = average(Factor(lambda x, s, c: x.mul_(2), RING, max_batch=4))(x, torch.ones(1))
    assert torch.equal(x, kept)
    torch.testing.assert_close(out, 2 * kept)


def test_with_gradients_every_call_has_memory_of_its_own() -> None:
    x = torch.randn(1, 1, 24, requires_grad=True)
    composite = average(Factor(lambda x, s, c: x**2, RING, max_batch=2))
    first = composite(x, torch.ones(1)).sum()
    composite(torch.zeros(1, 1, 24), torch.ones(1))
    (gradient,) = torch.autograd.grad(first, x)
    torch.testing.assert_close(gradient, 2 * x.detach())


def test_a_composite_may_call_itself_from_inside_its_denoiser() -> None:
    depth = 0

    def network(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        nonlocal depth
        if depth < 2:
            depth += 1
            inside = composite(torch.full((1, 1, 24), -5.0), torch.ones(1))
            assert bool((inside == -5).all())
        return x

    composite = average(Factor(network, RING, max_batch=2))
    x = torch.randn(1, 1, 24)
    with torch.no_grad():
        torch.testing.assert_close(composite(x, torch.ones(1)), x)
    assert depth == 2


def test_16_threads_share_one_composite() -> None:
    composite = average(Factor(lambda x, s, c: x.sin(), RING, layout.gaussian, max_batch=4))
    inputs = [torch.randn(1, 2, 24, generator=torch.Generator().manual_seed(k)) for k in range(64)]

    def once(x: Tensor) -> Tensor:
        with torch.no_grad():
            return composite(x, torch.ones(1))

    alone = [once(x) for x in inputs]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(once, inputs), alone, strict=True):
                assert torch.equal(got, expected)


def test_inference_mode_and_grad_mode_may_alternate() -> None:
    composite = average(Factor(lambda x, s, c: x + 1, RING, max_batch=2))
    x = torch.zeros(1, 1, 24)
    for context in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            assert bool((composite(x, torch.ones(1)) == 1).all())


def test_the_buffer_comes_back_after_an_error() -> None:
    fail = True

    def network(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        if fail:
            raise RuntimeError("out of tea")
        return x

    composite = average(Factor(network, RING, max_batch=2))
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="out of tea"):
            composite(torch.ones(1, 1, 24), torch.ones(1))
        fail = False
        assert bool((composite(torch.ones(1, 1, 24), torch.ones(1)) == 1).all())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_is_the_same_bits_for_every_thread_count(threads: int) -> None:
    plane = layout.grid((96, 160), (32, 32), (8, 8))
    composite = average(Factor(lambda x, s, c: x.sin(), plane, layout.gaussian, max_batch=7))
    x = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            serial = composite(x, torch.ones(1))
            torch.set_num_threads(threads)
            assert torch.equal(composite(x, torch.ones(1)), serial)
    finally:
        torch.set_num_threads(before)
