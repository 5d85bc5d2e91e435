# SPDX-License-Identifier: Apache-2.0
"""Two networks that other people trained, through the same public interface as our own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from intarsia import compose, layout

DATA = Path(os.environ.get("INTARSIA_DATA", "absent")) / "mnist-diffusion"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="INTARSIA_DATA names no folder with mnist-diffusion"
)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "examples" / "mnist_strip.py"
    spec = importlib.util.spec_from_file_location("mnist_strip", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("which", "key", "tolerance"), [("a", "A_mnist", 4e-5), ("b", "B_starter", 4e-5)])
def test_the_restated_networks_are_the_published_ones(
    example: ModuleType, which: str, key: str, tolerance: float
) -> None:
    expected = np.load(DATA / "expected_eps.npz")
    denoiser, _ = getattr(example, f"load_{which}")(DATA)
    for i, step in enumerate(expected["T"].tolist()):
        x = torch.from_numpy(expected[f"xt_{key[0]}"][i])
        told = torch.full((len(x),), step) if which == "a" else torch.full((len(x),), (step + 1) / 1000)
        eps = denoiser.net(x, told)
        assert (eps - torch.from_numpy(expected[f"eps_{key}"][i])).abs().max() < tolerance


@pytest.mark.parametrize("which", ["a", "b"])
def test_from_eps_tells_the_network_its_own_scale_and_step(example: ModuleType, which: str) -> None:
    expected = np.load(DATA / "expected_eps.npz")
    denoiser, abar = getattr(example, f"load_{which}")(DATA)
    key = {"a": ("xt_A", "eps_A_mnist"), "b": ("xt_B", "eps_B_starter")}[which]
    for i, step in enumerate(expected["T"].tolist()):
        level = abar[step + (which == "b")]
        sigma = ((1 - level) / level).sqrt().float()
        seen = torch.from_numpy(expected[key[0]][i])
        x = seen / level.sqrt().float()
        eps = (x - denoiser(x, sigma.expand(len(x)))) / sigma
        # At the first step sigma is 0.01 and the quotient loses two digits.
        assert (eps - torch.from_numpy(expected[key[1]][i])).abs().max() < 2e-3


def test_a_strip_of_digits_on_a_chain_and_on_a_loop(example: ModuleType) -> None:
    denoiser, abar = example.load_b(DATA)
    settings = {"limit": 0.5, "clip": False, "seeds": (0,), "steps": 30}
    size, patch = example.SIZE, example.PATCH
    chain = layout.grid(size, patch, (28, 14))
    ring = layout.grid(size, patch, (28, 14), wrap=(False, True))
    open_, closed = (
        example.strip(denoiser, abar, region, layout.gaussian, **settings) for region in (chain, ring)
    )
    for out in (open_, closed):
        assert out.shape == (1, 1, 28, 140)
        assert out.abs().max() < 1.25, "network B stays in the range of its data without clipping"
        ink = (out > 0).float().mean((0, 1, 2)).reshape(5, 28).mean(1)
        assert (ink > 0.02).all(), "every fifth of the strip holds strokes"
    assert not torch.equal(open_, closed)


def test_a_strip_refuses_a_patch_the_network_was_not_trained_on(example: ModuleType) -> None:
    denoiser, _ = example.load_a(DATA)
    with pytest.raises(
        ValueError, match=r"Factor: layout must use patches .* \(\(28, 28\)\), got \(28, 14\)"
    ):
        compose.Factor(denoiser, layout.grid((28, 140), (28, 14), (28, 14)))
