# SPDX-License-Identifier: Apache-2.0
"""Measures of motion: jerk where windows meet, sliding feet, bones, spectra."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "bone_length_error",
    "foot_sliding",
    "jerk",
    "motion_spectrum",
    "spectral_distance",
    "transition_jerk",
]


def _check(name: str, positions: Tensor, least: int) -> Tensor:
    if positions.ndim != 3 or positions.shape[2] != 3 or len(positions) < least:
        raise ValueError(
            f"{name}: positions must be [T, J, 3] with T >= {least}, got {tuple(positions.shape)}. "
            "Pass one motion's `positions`."
        )
    return positions.detach().double().cpu()


def jerk(positions: Tensor, *, fps: float) -> Tensor:
    """Third difference of the joints' places: what an eye sees as a jolt.

    Args:
        positions: `[T, J, 3]` in metres.
        fps: frames per second.

    Returns:
        `[T - 3]` float64, mean over joints in m/s^3; element t is that of frames t to t + 3.

    Raises:
        ValueError: another shape or fewer than four frames.

    Example:
        >>> jerk(torch.arange(5.0)[:, None, None].expand(5, 2, 3) ** 3, fps=1.0)[0].round()
        tensor(10., dtype=torch.float64)
    """
    return _check("jerk", positions, 4).diff(n=3, dim=0).norm(dim=-1).mean(1) * fps**3


def transition_jerk(positions: Tensor, seams: Sequence[int], *, fps: float, radius: int = 3) -> float:
    """Largest jerk near places where windows meet, relative to the largest of stretches elsewhere.

    Args:
        positions: `[T, J, 3]` in metres.
        seams: frames at which a window begins or ends.
        fps: frames per second.
        radius: frames to each side that belong to a seam.

    Returns:
        Mean over the seams of the peak jerk within the radius, divided by the mean of the peaks of equally
        long stretches between the seams. 1 where seams are like everything else.

    Raises:
        ValueError: another shape, no seam inside, or nothing between seams.

    Example:
        >>> x = torch.zeros(40, 1, 3)
        >>> x[:, 0, 0] = torch.sin(torch.arange(40.0))
        >>> x[20:] += 10
        >>> transition_jerk(x, [20], fps=30.0) > 5
        True
    """
    values = jerk(positions, fps=fps)
    near = torch.zeros(len(values), dtype=torch.bool)
    peaks = []
    for seam in seams:
        # Differences of frames t to t + 3 meet a step between seam - 1 and seam.
        low, high = max(0, seam - 2 - radius), min(len(values), seam + radius)
        if low < high and 0 < seam < len(positions):
            near[low:high] = True
            peaks.append(values[low:high].max())
    span = 2 * radius + 2
    rest = [
        w.max()
        for w, n in zip(values.unfold(0, span, 1), near.unfold(0, span, 1), strict=True)
        if not n.any()
    ]
    if not peaks or not rest:
        raise ValueError(
            f"transition_jerk: seams must lie inside and leave {span} frames free, got {list(seams)[:8]}. "
            "Use a smaller radius."
        )
    return float(torch.stack(peaks).mean() / torch.stack(rest).mean())


def foot_sliding(positions: Tensor, feet: Sequence[int], *, fps: float, height: float = 0.05) -> float:
    """How fast feet near the floor move over it.

    `mean of v (2 - 2^(h / height))` over the frames with `h < height`, h above the foot's own lowest 2 %.

    Args:
        positions: `[T, J, 3]` in metres, y up.
        feet: indices of foot joints.
        fps: frames per second.
        height: above which a foot is not said to stand, in metres.

    Returns:
        Metres per second; 0 if no foot is ever low for two frames.

    Raises:
        ValueError: another shape.

    Source:
        Zhang et al. 2018, "Mode-adaptive neural networks for quadruped motion control" (foot skating).

    Example:
        >>> walk = torch.zeros(9, 1, 3)
        >>> walk[:, 0, 0] = torch.arange(9) / 30
        >>> round(foot_sliding(walk, [0], fps=30.0), 3)
        1.0
    """
    places = _check("foot_sliding", positions, 2)[:, list(feet)]
    above = places[..., 1] - places[..., 1].quantile(0.02, dim=0)
    speed = places[..., [0, 2]].diff(dim=0).norm(dim=-1) * fps
    above = torch.maximum(above[1:], above[:-1]).clamp_min(0)
    low = above < height
    if not low.any():
        return 0.0
    return float((speed * (2 - 2 ** (above / height)))[low].sum() / (2 - 2 ** (above / height))[low].sum())


def bone_length_error(positions: Tensor, parents: Sequence[int], lengths: Sequence[float]) -> float:
    """Largest difference of any bone to its length, in any frame.

    Args:
        positions: `[T, J, 3]` in metres.
        parents: `[J]` of each joint, -1 for none.
        lengths: `[J]` in metres.

    Returns:
        Metres.

    Raises:
        ValueError: another shape.

    Example:
        >>> bone_length_error(torch.tensor([[[0.0, 0, 0], [0, 2.5, 0]]]), [-1, 0], [0, 2])
        0.5
    """
    places = _check("bone_length_error", positions, 1)
    bones = [joint for joint, parent in enumerate(parents) if parent >= 0]
    found = (places[:, bones] - places[:, [parents[joint] for joint in bones]]).norm(dim=-1)
    return float((found - torch.tensor([lengths[joint] for joint in bones], dtype=torch.float64)).abs().max())


def motion_spectrum(positions: Tensor, *, window: int = 64) -> Tensor:
    """Power of the joints' velocities over frequency, seen from the root.

    Args:
        positions: `[T, J, 3]` in metres, joint 0 the root.
        window: frames of a stretch, each weighed by a Hann window; stretches overlap by half.

    Returns:
        `[window // 2 + 1]` float64, mean over stretches, joints and axes; element k is at k fps / window.

    Raises:
        ValueError: another shape, or fewer frames than a window and one.

    Example:
        >>> t = torch.arange(200.0)[:, None, None]
        >>> x = torch.cat([torch.zeros(200, 1, 3), torch.sin(t * 2 * torch.pi / 8).expand(200, 1, 3)], 1)
        >>> int(motion_spectrum(x).argmax())
        8
    """
    places = _check("motion_spectrum", positions, window + 1)
    speed = (places - places[:, :1]).diff(dim=0).flatten(1)
    pieces = speed.unfold(0, window, window // 2) * torch.hann_window(window, dtype=torch.float64)
    return torch.fft.rfft(pieces).abs().square().mean((0, 1))


def spectral_distance(first: Tensor, second: Tensor) -> float:
    """Root mean square difference of two spectra in decibels, without their constant part.

    Args:
        first: `[K]` powers, as of `motion_spectrum`.
        second: `[K]` powers.

    Returns:
        Decibels; 3 is about a factor of two.

    Example:
        >>> spectral_distance(torch.ones(5), 10 * torch.ones(5))
        10.0
    """
    ratio = 10 * (first[1:].double().clamp_min(1e-20) / second[1:].double().clamp_min(1e-20)).log10()
    return float(ratio.square().mean().sqrt())
