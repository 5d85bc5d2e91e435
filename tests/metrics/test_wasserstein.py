# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from intarsia.metrics import random_patches, sliced_wasserstein


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


@pytest.mark.parametrize("power", [1, 2])
def test_equal_sets_give_the_noise_floor(power):
    x = noise(16, 3, 32, 32)
    assert sliced_wasserstein(x, x, patch=(4, 4), power=power, generator=rng()) < 0.05


def test_brightness_shift_is_read_off_directly():
    x, y = noise(32, 1, 32, 32), noise(32, 1, 32, 32, seed=1)
    for shift in (0.5, 1.0, 2.0):
        assert sliced_wasserstein(x + shift, y, patch=(4, 4), generator=rng()) == pytest.approx(
            shift, rel=0.1
        )


def test_mean_distance_of_shifted_gaussians():
    # A unit direction meets the shift c (1, ..., 1) at c sqrt(d) u_1: mean modulus c sqrt(2/pi), large d.
    x, y = noise(32, 1, 32, 32), noise(32, 1, 32, 32, seed=1)
    found = sliced_wasserstein(
        x + 2, y, patch=(8, 8), projections=1024, patches=2048, power=1, generator=rng()
    )
    assert found == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.05)


def test_scaled_gaussians():
    x, y = noise(32, 1, 64, 64), noise(32, 1, 64, 64, seed=1)
    assert sliced_wasserstein(3 * x, y, patch=(4, 4), generator=rng()) == pytest.approx(2, rel=0.03)


def test_structure_with_equal_histograms_is_seen():
    x = noise(8, 1, 64, 64)
    smooth = x.roll(1, -1) + x + x.roll(-1, -1)
    smooth = smooth / smooth.std() * x.std()
    far, near = (sliced_wasserstein(s, x, patch=(4, 4), generator=rng()) for s in (smooth, x))
    assert far > 4 * near


def test_generator_decides_everything():
    x, y = noise(4, 3, 16, 16), noise(4, 3, 16, 16, seed=1)
    a, b, c = (sliced_wasserstein(x, y, patches=256, generator=rng(s)) for s in (3, 3, 4))
    assert a == b != c


def test_patches_come_from_everywhere_and_stay_whole():
    row = torch.arange(10.0).expand(1, 1, 10)
    found = random_patches([row, row + 100], size=(1, 3), count=4000, generator=rng())
    assert (found.diff(dim=-1) == 1).all()
    counts = found[..., 0].flatten().unique(return_counts=True)
    assert counts[0].tolist() == [*range(8), *range(100, 108)]
    assert counts[1].min() > 180 and counts[1].max() < 330


def test_large_pictures_have_their_share():
    found = random_patches([torch.zeros(1, 11), torch.ones(1, 31)], size=(2,), count=8000, generator=rng())
    assert found.mean().item() == pytest.approx(30 / 40, abs=0.02)


def test_errors():
    x = noise(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"random_patches: size must .* fits into \(8, 8\), got \(9, 8\)"):
        sliced_wasserstein(x, x, patch=(9, 8))
    with pytest.raises(ValueError, match=r"size must have one positive extent per picture axis"):
        sliced_wasserstein(x, x, patch=(4,))
    with pytest.raises(ValueError, match="random_patches: count must be positive, got 0"):
        sliced_wasserstein(x, x, patches=0)
    with pytest.raises(ValueError, match="random_patches: pictures must hold at least one"):
        sliced_wasserstein([], x)
    with pytest.raises(ValueError, match="sliced_wasserstein: power must be 1 or 2, got 3"):
        sliced_wasserstein(x, x, power=3)
    with pytest.raises(ValueError, match="sliced_wasserstein: projections must be positive, got 0"):
        sliced_wasserstein(x, x, projections=0)
    with pytest.raises(ValueError, match="reference must have as many channels"):
        sliced_wasserstein(x, x[:, :1])
