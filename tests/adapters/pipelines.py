# SPDX-License-Identifier: Apache-2.0
"""The pipelines that every test of composers runs over: a family is held to all of them by one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer


@dataclass(frozen=True)
class Case:
    """A pipeline, the arguments of its smallest canvas (the network's own), and of one of several patches."""

    build: Callable[[], Any]
    small: dict[str, Any]
    wide: dict[str, Any]
    boxes: tuple[tuple[float, ...], ...]  # the two halves of the wide one
    output: str = "images"
    steps: int = 3
    # What guidance is called, where a family has another word for the scale above 1 that makes two rows.
    guided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 5.0})
    plain: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})
    extra: dict[str, Any] = field(default_factory=dict)


SHORT = {"max_sequence_length": 12}
IMAGE: dict[str, Any] = {
    "small": {"height": 64, "width": 64},
    "wide": {"height": 64, "width": 128},
    "boxes": ((0, 0, 64, 64), (64, 0, 128, 64)),
}
CASES = {
    "stable_diffusion": Case(tiny.stable_diffusion, **IMAGE),
    "stable_diffusion_xl": Case(tiny.stable_diffusion_xl, **IMAGE),
    "stable_diffusion_3": Case(tiny.stable_diffusion_3, **IMAGE, extra=SHORT),
    "flux": Case(
        tiny.flux, **IMAGE, extra={**SHORT, "true_cfg_scale": 3.0}, guided={"negative_prompt": "fog"}
    ),
    "stable_audio": Case(
        tiny.stable_audio,
        {"audio_end_in_s": 1.28},
        {"audio_end_in_s": 2.56},
        ((0.0, 1.28), (1.28, 2.56)),
        "audios",
    ),
    "wan": Case(
        tiny.wan,
        {"height": 32, "width": 32, "num_frames": 5},
        {"height": 32, "width": 64, "num_frames": 5, "patch": (5, 32, 32)},
        ((0, 0, 32, 32), (32, 0, 64, 32)),
        "frames",
        extra=SHORT,
    ),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def array(result: Any, case: Case) -> np.ndarray:
    """Any output, pictures, sound or frames, as one array."""
    value = getattr(result, case.output)
    if isinstance(value, torch.Tensor):
        return value.float().cpu().numpy()
    return np.asarray(value)


def both(case: Case, pipe: Any, prompt: Any = "a cat", **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the pipeline makes of a call, and what its composer does."""
    ours = {key: kwargs.pop(key) for key in ("max_batch", "window") if key in kwargs}
    call = {"num_inference_steps": case.steps, "output_type": "np", **case.small, **kwargs}
    seed = call.pop("seeded", 0)
    theirs = pipe(prompt, generator=generator(seed), **call)
    composed = Composer.from_pipe(pipe)(prompt, generator=generator(seed), **call, **ours)
    return array(theirs, case), array(composed, case)


def compose(pipe: Any, case: Case, prompt: Any = "a cat", **kwargs: Any) -> Any:
    """A call of a fresh composer on the wide canvas, as arrays, unless told otherwise."""
    call = {"num_inference_steps": case.steps, "output_type": "np", **case.wide, **case.guided, **kwargs}
    call["extra"] = {**case.extra, **call.get("extra", {})}
    if "seed" not in call and "latents" not in call:
        call.setdefault("generator", generator())
    return Composer.from_pipe(pipe)(prompt, **call)


every = pytest.mark.parametrize("name", list(CASES))
