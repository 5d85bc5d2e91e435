# SPDX-License-Identifier: Apache-2.0
"""The end-to-end rows as data."""

from __future__ import annotations

from typing import Any

from benchmarks.families.e2e import loops
from benchmarks.families.e2e.growth import MemoryCase, ScalingCase
from benchmarks.families.e2e.step import Case
from benchmarks.suite import Peer, Target

__all__ = ["CASES"]

LATENT = "4-channel latent, regions of 64x64 spread from edge to edge"
MODES = {"dtypes": ("float32",), "modes": ("neutral", "eager")}
CANVAS = (Peer(loops.CANVAS, loops.canvas, idiom=True),)
WINDOWS = (Peer(loops.LOOP, loops.windows, idiom=True),)


def _null(regions: int, size: tuple[int, ...], counts: tuple[int, ...], us: float, ratio: float) -> Case:
    gpu = (Target(device="cuda", mode="eager", figures=(("us per region", 2.0),)),) if regions == 88 else ()
    targets = (Target(idiom=ratio, figures=(("us per region", us),)), *gpu)
    return Case(
        f"e2e.null_overhead.{regions}", f"{LATENT}; a step without a network, 8 regions at once",
        size=size, counts=counts, targets=targets, loops=CANVAS, quick=regions == 88, **MODES,
    )  # fmt: skip


def _real(name: str, provenance: str, **rest: Any) -> Case:
    return Case(name, provenance, heavy=True, quick=False, **MODES, **rest)


PANORAMA_MUST = tuple(
    (peer.name, ratio) for peer, ratio in zip(loops.PANORAMA, (10.0, 0.0, 3.0), strict=True) if ratio
)
CASES = (
    _null(24, (135, 240), (4, 6), 30.0, 3.5),
    _null(88, (270, 480), (8, 11), 30.0, 4.5),
    _null(345, (540, 960), (15, 23), 48.0, 3.0),
    Case(
        "e2e.null_overhead.panorama225", "1024x2048 picture, 225 windows 8 apart; a step without a network",
        size=(128, 256), counts=(9, 25), window="uniform", loops=loops.PANORAMA, quick=False, **MODES,
        targets=(Target(versus=PANORAMA_MUST),),
    ),
    ScalingCase(
        "e2e.scaling", f"{LATENT}; 24, 88, 345 and 1380 regions, constant overlap", quick=False, **MODES
    ),
    MemoryCase("e2e.memory", f"{LATENT}; what a step holds beyond its canvas", quick=False, **MODES),
    _real(
        "e2e.canvas88", "3840x2160 picture, 88 regions, guided, DDIM; a small random UNet", network="unet",
        loops=CANVAS, targets=(
            Target(idiom=1.1, figures=(("overhead %", 0.4),)),
            Target(threads=2, idiom=1.4),
            Target(device="cuda", mode="eager", idiom=3.0),
        ),
    ),
    _real(
        "e2e.audio8m", "4 channels of 2^23 samples, windows of 2^18, a quarter of overlap", network="audio",
        channels=4, size=(2**23,), patch=(2**18,), counts=(43,), guided=False, at_once=4, loops=WINDOWS,
        targets=(Target(figures=(("overhead %", 1.0),)),),
    ),
    _real(
        "e2e.motion", "263 HumanML3D features, 4096 frames, windows of 196", network="motion",
        channels=263, size=(4096,), patch=(196,), counts=(41,), guided=False, loops=WINDOWS,
        targets=(Target(figures=(("overhead %", 1.0),)),),
    ),
)  # fmt: skip
