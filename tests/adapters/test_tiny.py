# SPDX-License-Identifier: Apache-2.0
"""The tiny pipelines themselves: they run as plain diffusers pipelines, repeat, and survive a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch

CALLS: dict[str, dict[str, Any]] = {
    "stable_diffusion": {"height": 64, "width": 80, "output_type": "pt"},
    "stable_diffusion_xl": {"height": 64, "width": 80, "output_type": "pt"},
    "stable_diffusion_3": {"height": 64, "width": 80, "output_type": "pt", "max_sequence_length": 12},
    "flux": {"height": 64, "width": 80, "output_type": "pt", "max_sequence_length": 12},
    "stable_audio": {"audio_end_in_s": 0.5},
    "wan": {"height": 32, "width": 48, "num_frames": 9, "output_type": "pt", "max_sequence_length": 12},
}
SHAPES = {"stable_audio": (1, 2, 200), "wan": (1, 9, 3, 32, 48)}


def run(pipe: Any, name: str, *, prompt: str = "a red barn") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, num_inference_steps=2, generator=generator, return_dict=False, **CALLS[name])[0]


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_runs_and_repeats(name: str) -> None:
    build: Callable[[], Any] = tiny.BUILDERS[name]
    build()
    start = time.perf_counter()
    pipe = build()
    assert time.perf_counter() - start < 5
    first = run(pipe, name)
    assert first.shape == SHAPES.get(name, (1, 3, 64, 80))
    assert first.isfinite().all() and first.std() > 0
    assert torch.equal(first, run(build(), name))
    assert not torch.equal(first, run(pipe, name, prompt="two blue boats"))


def test_a_folder_brings_the_pipeline_back(tmp_path: Path) -> None:
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    again = tiny.quiet(
        diffusers.StableDiffusionPipeline.from_pretrained(
            tmp_path, local_files_only=True, use_safetensors=True
        )
    )
    assert torch.equal(run(pipe, "stable_diffusion"), run(again, "stable_diffusion"))


def test_building_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    tiny.stable_diffusion()
    assert torch.equal(before, torch.random.get_rng_state())
