# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from intarsia.schedules import exponential, from_alphas_cumprod, karras
from intarsia.types import log_sigmas

ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def test_edm_nodes() -> None:
    sigmas = karras(18)
    assert sigmas.dtype == torch.float64 and sigmas.device.type == "cpu" and sigmas.shape == (19,)
    known = {0: 80, 1: 57.58598, 2: 40.78557, 15: 0.0229345, 16: 0.0075280, 17: 0.002, 18: 0}
    for index, sigma in known.items():
        assert sigmas[index].item() == pytest.approx(sigma, rel=1e-5)
    assert sigmas[0] == 80 and sigmas[17] == 0.002 and sigmas[18] == 0


def test_rho_bends_from_even_in_sigma_to_even_in_its_logarithm() -> None:
    steps = karras(9, 1.0, 9.0, rho=1.0)[:-1].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -1))
    torch.testing.assert_close(karras(9, 0.01, 10, rho=1e5), exponential(9, 0.01, 10), rtol=1e-3, atol=0)
    ratios = exponential(9, 0.01, 10)[:-1].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


@pytest.mark.parametrize("schedule", [karras, exponential])
def test_one_step_goes_from_the_first_level_to_0(schedule: object) -> None:
    assert schedule(1, 0.1, 5.0).tolist() == [5.0, 0.0]


def test_the_whole_table_is_reversed_and_ends_in_0() -> None:
    sigmas = from_alphas_cumprod(ABAR)
    torch.testing.assert_close(sigmas[:-1], ((1 - ABAR) / ABAR).sqrt().flip(0))
    assert sigmas[-1] == 0 and len(sigmas) == 1001


@pytest.mark.parametrize(
    ("spacing", "indices"),
    [
        ("trailing", [999, 799, 599, 399, 199]),
        ("leading", [800, 600, 400, 200, 0]),
        ("linspace", [999, 749.25, 499.5, 249.75, 0]),
        ("trailing", [999, 856, 713, 570, 428, 285, 142]),
        ("leading", [852, 710, 568, 426, 284, 142, 0]),
    ],
)
def test_spacings(spacing: str, indices: list[float]) -> None:
    table = log_sigmas("test", ABAR)
    expected = [
        torch.lerp(table[math.floor(i)], table[math.ceil(i)], i - math.floor(i)).exp().item() for i in indices
    ]
    assert from_alphas_cumprod(ABAR, len(indices), spacing=spacing).tolist() == pytest.approx([*expected, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: karras(0), r"karras: n must be an integer of at least 1, got 0\."),
        (lambda: karras(2.0), r"karras: n must be an integer of at least 1, got 2\.0"),
        (lambda: exponential(-3), r"exponential: n must be an integer of at least 1, got -3"),
        (lambda: karras(5, 2.0, 1.0), r"karras: sigma_min and sigma_max must .* got 2\.0 and 1\.0"),
        (lambda: karras(5, 0.0, 1.0), r"karras: sigma_min and sigma_max must .* got 0\.0"),
        (lambda: exponential(5, 0.1, math.inf), r"exponential: sigma_min and sigma_max must .* and inf"),
        (lambda: karras(5, rho=0), r"karras: rho must be a finite number above 0, got 0"),
        (lambda: from_alphas_cumprod(ABAR, 0), r"from_alphas_cumprod: n must be .* 1 to 1000, .*got 0"),
        (lambda: from_alphas_cumprod(ABAR, 1001), r"from_alphas_cumprod: n must be .* got 1001"),
        (lambda: from_alphas_cumprod(ABAR, 5, spacing="even"), r"spacing must be .* got 'even'"),
        (lambda: from_alphas_cumprod(ABAR[None]), r"alphas_cumprod must have shape \[T\].*got \[1, 1000\]"),
        (lambda: from_alphas_cumprod(ABAR.flip(0)), r"alphas_cumprod must fall strictly .* does not fall"),
        (lambda: from_alphas_cumprod(torch.tensor([0.9, 0.0])), r"leave out a last entry of 0"),
        (lambda: from_alphas_cumprod(torch.tensor([1.0, 0.5])), r"must fall strictly within \(0, 1\)"),
        (lambda: from_alphas_cumprod(torch.tensor([0.9, math.nan])), r"must fall strictly"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
