# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from intarsia import compose, layout
from intarsia.denoisers import from_edm
from intarsia.models import EDMDenoiser, UNet


def denoiser() -> EDMDenoiser:
    torch.manual_seed(0)
    net = UNet(2, in_channels=3, channels=(16, 32), num_classes=3, num_positions=2)
    return EDMDenoiser(net, styles=["a", "b"], sizes=[(16, 16), (8, 16)])


def test_preconditioning_at_hand_made_values() -> None:
    c_in, c_skip, c_out, noise = denoiser().precond(torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(c_skip, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(c_out, torch.tensor([0.25 / math.sqrt(0.5), 0.5 / math.sqrt(1.25)]))
    torch.testing.assert_close(c_in, torch.tensor([math.sqrt(2.0), 1 / math.sqrt(1.25)]))


def test_preconditioning_is_that_of_the_general_wrapper() -> None:
    sigma = torch.tensor([0.01, 0.7, 30.0])
    general = from_edm(denoiser().net, sigma_data=0.5)
    for own, other in zip(denoiser().precond(sigma), general.precond(sigma), strict=True):
        torch.testing.assert_close(own.flatten(), other.flatten())


def test_unknown_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="cond must hold style and vertical only, got styles"):
        denoiser()(torch.zeros(1, 3, 16, 16), torch.ones(1), {"styles": torch.zeros(1)})


def test_without_declared_sizes_any_patch_will_do() -> None:
    bare = EDMDenoiser(denoiser().net)
    pair = layout.chain(32, 16, 8)
    assert (
        compose.Factor(bare, layout.grid((16, 32), (16, 16), (16, 8))).layout.num_regions == pair.num_regions
    )


def test_untrained_network_is_the_linear_denoiser() -> None:
    # The last layer starts at zero, so D = c_skip x: the best linear denoiser of white data with sigma_data.
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0])
    expected = x * torch.tensor([0.5, 0.25 / 4.25]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(denoiser()(x, sigma), expected)


def test_unit_variance_in_and_out() -> None:
    # For data of standard deviation sigma_data, input and target of the network have unit variance.
    D = denoiser()
    generator = torch.Generator().manual_seed(0)
    clean = 0.5 * torch.randn(100_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(100_000, generator=generator, dtype=torch.float64)
    for sigma in (0.01, 0.5, 20.0):
        c_in, c_skip, c_out, _ = D.precond(torch.tensor(sigma, dtype=torch.float64))
        noisy = clean + sigma * noise
        assert abs((c_in * noisy).std() - 1) < 0.02
        assert abs(((clean - c_skip * noisy) / c_out).std() - 1) < 0.02


def test_conditions_are_optional_and_dtype_follows_x() -> None:
    D = denoiser()
    x, sigma = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    plain = D(x, sigma)
    full = D(
        x, sigma, {"style": torch.zeros(2, dtype=torch.long), "vertical": torch.tensor([[0.5, 1.0]] * 2)}
    )
    assert plain.dtype == torch.float64
    assert torch.equal(plain, full)
    assert D.styles == {"a": 1, "b": 2}
    assert D.sizes == ((16, 16), (8, 16))


def test_compute_dtype_is_close_to_float32() -> None:
    D = denoiser()
    for parameter in D.parameters():
        parameter.data.add_(0.02)
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 5.0])
    exact = D(x, sigma)
    D.compute_dtype = torch.bfloat16
    low = D(x, sigma)
    assert low.dtype == torch.float32
    assert (low - exact).norm() < 0.03 * exact.norm()
    assert not torch.equal(low, exact)
