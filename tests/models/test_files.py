# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import pickle
import random
import re
from pathlib import Path

import intarsia.models
import pytest
import torch
from intarsia.models import EDMDenoiser, UNet, available, load, save
from safetensors.torch import save_file

ARGUMENTS = {"ndim": 2, "in_channels": 3, "channels": [16, 32], "num_classes": 2, "num_positions": 2}
WEIGHTS = Path(intarsia.models.__file__).parent / "weights"


def made() -> EDMDenoiser:
    torch.manual_seed(0)
    denoiser = EDMDenoiser(UNet(**ARGUMENTS), styles=["sea"], sizes=[(16, 16)], sigma_range=(0.01, 50.0))
    for parameter in denoiser.parameters():
        parameter.data.copy_(torch.randn(parameter.shape).half().float())
    return denoiser


def test_round_trip(tmp_path: Path) -> None:
    denoiser = made()
    save(denoiser, tmp_path / "m.safetensors", ARGUMENTS)
    again = load(tmp_path / "m.safetensors", dtype=torch.float32)
    assert (again.styles, again.sizes) == ({"sea": 1}, ((16, 16),))
    assert (again.sigma_min, again.sigma_max, again.sigma_data) == (0.01, 50.0, 0.5)
    x, sigma = torch.randn(1, 3, 16, 16), torch.ones(1)
    torch.testing.assert_close(again(x, sigma), denoiser(x, sigma))
    assert not any(p.requires_grad for p in again.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(made(), tmp_path / "m.safetensors", {"ndim": object()})
    assert list(tmp_path.iterdir()) == []


def test_no_code_runs_from_a_model_file(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    trap = type("Trap", (), {"__reduce__": lambda self: (Path.touch, (canary,))})()
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(trap))
    with pytest.raises(ValueError, match=r"load: name must be a file written by intarsia\.models\.save"):
        load(tmp_path / "m.safetensors")
    assert not canary.exists()


@pytest.mark.parametrize(
    "unet", [{}, {"ndim": 7}, {**ARGUMENTS, "channels": [16, 48]}, {**ARGUMENTS, "x": 1}]
)
def test_damaged_settings_are_one_error(tmp_path: Path, unet: dict[str, object]) -> None:
    save(made(), tmp_path / "m.safetensors", unet)
    with pytest.raises(
        ValueError, match=r"load: name must be a file written by intarsia\.models\.save"
    ) as error:
        load(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


def test_a_file_that_asks_for_much_memory_gets_none(tmp_path: Path) -> None:
    save(made(), tmp_path / "m.safetensors", {**ARGUMENTS, "channels": [2**16, 2**20]})
    with pytest.raises(ValueError, match=r"Error\(s\) in loading state_dict"):
        load(tmp_path / "m.safetensors")  # not: cannot allocate terabytes


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files_are_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    save(made(), tmp_path / "m.safetensors", ARGUMENTS)
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    rng = random.Random(seed)
    for _ in range(8):
        data[rng.randrange(min(len(data), 2000))] = rng.randrange(256)
    (tmp_path / "m.safetensors").write_bytes(data[: rng.choice((len(data), len(data) // 2))])
    with contextlib.suppress(ValueError):
        assert isinstance(load(tmp_path / "m.safetensors"), EDMDenoiser)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load: name must be a bundled model .* got 'portraits'"):
        load("portraits")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"load: name must be a file written by"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", available())
def test_bundled_models_have_a_card_that_names_their_file(name: str) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 8 * 2**20
    card = (WEIGHTS / f"{name}.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    for size in load(name).sizes:
        assert re.search(rf"\b{'x'.join(map(str, size))}\b", card)
    for style in load(name).styles:
        assert re.search(rf"\b{style}\b", card)


def test_landscapes_denoises_noise_free_pictures() -> None:
    # The linear denoiser c_skip x would leave an error of 0.098.
    D = load("landscapes", dtype=torch.float32)
    ramp = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 64, 64)
    noisy = ramp + 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (D(noisy, torch.tensor([0.1])) - ramp).std() < 0.05
