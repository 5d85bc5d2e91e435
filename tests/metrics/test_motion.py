# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from bodies import BODY, wandering
from intarsia import metrics
from torch import Tensor


def waves(frames: int = 200, joints: int = 3) -> Tensor:
    time = torch.arange(frames, dtype=torch.float64)[:, None, None]
    phase = torch.rand(joints, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.sin(time / 5 + 6 * phase)


def test_jerk_is_the_third_derivative() -> None:
    time = torch.arange(100, dtype=torch.float64) / 30
    places = torch.stack([time**3, 0 * time, 0 * time], 1)[:, None]
    torch.testing.assert_close(metrics.jerk(places, fps=30.0), torch.full((97,), 6.0).double())


@pytest.mark.parametrize("seam", [64, 90])
def test_a_step_is_found_where_it_is(seam: int) -> None:
    broken = waves()
    broken[seam:] += 0.5
    assert metrics.transition_jerk(broken, [seam], fps=30.0) > 10
    assert metrics.transition_jerk(waves(), [seam], fps=30.0) == pytest.approx(1, abs=0.3)
    assert metrics.transition_jerk(broken, [seam - 20], fps=30.0) < 0.9


def test_feet_slide_only_on_the_floor() -> None:
    places = torch.zeros(60, 2, 3, dtype=torch.float64)
    places[:, :, 0] = torch.arange(60)[:, None] / 30
    places[::2, 1, 1] = 0.5
    # Foot 0 glides at 1 m/s; foot 1 is never low for two frames.
    assert metrics.foot_sliding(places, [0], fps=30.0) == pytest.approx(1)
    assert metrics.foot_sliding(places, [1], fps=30.0) == 0
    places[:, 0, 0] = 0
    assert metrics.foot_sliding(places, [0, 1], fps=30.0) == 0


def test_bones() -> None:
    places = wandering().positions
    assert metrics.bone_length_error(places, BODY.parents, BODY.lengths) < 1e-12
    places[7, 8] += torch.tensor([0.0, 0.2, 0.0])
    assert metrics.bone_length_error(places, BODY.parents, BODY.lengths) > 0.1


def test_spectra_see_what_is_smoothed_away() -> None:
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(2000, 4, 3, generator=generator, dtype=torch.float64)
    smooth = (rough + rough.roll(1, 0)) / 2
    one, other = metrics.motion_spectrum(rough), metrics.motion_spectrum(smooth)
    assert metrics.spectral_distance(one, one) == 0
    assert other[-2] < 0.1 * one[-2] and other[2] > 0.5 * one[2]
    assert metrics.spectral_distance(other, one) > 3
    moved = rough + torch.randn(2000, 1, 3, generator=generator, dtype=torch.float64).cumsum(0)
    torch.testing.assert_close(metrics.motion_spectrum(moved), one)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"jerk: positions must be \[T, J, 3\] with T >= 4, got \(3, 2, 3\)"):
        metrics.jerk(torch.zeros(3, 2, 3), fps=30.0)
    with pytest.raises(ValueError, match="transition_jerk: seams must lie inside"):
        metrics.transition_jerk(waves(), [], fps=30.0)
    with pytest.raises(ValueError, match="motion_spectrum: positions must"):
        metrics.motion_spectrum(torch.zeros(64, 2, 3))
