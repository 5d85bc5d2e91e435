# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from intarsia import ops

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.mark.parametrize(
    "size,centre,edge", [(64, 3.977267, 2.190534e-5), (96, 3.984015, 1.926360e-5), (8, 3.281610, 2.783403e-4)]
)
def test_published_values(backend, size, centre, edge):
    (factor,) = ops.gaussian_weights((size,), device=backend.device)
    assert factor[size // 2].item() == pytest.approx(centre, rel=1e-6)
    assert factor[0].item() == pytest.approx(edge, rel=1e-6)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula(backend, dtype, fraction):
    for factor, n in zip(
        ops.gaussian_weights((1, 2, 33), sigma_fraction=fraction, dtype=dtype, device=backend.device),
        (1, 2, 33),
        strict=True,
    ):
        assert factor.dtype is dtype and factor.shape == (n,)
        expected = [
            math.exp(-(((j - (n - 1) / 2) / n) ** 2) / (2 * fraction**2))
            / math.sqrt(2 * math.pi * fraction**2)
            for j in range(n)
        ]
        bound = 1e-6 if dtype is torch.float32 else 1e-13
        torch.testing.assert_close(
            factor.cpu().double(), torch.tensor(expected, dtype=torch.float64), rtol=bound, atol=0
        )


@pytest.mark.parametrize("size", [5, 64, 97])
def test_is_its_own_mirror_image_and_positive(backend, size):
    (factor,) = ops.gaussian_weights((size,), device=backend.device)
    assert torch.equal(factor, factor.flip(0)) and bool((factor > 0).all())


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"size": 8}, "size must be a sequence with one integer per axis, got 8"),
        ({"size": (8, 0)}, "size must be positive on every axis"),
        ({"size": (-1,)}, "size must be positive on every axis"),
        ({"size": (8.0,)}, "size must hold integers"),
        ({"size": (8,), "sigma_fraction": 0.0}, "sigma_fraction must be positive and finite"),
        ({"size": (8,), "sigma_fraction": float("nan")}, "sigma_fraction must be positive and finite"),
        (
            {"size": (64,), "sigma_fraction": 0.01},
            "sigma_fraction must leave every weight of the window finite and above zero in torch.float32",
        ),
        ({"size": (8,), "dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
    ],
)
def test_errors_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=f"gaussian_weights: {message}"):
        ops.gaussian_weights(**arguments)


FRACTIONS = [10.0**power for power in range(-320, 309, 4)] + [0.01, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1,), (2,), (64,), (1, 64), (64, 1), (64, 96), (1, 1, 1), (8, 64, 64)])
def test_a_window_is_finite_and_positive_or_refused(size, dtype):
    refused = []
    for fraction in FRACTIONS:
        try:
            factors = ops.gaussian_weights(size, sigma_fraction=fraction, dtype=dtype)
        except ValueError as error:
            assert (
                f"sigma_fraction must leave every weight of the window finite and above zero in {dtype}"
                in str(error)
            )
            refused.append(fraction)
            continue
        window = torch.ones((), dtype=dtype)
        for factor in factors:
            window = window[..., None] * factor
            assert bool((factor > 0).all() and factor.isfinite().all()), fraction
        assert bool((window > 0).all() and window.isfinite().all()), fraction
    assert {1e-200, 1e200} <= set(refused) and 10.0**0 not in refused
    assert dtype is torch.float64 or 1e52 in refused
    assert (1e-40 in refused) == (size != (1,) and size != (1, 1, 1) or dtype is torch.float32)


def test_float64_reaches_further():
    for size, fraction in (((1,), 1e-40), ((1,), 1e50), ((64, 64), 0.04)):
        with pytest.raises(ValueError, match="float64 reaches further"):
            ops.gaussian_weights(size, sigma_fraction=fraction)
        ops.gaussian_weights(size, sigma_fraction=fraction, dtype=torch.float64)
