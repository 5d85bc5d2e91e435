# SPDX-License-Identifier: Apache-2.0
"""Interpolation along great circles: tables, the oracle, layouts, gradients, refusals, the dispatcher."""

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
SHAPES = [(1, 1), (3, 7), (2, 3, 16), (2, 5, 3, 11), (1, 4097), (2, 1, 2, 3, 4, 5, 6)]


def test_a_table_made_by_hand(backend):
    x0 = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], device=backend.device)
    x1 = torch.tensor([[0.0, 1.0], [0.0, 8.0], [0.0, 12.0]], device=backend.device)
    half = math.sqrt(0.5)
    expected = torch.tensor([[half, half], [4 * half, 4 * half], [0.0, 6.0]])
    torch.testing.assert_close(ops.slerp(x0, x1, 0.5).cpu(), expected)
    third = ops.slerp(x0, x1, torch.tensor([1 / 3, 0.0, 1.0], device=backend.device)).cpu()
    torch.testing.assert_close(third[0], torch.tensor([math.cos(math.pi / 6), 0.5]))
    assert torch.equal(third[1:], torch.stack([x0[1], x1[2]]).cpu())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_oracle(backend, dtype, shape, assert_near):
    backend.keep_to(shape in SHAPES[1:3])
    x0, x1 = (torch.randn(shape).to(dtype) for _ in range(2))
    for w in (0.0, 0.3, 1.0, -0.4, 1.5, torch.rand(shape[0]), torch.rand(shape[0], dtype=torch.float64)):
        there = w.to(backend.device) if isinstance(w, torch.Tensor) else w
        ours = ops.slerp(x0.to(backend.device), x1.to(backend.device), there)
        assert ours.dtype is dtype and ours.shape == shape
        assert_near(ours, sphere.slerp(x0, x1, w), dtype)


def test_the_norm_runs_geometrically_and_the_angle_evenly(backend):
    x0, x1 = torch.randn(2, 4, 60, dtype=torch.float64, device=backend.device)
    angle = torch.nn.functional.cosine_similarity(x0, x1).acos()
    for w in (0.1, 0.5, 0.8):
        x = ops.slerp(x0, 9 * x1, w)
        torch.testing.assert_close(x.norm(dim=1), x0.norm(dim=1) ** (1 - w) * (9 * x1).norm(dim=1) ** w)
        torch.testing.assert_close(torch.nn.functional.cosine_similarity(x0, x).acos(), w * angle)
        torch.testing.assert_close(x, ops.slerp(9 * x1, x0, 1 - w))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_equal_bits_from_any_layout(backend, dtype, layout):
    backend.keep_to(dtype is torch.bfloat16)
    x0, x1 = (torch.randn(3, 4, 6, 5).to(dtype) for _ in range(2))
    expected = ops.slerp(x0.to(backend.device), x1.to(backend.device), 0.3)
    assert torch.equal(ops.slerp(layout(x0).to(backend.device), layout(x1).to(backend.device), 0.3), expected)
    assert bool(expected.isfinite().all())
    one = torch.randn(1, 1, 1, 5, device=backend.device).to(dtype).expand(3, 4, 6, 5)
    assert torch.equal(ops.slerp(one, one, 0.5), ops.slerp(one.contiguous(), one.contiguous(), 0.5))


def test_out_is_written(backend, dtype):
    x0, x1 = (torch.randn(2, 3, 9, device=backend.device).to(dtype) for _ in range(2))
    out = torch.full_like(x0, float("nan"))
    version = out._version
    assert ops.slerp(x0, x1, 0.2, out=out) is out and out._version > version
    assert torch.equal(out, ops.slerp(x0, x1, 0.2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_err_at_most_twice_as_much_as_pytorch(backend, dtype):
    backend.keep_to(dtype is torch.bfloat16)
    x0, x1 = (torch.randn(2, 300).to(dtype) for _ in range(2))
    exact = sphere.slerp(x0, x1, 0.4)
    wide0, wide1 = x0.float(), x1.float()
    n0, n1 = wide0.norm(dim=1, keepdim=True), wide1.norm(dim=1, keepdim=True)
    angle = (wide0 / n0 * wide1 / n1).sum(1, keepdim=True).acos()
    theirs = (torch.sin(0.6 * angle) * wide0 / n0 + torch.sin(0.4 * angle) * wide1 / n1) / angle.sin()
    theirs = (n0**0.6 * n1**0.4 * theirs).to(dtype)
    ours = ops.slerp(x0.to(backend.device), x1.to(backend.device), 0.4).cpu()
    assert (ours.double() - exact).abs().max() <= 2 * (theirs.double() - exact).abs().max()


def check(shape, dtype, layout, w, seed, close):
    torch.manual_seed(seed)
    x0, x1 = (layout(torch.randn(*shape, 1).to(dtype)) for _ in range(2))
    if seed % 5 == 0:
        x1 = -x0 if seed % 2 else x0
    close(ops.slerp(x0, x1, w), sphere.slerp(x0, x1, w), dtype)


drawn = {
    "dtype": st.sampled_from(DTYPES),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "w": st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])),
    "seed": st.integers(0, 2**31),
}


@FUZZ
@given(shape=st.tuples(*[st.integers(1, most) for most in (3, 4, 40)]), **drawn)
def test_random_vectors(shape, dtype, layout, w, seed, assert_near):
    check(shape, dtype, layout, w, seed, assert_near)


@pytest.mark.skipif(not hasattr(load("triton"), "slerp"), reason="no Triton")
@FUZZ_INTERPRETED
@given(shape=st.tuples(*[st.integers(1, most) for most in (2, 2, 40)]), **drawn)
def test_random_vectors_interpreted(shape, dtype, layout, w, seed, assert_near):
    with ops.use_backend("triton"):
        check(shape, dtype, layout, w, seed, assert_near)


@pytest.mark.parametrize("w", [0.0, 0.25, 0.5, 1.0, torch.tensor([0.2, 0.0, 0.9])], ids=str)
@pytest.mark.parametrize("kind", ["any", "near", "scaled"])
def test_gradients(w, kind):
    x0 = torch.randn(3, 2, 4, dtype=torch.float64)
    x1 = {"any": torch.randn_like(x0), "near": x0 + 1e-6 * torch.randn_like(x0), "scaled": -3 * x0.roll(1)}[
        kind
    ]
    inputs = (x0.requires_grad_(), x1.requires_grad_())
    if kind == "near":  # numerical differences would leave the branch
        ours = torch.autograd.grad(ops.slerp(*inputs, w).square().sum(), inputs)
        n0, n1 = (x.detach().flatten(1).norm(dim=1)[:, None, None] for x in inputs)
        share = w[:, None, None].double() if isinstance(w, torch.Tensor) else w
        square = n0 ** (2 - 2 * share) * n1 ** (2 * share)
        for ours_, x, n, s in zip(ours, inputs, (n0, n1), (1 - share, share), strict=True):
            torch.testing.assert_close(ours_, (2 * s * square / n**2) * x.detach(), rtol=1e-4, atol=1e-4)
    else:
        assert torch.autograd.gradcheck(lambda a, b: ops.slerp(a, b, w), inputs, nondet_tol=0)
        assert torch.autograd.gradgradcheck(lambda a, b: ops.slerp(a, b, w), inputs, nondet_tol=0)


@pytest.mark.parametrize("case", ["equal", "opposite", "zero", "ends"])
def test_gradients_are_finite_where_no_angle_is(case):
    x0 = torch.randn(2, 5, requires_grad=True)
    x1 = {"equal": x0, "opposite": -x0, "zero": 0 * x0, "ends": torch.randn(2, 5)}[case]
    x1 = x1.detach().clone().requires_grad_()
    grads = torch.autograd.grad(ops.slerp(x0, x1, torch.tensor([0.0, 0.5])).sum(), (x0, x1))
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert torch.equal(grads[0][0], torch.ones(5)) and not grads[1][0].any()


@pytest.mark.parametrize("index", range(24))
def test_opcheck(index):
    dtype, shape = DTYPES[index % 4], SHAPES[:4][index // 4 % 4]
    x0, x1 = (torch.randn(shape).to(dtype) for _ in range(2))
    ws = torch.rand(shape[0], dtype=torch.float64) if index % 2 else None
    op, check_op = torch.ops.intarsia, torch.library.opcheck
    check_op(op.slerp_out.default, (x0, x1, 0.3, ws, torch.empty_like(x0)))
    grad = dtype in (torch.float32, torch.float64)
    check_op(op.slerp.default, (x0.requires_grad_(grad), x1.requires_grad_(grad), 0.3, ws))


@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph():
    x0, x1 = torch.randn(2, 2, 40, requires_grad=True).unbind(0)
    compiled = torch.compile(lambda a, b: ops.slerp(2 * a, b, 0.3) + 1, backend="aot_eager", fullgraph=True)
    expected = ops.slerp(2 * x0, x1, 0.3) + 1
    torch.testing.assert_close(compiled(x0, x1), expected)
    torch._dynamo.reset()


X = torch.randn(2, 3)
REFUSED = [
    ((3, X, 0.5), r"^slerp: x0 must be a tensor \[B, \.\.\.\], got int\."),
    ((X, None, 0.5), r"^slerp: x1 must be a tensor"),
    ((X.int(), X.int(), 0.5), r"^slerp: x0 must be float16, bfloat16, float32 or float64, got torch.int32"),
    ((X[0, 0], X[0, 0], 0.5), r"^slerp: x0 must have shape \[B, \.\.\.\], got shape \[\]"),
    ((X, X[:1], 0.5), r"^slerp: x1 must have x0's shape \[2, 3\], got shape \[1, 3\]"),
    ((X, X.double(), 0.5), r"^slerp: x1 must be torch.float32 on cpu like x0, got torch.float64"),
    ((X, X.to_sparse(), 0.5), r"^slerp: x0 and x1 must be dense"),
    ((X, X, "0.5"), r"^slerp: w must be a number or a tensor \[B\], got str"),
    ((X, X, math.nan), r"^slerp: w must be finite, got nan"),
    ((X, X, torch.ones(3)), r"^slerp: w must have shape \[2\], got shape \[3\]"),
    ((X, X, torch.ones(2).long()), r"^slerp: w must be float16.* where it is a tensor, got torch.int64"),
    ((X, X, torch.ones(2, requires_grad=True)), r"^slerp: w must not require grad"),
    ((X, X, torch.ones(2, device="meta")), r"^slerp: w must be on cpu, got meta"),
]


@pytest.mark.parametrize("arguments,message", REFUSED, ids=[message[9:30] for _, message in REFUSED])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.slerp(*arguments)


@pytest.mark.parametrize(
    "out,message",
    [
        (3, "out must be a tensor, got int"),
        (torch.empty(3, 2), r"out must have shape \[2, 3\]"),
        (torch.empty(2, 3, dtype=torch.float64), "out must be torch.float32, got torch.float64"),
        (torch.empty(3, 2).t(), "out must be contiguous"),
        (X, "out must not overlap an input"),
        (torch.empty(2, 3, requires_grad=True), "out must be used without gradients"),
    ],
    ids=str,
)
def test_an_out_that_cannot_be_written_is_refused(out, message):
    with pytest.raises(ValueError, match=f"^slerp: {message}"):
        ops.slerp(X, X + 1, 0.5, out=out)
