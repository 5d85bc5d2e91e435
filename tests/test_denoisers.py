# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from intarsia import denoisers
from intarsia.types import log_sigmas, per_sample
from torch import Tensor

ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
SIGMAS = torch.tensor([0.02, 0.7, 3.0, 60.0], dtype=torch.float64)
X = torch.randn(4, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * SIGMAS[
    :, None, None, None
].clamp_min(1)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    s2 = per_sample(sigma**2, x)
    return (0.25 * x + 0.3 * s2) / (0.25 + s2)


def random_net(x: Tensor, sigma: Tensor) -> Tensor:
    weight = torch.randn(2, 2, 3, 3, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1)) + per_sample(sigma / (1 + sigma), x)


def vp(sigma: Tensor, x: Tensor) -> Tensor:
    return per_sample((1 + sigma**2).rsqrt(), x)


# What a network of each kind says, given an x0 estimate in sigma space: written from the definitions.
def eps_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return (x - x0) / per_sample(sigma, x)


def v_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    a = vp(sigma, x)
    return a * eps_of(x0, x, sigma) - (1 - a**2).sqrt() * x0


def flow_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return eps_of(x0, x, sigma) - x0


def score_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return (x0 - x) / per_sample(sigma**2, x)


def vp_score_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return -eps_of(x0, x, sigma) / (1 - vp(sigma, x) ** 2).sqrt()


def edm_of(x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    s2, d2 = per_sample(sigma**2, x), 0.25
    return (x0 - d2 / (s2 + d2) * x) * (s2 + d2).sqrt() / (s2 * d2).sqrt()


KINDS: dict[str, tuple[Callable, Callable, Callable]] = {
    # name: (prediction from x0, x in sigma space from what the network sees, constructor)
    "eps-vp": (eps_of, lambda z, s: z / vp(s, z), denoisers.from_eps),
    "eps-ve": (eps_of, lambda z, s: z, lambda net: denoisers.from_eps(net, process="ve")),
    "v": (v_of, lambda z, s: z / vp(s, z), denoisers.from_v),
    "x0-vp": (lambda x0, x, s: x0, lambda z, s: z / vp(s, z), denoisers.from_x0),
    "x0-ve": (lambda x0, x, s: x0, lambda z, s: z, lambda net: denoisers.from_x0(net, process="ve")),
    "flow": (
        flow_of,
        lambda z, s: z * per_sample(1 + s, z),
        lambda net: denoisers.from_flow(net, time=lambda t: t / (1 - t)),
    ),
    "score-ve": (score_of, lambda z, s: z, denoisers.from_score),
    "score-vp": (
        vp_score_of,
        lambda z, s: z / vp(s, z),
        lambda net: denoisers.from_score(net, process="vp"),
    ),
    "edm": (
        edm_of,
        lambda z, s: z * per_sample(s**2 + 0.25, z).sqrt(),
        lambda net: denoisers.from_edm(lambda z, c_noise: net(z, (4 * c_noise).exp())),
    ),
}


@pytest.mark.parametrize("truth", [gaussian, random_net])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parametrisation_gives_the_same_denoiser(kind: str, truth: Callable) -> None:
    predict, to_sigma_space, make = KINDS[kind]

    def net(seen: Tensor, sigma: Tensor) -> Tensor:
        x = to_sigma_space(seen, sigma)
        return predict(truth(x, sigma), x, sigma)

    torch.testing.assert_close(make(net)(X, SIGMAS), truth(X, SIGMAS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_with_coefficients_that_sum_to_one_is_the_same_in_every_space(kind: str) -> None:
    predict, to_sigma_space, make = KINDS[kind]
    truths = (gaussian, random_net, lambda x, sigma: 0.1 * x)
    coefficients = (1.7, -1.2, 0.5)

    def net(seen: Tensor, sigma: Tensor) -> Tensor:
        x = to_sigma_space(seen, sigma)
        return sum(k * predict(f(x, sigma), x, sigma) for k, f in zip(coefficients, truths, strict=True))

    expected = sum(k * f(X, SIGMAS) for k, f in zip(coefficients, truths, strict=True))
    torch.testing.assert_close(make(net)(X, SIGMAS), expected, rtol=1e-9, atol=1e-9)


def test_a_plain_sum_of_experts_is_not_the_same_in_every_space() -> None:
    total = lambda z, s: eps_of(gaussian(z, s), z, s) + eps_of(random_net(z, s), z, s)  # noqa: E731
    out = denoisers.from_eps(total, process="ve")(X, SIGMAS)
    assert (out - gaussian(X, SIGMAS) - random_net(X, SIGMAS)).abs().max() > 1e-2


def told(**options: object) -> Callable[[list[float]], Tensor]:
    seen: list[Tensor] = []
    D = denoisers.from_eps(lambda x, t: seen.append(t) or torch.zeros_like(x), **options)

    def ask(sigmas: list[float]) -> Tensor:
        D(torch.zeros(len(sigmas), 1, 1), torch.tensor(sigmas))
        return seen[-1]

    return ask


def test_interpolated_index_follows_the_logarithm_of_sigma_and_stays_inside_the_table() -> None:
    table = log_sigmas("test", ABAR).exp()
    between = (table[500] * table[501]).sqrt().item()
    times = told(alphas_cumprod=ABAR)([0.0, 1e-5, table[0].item(), between, table[999].item(), 1e6])
    assert times.dtype == torch.float32
    assert times.tolist() == pytest.approx([0, 0, 0, 500.5, 999, 999], abs=2e-3)


def test_quantised_index_is_the_nearest_step_as_an_integer() -> None:
    table = log_sigmas("test", ABAR)
    sigmas = [torch.lerp(table[i], table[i + 1], w).exp().item() for i, w in ((3, 0.4), (3, 0.6), (998, 0.9))]
    times = told(alphas_cumprod=ABAR, quantize=True)(sigmas)
    assert times.dtype == torch.int64 and times.tolist() == [3, 4, 999]
    every = told(alphas_cumprod=ABAR, quantize=True)(table.exp().tolist())
    assert torch.equal(every, torch.arange(1000))


def test_tables_counted_from_one_and_fractions() -> None:
    sigma = log_sigmas("test", ABAR)[41].exp().item()
    assert told(alphas_cumprod=ABAR, quantize=True, time=lambda i: i + 1)([sigma]).tolist() == [42]
    fraction = told(alphas_cumprod=ABAR, quantize=True, time=lambda i: (i + 1) / 1000)([sigma])
    assert fraction.item() == pytest.approx(0.042)


def test_without_a_table_the_time_is_that_of_the_process() -> None:
    seen: list[Tensor] = []
    spy = lambda x, t: seen.append(t) or torch.zeros_like(x)  # noqa: E731
    x, sigma = torch.zeros(1, 1, 1), torch.tensor([3.0])
    denoisers.from_eps(spy)(x, sigma)
    denoisers.from_flow(spy, time=lambda t: 1000 * t)(x, sigma)
    denoisers.from_edm(spy)(x, sigma)
    assert [t.item() for t in seen] == pytest.approx([3.0, 750.0, math.log(3) / 4])


def test_quantising_the_time_leaves_the_scaling_alone() -> None:
    sigma = torch.tensor([1.2345], dtype=torch.float64)
    x = torch.randn(1, 1, 8, dtype=torch.float64)
    D = denoisers.from_eps(lambda z, t: z, alphas_cumprod=ABAR, quantize=True)
    torch.testing.assert_close(D(x, sigma), x - sigma * x / (1 + sigma**2).sqrt())


class Embedded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(1000, 1)
        self.mix = torch.nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        self.seen = (x.dtype, t.dtype, cond)
        return self.mix(x) + self.table(t)[:, :, None]


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("canvas", [torch.float32, torch.float64])
def test_the_network_keeps_its_dtype_and_the_canvas_its_own(own: torch.dtype, canvas: torch.dtype) -> None:
    net = Embedded().to(own)
    D = denoisers.from_eps(net, alphas_cumprod=ABAR, quantize=True)
    out = D(torch.randn(2, 1, 8, dtype=canvas), torch.ones(2, dtype=canvas))
    assert D.dtype == own and net.seen[:2] == (own, torch.int64) and out.dtype == canvas


def test_a_stated_dtype_wins_and_floating_times_stay_single() -> None:
    seen: list[torch.dtype] = []
    net = lambda x, t: seen.extend([x.dtype, t.dtype]) or x  # noqa: E731
    denoisers.from_flow(net, dtype=torch.bfloat16)(torch.zeros(1, 1, 2).double(), torch.ones(1).double())
    assert seen == [torch.bfloat16, torch.float32]


def test_cond_goes_through_only_where_there_is_one() -> None:
    net = Embedded()
    D = denoisers.from_v(net, alphas_cumprod=ABAR, quantize=True)
    D(torch.zeros(1, 1, 4), torch.ones(1), "prompt")
    assert net.seen[2] == "prompt"
    assert denoisers.from_v(lambda x, t: x)(torch.zeros(1, 1, 4), torch.ones(1), None).shape == (1, 1, 4)


def test_raw_and_precond_make_up_the_estimate() -> None:
    D = denoisers.from_edm(lambda z, t: torch.tanh(z) + per_sample(t, z), sigma_data=0.7, sizes=((8,), (4,)))
    x, sigma = torch.randn(3, 1, 8), torch.tensor([0.1, 1.0, 10.0])
    c_in, c_skip, c_out, time = (per_sample(c, x) for c in D.precond(sigma))
    raw = D.raw(x, sigma)
    torch.testing.assert_close(raw, torch.tanh(c_in * x) + time)
    torch.testing.assert_close(D(x, sigma), c_skip * x + c_out * raw)
    assert D.sizes == ((8,), (4,)) and denoisers.Clip(D).sizes == D.sizes


def test_edm_scales_input_and_target_to_unit_variance() -> None:
    sigma = torch.tensor([0.01, 0.5, 80.0], dtype=torch.float64)
    c_in, c_skip, c_out, _ = denoisers.from_edm(lambda z, t: z).precond(sigma)
    torch.testing.assert_close(c_in**2 * (sigma**2 + 0.25), torch.ones(3, dtype=torch.float64))
    error = (1 - c_skip) ** 2 * 0.25 + c_skip**2 * sigma**2
    torch.testing.assert_close(error / c_out**2, torch.ones(3, dtype=torch.float64))


def test_denoisers_are_differentiable() -> None:
    D = denoisers.from_v(lambda z, t: torch.tanh(z), alphas_cumprod=ABAR)
    x = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: D(x, torch.tensor([0.5, 2.0], dtype=torch.float64)), (x,))


def test_rows_do_not_depend_on_their_batch() -> None:
    D = denoisers.from_eps(lambda z, t: torch.tanh(z) * per_sample(t, z), alphas_cumprod=ABAR)
    whole = D(X, SIGMAS)
    assert torch.equal(whole, torch.cat([D(X[i : i + 1], SIGMAS[i : i + 1]) for i in range(4)]))


NET = denoisers.from_eps(lambda x, t: x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NET(torch.zeros(2, 1, 4), torch.ones(3)), r"sigma must have shape \[B\] = \[2\], got \[3\]"),
        (lambda: NET(torch.zeros(2, 1, 4), torch.tensor(1.0)), r"sigma must have shape .* got \[\]"),
        (lambda: NET(torch.zeros(1, 4), torch.ones(1)), r"denoiser: x must have shape \[B, C, \*S\]"),
        (
            lambda: denoisers.from_eps(lambda x, t: x[:, :1])(torch.zeros(1, 2, 4), torch.ones(1)),
            r"network must return the shape of x, \[1, 2, 4\], got \[1, 1, 4\]\. Cut off",
        ),
        (lambda: denoisers.from_eps(len, process="vx"), r"from_eps: process must be 'vp' or 've', got 'vx'"),
        (lambda: denoisers.from_x0(len, process=None), r"from_x0: process must be 'vp' or 've', got None"),
        (lambda: denoisers.from_score(len, process=""), r"from_score: process must be"),
        (
            lambda: denoisers.from_v(len, quantize=True),
            r"from_v: alphas_cumprod must be given where quantize",
        ),
        (
            lambda: denoisers.from_v(len, alphas_cumprod=ABAR.flip(0)),
            r"from_v: alphas_cumprod must fall strictly",
        ),
        (
            lambda: denoisers.from_eps(len, alphas_cumprod=ABAR[:1]),
            r"from_eps: alphas_cumprod must have shape",
        ),
        (
            lambda: denoisers.from_edm(len, sigma_data=0.0),
            r"from_edm: sigma_data must be .* above 0, got 0\.0",
        ),
        (lambda: denoisers.Clip(NET, 1.0, -1.0), r"Clip: low must be below high, got 1\.0 and -1\.0"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
