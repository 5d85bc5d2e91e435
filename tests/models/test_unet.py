# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from intarsia.models import UNet


def small(ndim: int, **options: int) -> UNet:
    torch.manual_seed(0)
    return UNet(
        ndim, in_channels=2, channels=(16, 32, 48), attention=(2,), num_classes=3, num_positions=2, **options
    )


def awake(net: UNet) -> UNet:
    """Give the zero-initialised layers values, so that the output depends on everything."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.1, generator=generator)
    return net


@pytest.mark.parametrize("ndim, size", [(1, (24,)), (2, (16, 24)), (3, (8, 4, 12))])
def test_any_rank_and_size(ndim: int, size: tuple[int, ...]) -> None:
    net = small(ndim)
    x = torch.randn(3, 2, *size)
    y = net(x, torch.zeros(3), torch.tensor([0, 1, 2]), torch.rand(3, 2))
    assert y.shape == x.shape
    assert not y.any()  # the last layer starts at zero


def test_output_depends_on_every_condition() -> None:
    net = awake(small(2)).eval()
    x = torch.randn(1, 2, 16, 16)
    noise, label, place = torch.zeros(1), torch.tensor([1]), torch.tensor([[0.5, 1.0]])
    base = net(x, noise, label, place)
    assert not torch.allclose(base, net(x, noise + 0.5, label, place))
    assert not torch.allclose(base, net(x, noise, label + 1, place))
    assert not torch.allclose(base, net(x, noise, label, place * 0.5))


def test_rows_are_independent() -> None:
    net = awake(small(2)).eval()
    rows = torch.randn(4, 2, 16, 16), torch.linspace(-1, 1, 4), torch.tensor([0, 1, 2, 0]), torch.rand(4, 2)
    together = net(*rows)
    alone = torch.cat([net(*(argument[i : i + 1] for argument in rows)) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    net = awake(small(2))
    net(
        torch.randn(3, 2, 16, 16), torch.randn(3), torch.tensor([0, 1, 2]), torch.rand(3, 2)
    ).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"UNet: ndim must be 1, 2 or 3, got 4"):
        UNet(4, in_channels=1, channels=(16,))
    with pytest.raises(ValueError, match=r"channels must be positive multiples of 16, got \(16, 20\)"):
        UNet(2, in_channels=1, channels=(16, 20))
    net = small(2)
    with pytest.raises(
        ValueError, match=r"x must have 2 axes after \[B, C\], each a multiple of 4, got \(16, 18\)"
    ):
        net(torch.zeros(1, 2, 16, 18), torch.zeros(1), torch.zeros(1, dtype=torch.long), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="position must be given for this network, got None"):
        net(torch.zeros(1, 2, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.long))
