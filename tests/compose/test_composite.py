# SPDX-License-Identifier: Apache-2.0
"""Composite: checks when it is built and called, precision, gradients, nesting, compilation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from intarsia import denoisers, layout
from intarsia.compose import Composite, Factor, NonFiniteRegionError, average, weighted_sum
from intarsia.layout import Layout
from intarsia.ops import CoverageError
from torch import Tensor

CHAIN = layout.chain(10, 4, 3)


def same(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
    return x


def halves(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
    return x / 2


def test_it_reads_like_what_it_is() -> None:
    ring = layout.loop(10, 4, 2)
    composite = average(
        Factor(same, CHAIN, layout.gaussian, max_batch=2), Factor(halves, ring, coefficient=0.5)
    )
    assert repr(composite).splitlines() == [
        "average: canvas (10,), 8 regions, each element in 3 to 4 of them, 8 rows per sample",
        "  Factor(same, 3 regions of (4,), weight=gaussian, max_batch=2)",
        "  Factor(halves, 5 regions of (4,), weight=uniform, coefficient=0.5)",
    ]
    assert composite.sizes == ((10,),) and composite.rows == 8


def test_a_composite_is_a_denoiser_and_nests() -> None:
    plane = layout.grid((9, 14), (6, 8), (3, 3))
    inner = average(Factor(halves, layout.grid((6, 8), (4, 4), (2, 2)), layout.gaussian, max_batch=3))
    outer = average(Factor(inner, plane, layout.quartic, max_batch=2))
    x = torch.randn(2, 3, 9, 14)
    with torch.no_grad():
        torch.testing.assert_close(outer(x, torch.ones(2)), x / 2)
    with pytest.raises(ValueError, match=r"trained on \(\(6, 8\)\), got \(6, 7\)"):
        Factor(inner, layout.grid((9, 14), (6, 7), (3, 7)))


@pytest.mark.parametrize("grad", [False, True])
def test_factors_are_summed_and_divided_by_all_their_weights(grad: bool) -> None:
    whole = Layout((10,), (10,), [[0]])
    soft = torch.linspace(0.1, 2, 10)
    composite = average(Factor(same, CHAIN, coefficient=2.0), Factor(halves, whole, soft))
    x = torch.randn(3, 2, 10, dtype=torch.float64)
    share = soft.double() / (soft.double() + 2 * CHAIN.total())
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(composite(x, torch.ones(3)), x * (1 - share / 2), rtol=1e-7, atol=1e-7)


def test_a_weighted_sum_takes_triangles_that_sum_to_one_and_negative_coefficients() -> None:
    ring = layout.loop(8, 4, 2)
    x = torch.randn(1, 2, 8)
    torch.testing.assert_close(weighted_sum(Factor(halves, ring, layout.triangle))(x, torch.ones(1)), x / 2)
    both = weighted_sum(Factor(halves, ring), Factor(same, layout.loop(8, 2, 2), coefficient=-torch.ones(4)))
    torch.testing.assert_close(both(x, torch.ones(1)), torch.zeros_like(x))


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_half_networks_are_summed_in_single_precision(low: torch.dtype) -> None:
    """64 overlapping regions; the sum of half results must be as good as one rounding of each."""
    ring = layout.loop(64, 64, 1)
    network = lambda x, sigma, cond=None: (x * 3).to(low)  # noqa: E731
    x = torch.randn(1, 4, 64)
    with torch.no_grad():
        results = [
            average(Factor(network, ring, layout.gaussian, max_batch=n))(x, torch.ones(1)) for n in (5, None)
        ]
    assert results[0].dtype == torch.float32
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], (3 * x).to(low).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: denoisers.from_v(lambda x, t: net(x, t))])
def test_a_half_canvas_is_rounded_once(low: torch.dtype, wrap: denoisers.Network) -> None:
    x = torch.randn(1, 2, 10).to(low)
    D = wrap(lambda x, t, cond=None: (x * 0.3).sin())
    factors = [Factor(D, CHAIN, layout.gaussian, max_batch=2), Factor(D, layout.loop(10, 4, 2))]
    for composite in (average(*factors), average(factors[0])):
        with torch.no_grad():
            out = composite(x, torch.ones(1))
            near = composite(x.double(), torch.ones(1, dtype=torch.float64))
        assert out.dtype == low
        torch.testing.assert_close(out.double(), near, rtol=0, atol=2 * torch.finfo(low).eps)


def conv(x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
    shift = time.reshape(-1, 1, 1).to(x.dtype)
    return (x.roll(1, -1) + x * 0.3 + shift).tanh() * (
        1 if cond is None else cond.reshape(-1, 1, 1).to(x.dtype)
    )


ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
WRAPPERS = {
    "eps": lambda dtype: denoisers.from_eps(conv, alphas_cumprod=ABAR, dtype=dtype),
    "eps quantised": lambda dtype: denoisers.from_eps(conv, alphas_cumprod=ABAR, quantize=True, dtype=dtype),
    "v": lambda dtype: denoisers.from_v(conv, alphas_cumprod=ABAR, dtype=dtype),
    "flow": lambda dtype: denoisers.from_flow(conv, dtype=dtype),
    "edm": lambda dtype: denoisers.from_edm(conv, dtype=dtype),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("low", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["average", "weighted_sum", "two factors"])
def test_scaling_on_the_canvas_equals_scaling_in_every_region(
    name: str, low: torch.dtype | None, kind: str
) -> None:
    """The fused path of a Preconditioned network against the same network as a black box."""
    D = WRAPPERS[name](low)
    opaque = lambda x, sigma, cond=None: D(x, sigma, cond)  # noqa: E731
    ring, x = layout.loop(24, 8, 4), 5 * torch.randn(2, 3, 24)
    sigma, gain = torch.tensor([0.3, 4.0]), torch.linspace(0.5, 1.5, 6)

    def build(denoiser: denoisers.Network) -> Composite:
        window = layout.triangle if kind == "weighted_sum" else layout.gaussian
        own = Factor(denoiser, ring, window, cond=gain, max_batch=5)
        if kind == "two factors":
            return average(own, Factor(halves, layout.loop(24, 6, 3)))
        return (weighted_sum if kind == "weighted_sum" else average)(own)

    with torch.no_grad():
        near = {None: 2e-6, torch.bfloat16: 2e-6}[low] * float(x.abs().max())
        torch.testing.assert_close(build(D)(x, sigma), build(opaque)(x, sigma), rtol=2e-6, atol=near)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_the_network_is_told_the_time_as_outside_of_a_composite(low: torch.dtype) -> None:
    told: list[Tensor] = []
    D = denoisers.from_eps(lambda x, t: told.append(t) or torch.zeros_like(x), dtype=low)
    x, sigma = torch.zeros(1, 1, 10, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    average(Factor(D, CHAIN))(x, sigma)
    D(x, sigma)
    inside, outside = told
    assert inside.dtype == outside.dtype and torch.equal(inside, outside.expand(3))


def test_a_double_canvas_keeps_double_sums_around_a_single_network() -> None:
    seven = layout.chain(28, 16, 2)
    table = torch.rand(7, 1, 16)
    D = denoisers.from_eps(lambda x, t, cond: cond * torch.ones_like(x), dtype=torch.float32)
    composite = average(Factor(D, seven, layout.gaussian, cond=table, max_batch=2))
    out = composite(torch.zeros(1, 1, 28, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    expected = -seven.merge(table.double()[None], weight=layout.gaussian)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=0)


def test_an_answer_in_more_bits_than_the_input_is_not_rounded_on_its_way() -> None:
    """A bfloat16 network whose last layer is float32: the patch buffer must not take its answers."""
    D = denoisers.from_eps(lambda x, t: x.float().sin(), dtype=torch.bfloat16)
    x = torch.randn(1, 2, 10)
    with torch.no_grad():
        results = [
            average(Factor(D, CHAIN, layout.gaussian, max_batch=n))(x, torch.ones(1)) for n in (1, None)
        ]
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["fused", "signed", "preconditioned"])
def test_gradients_flow_through_a_composite(kind: str) -> None:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    network = lambda x, sigma, cond=None: (x * scale).sin()  # noqa: E731
    whole = Layout((7,), (7,), [[0]])
    region = layout.chain(7, 4, 2)
    factors = [Factor(network, region, layout.gaussian, max_batch=2)]
    if kind == "signed":
        factors = [
            Factor(network, region),
            Factor(network, region, coefficient=-1.0),
            Factor(same, whole),
        ]
    if kind == "preconditioned":
        factors = [Factor(denoisers.from_v(lambda x, t: network(x, t)), region, max_batch=2)]
    composite = (weighted_sum if kind == "signed" else average)(*factors)
    x = torch.randn(2, 1, 7, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x, scale: composite(x, levels), (x, scale))


def test_it_compiles_into_one_graph_and_stays_compiled() -> None:
    plane = layout.grid((8, 14), (4, 8), (2, 3))
    boxed = layout.boxes((8, 14), [((0, 0), (8, 14)), ((2, 3), (4, 8))])
    network = denoisers.from_v(lambda x, t, cond: (x * cond["gain"].reshape(-1, 1, 1, 1)).tanh())
    one = Factor(network, plane, layout.gaussian, cond={"gain": torch.rand(plane.num_regions)}, max_batch=4)
    composite = average(one, one, Factor(halves, boxed))
    compiled = torch.compile(composite.__call__, backend="aot_eager", fullgraph=True)
    try:
        with torch.no_grad():
            for _ in range(2):
                x = torch.randn(2, 3, 8, 14)
                torch.testing.assert_close(compiled(x, torch.ones(2)), composite(x, torch.ones(2)))
                torch.compiler.set_stance("fail_on_recompile")
    finally:
        torch.compiler.set_stance("default")


def test_an_empty_batch_is_legal() -> None:
    assert average(Factor(same, CHAIN))(torch.empty(0, 2, 10), torch.empty(0)).shape == (0, 2, 10)
    with torch.no_grad():
        assert average(Factor(same, CHAIN))(torch.empty(0, 2, 10), torch.empty(0)).shape == (0, 2, 10)


def test_copies_and_pickles_do_not_carry_buffers() -> None:
    composite = average(Factor(halves, CHAIN, max_batch=2))
    x = torch.randn(1, 1, 10)
    with torch.no_grad():
        first = composite(x, torch.ones(1))
    for other in (copy.deepcopy(composite), pickle.loads(pickle.dumps(composite))):
        assert torch.equal(other(x, torch.ones(1)), first)
        assert len(pickle.dumps(other)) < 20_000


def poisoned(region: int) -> Factor:
    def network(x: Tensor, sigma: Tensor, cond: dict[str, Tensor]) -> Tensor:
        bad = (cond["index"] == region).reshape(-1, 1, 1)
        return torch.where(bad, torch.full_like(x, float("nan")), x)

    ring = layout.loop(12, 4, 3)
    return Factor(network, ring, cond={"index": torch.arange(4)}, max_batch=3)


def test_nan_is_reported_with_its_region_and_kept_to_it() -> None:
    x = torch.randn(2, 1, 12)
    with pytest.raises(
        NonFiniteRegionError, match=r"average: denoiser network of factor 1 .* region 2 \(offset \(6,\)\)"
    ):
        average(Factor(same, layout.chain(12, 6, 6)), poisoned(2))(x, torch.ones(2))
    with pytest.raises(NonFiniteRegionError) as caught:
        average(poisoned(1))(x, torch.ones(2))
    assert (caught.value.factor, caught.value.region) == (0, 1)
    assert "from a finite input" in str(caught.value)
    spread = average(poisoned(2), on_nonfinite="ignore")(x, torch.ones(2))
    assert torch.isnan(spread[0, 0]).nonzero().flatten().tolist() == [6, 7, 8, 9], "only what region 2 covers"
    clean = [0, 1, 2, 3, 4, 5, 10, 11]
    assert torch.equal(
        spread[..., clean], average(Factor(same, layout.loop(12, 4, 3)))(x, torch.ones(2))[..., clean]
    )


def test_large_values_whose_sum_overflows_are_not_mistaken_for_infinity() -> None:
    large = lambda x, sigma, cond=None: torch.full_like(x, 3e37)  # noqa: E731
    assert bool((average(Factor(large, CHAIN))(torch.zeros(9, 2, 10), torch.ones(9)) > 2e37).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_any_value_that_is_not_finite_is_seen(value: float) -> None:
    broken = lambda x, sigma, cond=None: torch.full_like(x, value)  # noqa: E731
    with pytest.raises(NonFiniteRegionError, match="must return finite values"):
        average(Factor(broken, CHAIN))(torch.zeros(1, 2, 10), torch.ones(1))
    with pytest.raises(NonFiniteRegionError, match="from an input that already had some"):
        average(Factor(same, CHAIN))(torch.full((1, 2, 10), value), torch.ones(1))


@torch.no_grad()
@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("static", [False, True])
def test_the_look_at_a_call_comes_one_call_late_and_misses_none(bad: int, static: bool) -> None:
    """Patch buffers are in use, and some networks (captured graphs) answer in the same memory each time."""
    memory, calls = torch.zeros(1, 2, 4), list[int]()

    def network(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        out = memory.copy_(x) if static else x.clone()
        out.view(-1)[3] = float("nan") if len(calls) == bad else 0.0
        calls.append(len(calls))
        return out

    three = average(Factor(network, layout.chain(10, 4, 3), max_batch=1))
    with pytest.raises(NonFiniteRegionError, match=rf"region {bad} \(.*from a finite input") as caught:
        three(torch.zeros(1, 2, 10), torch.ones(1))
    assert caught.value.region == bad and len(calls) == min(bad + 2, 3)
    calls[:] = [0] * 9
    with pytest.raises(NonFiniteRegionError, match="region 1 .*from an input that already had some"):
        three(torch.tensor([0.0] * 5 + [torch.nan] + [0.0] * 4).expand(1, 2, 10), torch.ones(1))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: average(), ValueError, r"average: factors must be one or more Factor, got \[\]"),
        (
            lambda: average(same),
            ValueError,
            r"average: factors must be one or more Factor, got \['function'\]",
        ),
        (
            lambda: average(Factor(same, CHAIN), on_nonfinite="mask"),
            ValueError,
            r"average: on_nonfinite must be",
        ),
        (
            lambda: average(Factor(same, CHAIN), Factor(same, layout.chain(11, 4, 3))),
            ValueError,
            r"average: factors must share one canvas, got \(10,\) and \(11,\)",
        ),
        (
            lambda: average(Factor(same, Layout((10,), (4,), [[0], [6]]))),
            CoverageError,
            r"average: regions must cover .* 2 of 10 are uncovered \(first at \(4,\), weight 0\)\. Pull",
        ),
        (
            lambda: average(Factor(same, CHAIN, torch.tensor([0.0, 1, 1, 1]))),
            CoverageError,
            r"average: regions must cover .* 1 of 10 are uncovered \(first at \(0,\)",
        ),
        (
            lambda: average(Factor(same, CHAIN, torch.tensor([1e-35, 1, 1, 1]))),
            CoverageError,
            r"average: regions must cover .* 1 of 10 .* \(first at \(0,\), weight 1e-35\).*wider window",
        ),
        (
            lambda: average(Factor(same, CHAIN, torch.tensor([1.0, float("nan"), 1, 1]))),
            ValueError,
            r"average: weight of factor 0 must be finite, got 1 NaN or infinite values of 4",
        ),
        (
            lambda: average(Factor(same, CHAIN, (torch.tensor([1.0, 2, float("inf"), 1]),))),
            ValueError,
            r"average: weight of factor 0 must be finite",
        ),
        (
            lambda: average(Factor(same, CHAIN, torch.tensor([1.0, -1, 1, 1]))),
            ValueError,
            r"average: weight of factor 0 must not be negative, got -1",
        ),
        (
            lambda: average(Factor(same, CHAIN, coefficient=-1.0)),
            ValueError,
            r"average: coefficient of factor 0 must not be negative, got -1.0. Signed sums .* weighted_sum",
        ),
        (
            lambda: weighted_sum(Factor(same, CHAIN)),
            ValueError,
            r"weighted_sum: weights must sum to one .* got 2 at \(3,\) \(2 of 10 elements differ\)",
        ),
        (
            lambda: weighted_sum(Factor(same, layout.loop(8, 4, 4), coefficient=1 + 3e-6)),
            ValueError,
            r"weighted_sum: weights must sum to one",
        ),
    ],
)
def test_what_is_refused_when_built(build: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]


def test_the_tolerance_of_a_weighted_sum_is_one_in_a_million() -> None:
    weighted_sum(Factor(same, layout.loop(8, 4, 4), coefficient=1 + 5e-7))


@pytest.mark.parametrize(
    ("x", "sigma", "message"),
    [
        (
            torch.ones(1, 1, 9),
            torch.ones(1),
            r"average: x must have the canvas \(10,\) of its layouts, got \(9,\) \(shape",
        ),
        (torch.ones(1, 10), torch.ones(1), r"average: x must have shape \[B, C, \*S\]"),
        (
            torch.ones(1, 1, 10, 10),
            torch.ones(1),
            r"average: x must have the canvas \(10,\) .* got \(10, 10\)",
        ),
        (torch.ones(1, 1, 10, dtype=torch.int64), torch.ones(1), r"average: x must have a floating dtype"),
        (
            torch.ones(2, 1, 10),
            torch.ones(1),
            r"average: sigma must have shape \[2\], one .* got \[1\]",
        ),
        (torch.ones(2, 1, 10), torch.ones(()), r"average: sigma must have shape \[2\]"),
    ],
)
def test_what_is_refused_when_called(x: Tensor, sigma: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average(Factor(same, CHAIN))(x, sigma)


def test_a_network_that_changes_the_shape_is_named() -> None:
    doubled = lambda x, sigma, cond=None: torch.cat([x, x], 1)  # noqa: E731
    message = r"Factor: denoiser must return the shape of its input \[3, 1, 4\], got \[3, 2, 4\]"
    with pytest.raises(ValueError, match=message):
        average(Factor(doubled, CHAIN))(torch.ones(1, 1, 10), torch.ones(1))
