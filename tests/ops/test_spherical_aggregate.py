# SPDX-License-Identifier: Apache-2.0
"""Several states to one: tables, the oracle, permutations, layouts, refusals, the dispatcher."""

from __future__ import annotations

import math

import pytest
import sphere
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from intarsia.ops._backend import load
from oracle import FUZZ, FUZZ_INTERPRETED
from test_strides import LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OPTIONS = [{}, {"angle": "orthogonal"}, {"norm": "batch"}, {"fold": "mean"}]


def problem(count, shape, dtype, apart=0.3):
    """States that share most of their noise, and means not far from them."""
    common = torch.randn(shape)
    states = torch.stack([common + apart * torch.randn(shape) for _ in range(count)])
    means = states + 0.1 * torch.randn_like(states)
    return states.to(dtype), means.to(dtype)


def shares(count, options):
    return [0.5, 0.65, 0.7, 0.4, 0.9][: count - 1] + ([0.3] if "fold" in options else [])


def test_a_table_made_by_hand(backend):
    x = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]], device=backend.device)
    mu = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]], device=backend.device)
    kept = ops.spherical_aggregate(x, mu, [1.0], 0.0).cpu()
    taken = ops.spherical_aggregate(x, mu, [0.0], 0.0).cpu()
    assert torch.equal(kept, x[:1].cpu().expand(2, 1, 2)) and torch.equal(taken, x[1:].cpu().expand(2, 1, 2))
    half = 5 * math.sqrt(0.5)
    even = ops.spherical_aggregate(x, x, [0.5], 0.0).cpu()
    torch.testing.assert_close(even, torch.full((2, 1, 2), half))
    step = ops.spherical_aggregate(x, mu, [1.0], 1.0).cpu()
    torch.testing.assert_close(
        step[0, 0], torch.tensor([5.0, 0.0]) + torch.tensor([-2.0, 4.0]) / math.sqrt(20)
    )
    torch.testing.assert_close(step[1, 0], torch.tensor([4.0, 0.0]))
    whole = ops.spherical_aggregate(x, mu, [0.5], 100.0).cpu()
    assert torch.equal(whole, mu.cpu())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_equals_the_oracle(backend, dtype, count, options, assert_near):
    backend.keep_to(dtype is torch.float32 and count == 3)
    for shape in [(2, 3, 5)] if backend.slow else [(1, 1), (3, 7), (2, 3, 16), (2, 5, 9, 11), (1, 4101)]:
        x, mu = problem(count, shape, dtype)
        w = shares(count, options)
        for eta in (0.3, torch.rand(shape[0]), *(() if backend.slow else (0.0, 1e9))):
            there = eta.to(backend.device) if isinstance(eta, torch.Tensor) else eta
            ours = ops.spherical_aggregate(x.to(backend.device), mu.to(backend.device), w, there, **options)
            assert ours.dtype is dtype and ours.shape == x.shape
            assert_near(ours / 4, sphere.aggregate(x, mu, w, eta, **options) / 4, dtype)


def test_is_slerp_of_the_new_and_the_folded(backend):
    x = torch.randn(3, 2, 30, dtype=torch.float64, device=backend.device)
    twice = ops.slerp(x[2], ops.slerp(x[1], x[0], 0.3), 0.6)
    merged = ops.spherical_aggregate(x, x, [0.3, 0.6], 0.0)
    torch.testing.assert_close(merged, twice.expand(3, -1, -1))


def test_the_gram_route_equals_the_naive_one(backend):
    backend.keep_to(False)
    for count, apart in ((2, 1.0), (3, 0.1), (3, 1e-3), (5, 0.5)):
        x, mu = problem(count, (2, 4, 64, 64), torch.float32, apart)
        ours = ops.spherical_aggregate(x.to(backend.device), mu.to(backend.device), shares(count, {}), 0.3)
        with ops.use_backend("reference"):
            naive = ops.spherical_aggregate(x.double(), mu.double(), shares(count, {}), 0.3)
        error = (ours.cpu().double() - naive).flatten(2).norm(dim=2) / naive.flatten(2).norm(dim=2)
        assert float(error.max()) < 1e-6 / 5


def test_a_step_to_a_mean_close_by_is_right(backend):
    """||x' - mu|| is a small difference of large numbers; the length of the step must not feel it."""
    backend.keep_to(False)
    x = torch.randn(2, 1, 4, 64, 64)
    merged = ops.slerp(x[1], x[0], 0.5)
    for far in (1e-2, 1e-3, 1e-4):
        away = torch.randn_like(merged)
        away = far * merged.norm() * away / away.norm()
        mu = (merged + away).expand(2, 1, 4, 64, 64).contiguous()
        eta = 0.5 * float((mu[0] - merged).double().norm())
        there = [t.to(backend.device) for t in (x, mu)]
        moved = ops.spherical_aggregate(*there, [0.5], eta)[0].cpu().double() - sphere.slerp(x[1], x[0], 0.5)
        assert abs(float(moved.norm()) / eta - 1) < 2e-7 / far


def test_the_mean_does_not_feel_the_order(backend):
    backend.keep_to(False)
    x, mu = problem(4, (2, 50), torch.float64, 1.0)
    x, mu = x.to(backend.device), mu.to(backend.device)
    w = [0.1, 0.4, 0.2, 0.3]
    turn = [2, 0, 3, 1]
    ours = ops.spherical_aggregate(x, mu, w, 0.3, fold="mean")
    turned = ops.spherical_aggregate(x[turn], mu[turn], [w[i] for i in turn], 0.3, fold="mean")
    torch.testing.assert_close(turned, ours[turn])
    two = ops.spherical_aggregate(x[:2], mu[:2], [1.0, 3.0], 0.3, fold="mean")
    torch.testing.assert_close(two, ops.spherical_aggregate(x[:2], mu[:2], [0.25], 0.3))
    even = ops.spherical_aggregate(x[:2], mu[:2], [0.5], 0.3)
    torch.testing.assert_close(ops.spherical_aggregate(x[[1, 0]], mu[[1, 0]], [0.5], 0.3), even[[1, 0]])


def test_samples_do_not_feel_each_other(backend):
    x, mu = problem(2, (3, 40), torch.float32)
    x, mu = x.to(backend.device), mu.to(backend.device)
    all_three = ops.spherical_aggregate(x, mu, [0.5], 0.3)
    for b in range(3):
        alone = ops.spherical_aggregate(x[:, b : b + 1], mu[:, b : b + 1], [0.5], 0.3)
        assert torch.equal(alone[:, 0], all_three[:, b])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_equal_bits_from_any_layout(backend, dtype, layout):
    backend.keep_to(dtype is torch.bfloat16)
    x, mu = (t.to(backend.device) for t in problem(2, (3, 4, 6, 5), dtype))
    expected = ops.spherical_aggregate(x, mu, [0.5], 0.3)
    there = [layout(t.cpu()).to(backend.device) for t in (x, mu)]
    assert torch.equal(ops.spherical_aggregate(*there, [0.5], 0.3), expected)
    listed = [[layout(part.cpu()).to(backend.device) for part in t] for t in (x, mu)]
    assert torch.equal(ops.spherical_aggregate(*listed, [0.5], 0.3), expected)
    assert torch.equal(ops.spherical_aggregate(tuple(x), mu, [0.5], 0.3), expected)


def test_more_states_than_kernels_hold(assert_near):
    x, mu = problem(33, (2, 6), torch.float32)
    w = [0.9] * 32
    assert_near(ops.spherical_aggregate(x, mu, w, 0.3), sphere.aggregate(x, mu, w, 0.3), torch.float32)


def test_many_axes(assert_near):
    x, mu = problem(2, (2, 1, 2, 1, 3, 1, 2), torch.float32)
    expected = sphere.aggregate(x, mu, [0.5], 0.3)
    for states in (x, list(x)):
        assert_near(ops.spherical_aggregate(states, mu, [0.5], 0.3), expected, torch.float32)


def test_out_is_written(backend, dtype):
    x, mu = (t.to(backend.device) for t in problem(2, (2, 3, 9), dtype))
    out = torch.full_like(x, float("nan"))
    version = out._version
    assert ops.spherical_aggregate(x, mu, [0.5], 0.3, out=out) is out and out._version > version
    assert torch.equal(out, ops.spherical_aggregate(x, mu, [0.5], 0.3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_err_at_most_twice_as_much_as_pytorch(backend, dtype):
    backend.keep_to(False)
    x, mu = problem(2, (2, 500), dtype)
    exact = sphere.aggregate(x, mu, [0.5], 0.3)
    with ops.use_backend("reference"):
        merged = ops.spherical_aggregate(x.float(), mu.float(), [0.5], 0.0)
    away = merged - mu.float()
    theirs = (merged - 0.3 * away / away.norm(dim=2, keepdim=True)).to(dtype)
    ours = ops.spherical_aggregate(x.to(backend.device), mu.to(backend.device), [0.5], 0.3).cpu()
    assert (ours.double() - exact).abs().max() <= 2 * (theirs.double() - exact).abs().max()


def check(count, shape, dtype, options, eta, seed, close):
    torch.manual_seed(seed)
    # A mean of directions all around is found slowly.
    x, mu = problem(count, shape, dtype, (0.0, 1e-3, 0.3, 0.1 if "fold" in options else 2.0)[seed % 4])
    w = torch.rand(count - ("fold" not in options)).add(0.01).clamp(max=1).tolist()
    ours = ops.spherical_aggregate(x, mu, w, eta, **options)
    close(ours / 8, sphere.aggregate(x, mu, w, eta, **options) / 8, dtype)


drawn = {
    "dtype": st.sampled_from(DTYPES),
    "options": st.sampled_from(OPTIONS),
    "eta": st.sampled_from([0.0, 0.3, 10.0]),
    "seed": st.integers(0, 2**31),
}


@FUZZ
@given(count=st.integers(1, 5), shape=st.tuples(*[st.integers(1, most) for most in (3, 4, 20)]), **drawn)
def test_random_states(count, shape, dtype, options, eta, seed, assert_near):
    check(count, shape, dtype, options, eta, seed, assert_near)


@pytest.mark.skipif(not hasattr(load("triton"), "slerp"), reason="no Triton")
@FUZZ_INTERPRETED
@given(count=st.integers(1, 3), shape=st.tuples(*[st.integers(1, most) for most in (2, 2, 40)]), **drawn)
def test_random_states_interpreted(count, shape, dtype, options, eta, seed, assert_near):
    options = {} if "fold" in options else options  # 64 interpreted steps a program
    with ops.use_backend("triton"):
        check(count, shape, dtype, options, eta, seed, assert_near)


@pytest.mark.parametrize("index", range(24))
def test_opcheck(index):
    dtype, count = DTYPES[index % 4], 1 + index % 3
    x, mu = problem(count, (2, 3, 5), dtype)
    fold = index % 3
    w = shares(count, {"fold": "mean"} if fold == 2 else {})
    etas = torch.rand(2, dtype=torch.float64) if index % 2 else None
    states = [x] if index % 4 < 2 or count == 1 else list(x)
    op, check_op = torch.ops.intarsia, torch.library.opcheck
    arguments = (states, [mu], w, 0.3, etas, fold, bool(index // 2 % 2))
    check_op(op.spherical_aggregate.default, arguments)
    check_op(op.spherical_aggregate_out.default, (*arguments, torch.empty_like(x)))


@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph():
    x, mu = problem(3, (2, 40), torch.float32)

    def step(states, means):
        return ops.spherical_aggregate([2 * s for s in states], means, [0.5, 0.65], 0.3) + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(list(x), mu), step(list(x), mu))
    torch._dynamo.reset()


X = torch.randn(2, 3, 4)
REFUSED = [
    ((3, X, [0.5], 0.3), r"states must be a tensor \[N, B, \.\.\.\] or a sequence"),
    (([], X, [0.5], 0.3), "states must hold at least one, got none"),
    ((X[0, 0], X, [0.5] * 3, 0.3), r"states must have shape \[N, B, \.\.\.\], got shape \[4\]"),
    ((X.int(), X, [0.5], 0.3), "states must be float16, bfloat16, float32 or float64"),
    ((X, X[:1], [0.5], 0.3), r"means must have shape \[2, 3, 4\], got shape \[1, 3, 4\]"),
    ((X, [X[0]] * 3, [0.5], 0.3), "means must hold 2 tensors, got 3"),
    ((X, X.double(), [0.5], 0.3), "means must be torch.float32 on cpu, dense, got torch.float64"),
    ((X, X, [], 0.3), "weights must hold 1 for 2 states, got 0. One for each fold"),
    ((X, X, 0.5, 0.3), "weights must be a sequence of numbers, got 0.5"),
    ((X, X, [1.5], 0.3), r"weights must lie in \[0, 1\], got 1.5"),
    ((X, X, [math.nan], 0.3), r"weights must lie in \[0, 1\], got nan"),
    ((X, X, [0.5], -1.0), "eta must be at least 0, got -1.0"),
    ((X, X, [0.5], math.inf), "eta must be finite"),
    ((X, X, [0.5], torch.ones(2)), r"eta must have shape \[3\], got shape \[2\]"),
    ((X.clone().requires_grad_(), X, [0.5], 0.3), "states and means must not require grad"),
]


@pytest.mark.parametrize("arguments,message", REFUSED, ids=[message[:25] for _, message in REFUSED])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=f"^spherical_aggregate: {message}"):
        ops.spherical_aggregate(*arguments)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"fold": "median"}, 'fold must be "sequential" or "mean", got \'median\''),
        ({"angle": "right"}, 'angle must be "exact" or "orthogonal", got \'right\''),
        ({"norm": "all"}, 'norm must be "sample" or "batch", got \'all\''),
        ({"fold": "mean", "angle": "orthogonal"}, 'angle must be "exact" for a mean'),
        ({"fold": "mean"}, "weights must hold 2 for 2 states, got 1. One for each state"),
        ({"out": torch.empty(2, 3)}, r"out must have shape \[2, 3, 4\]"),
        ({"out": X}, "out must not overlap an input"),
        ({"out": X.double()}, "out must be torch.float32, got torch.float64"),
    ],
    ids=str,
)
def test_options_refused(options, message):
    with pytest.raises(ValueError, match=f"^spherical_aggregate: {message}"):
        ops.spherical_aggregate(X, X + 1, [0.5], 0.3, **options)


def test_weights_of_a_mean_are_shares():
    for bad in ([0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="weights must be finite, at least 0 and not all 0"):
            ops.spherical_aggregate(X, X, bad, 0.3, fold="mean")
    one = ops.spherical_aggregate(X, X, [2.0, 6.0], 0.3, fold="mean")
    assert torch.equal(one, ops.spherical_aggregate(X, X, [0.25, 0.75], 0.3, fold="mean"))
