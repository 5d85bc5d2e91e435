# SPDX-License-Identifier: Apache-2.0
"""rope as PyTorch sees it: opcheck, derivatives, torch.compile; and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import rope_oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from oracle import FUZZ, FUZZ_INTERPRETED
from rope_oracle import PAIRINGS
from test_strides import LAYOUTS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SAMPLES = list(itertools.product(DTYPES, (True, False), ("both", "packed", "alone")))


def sample(dtype, kind, dim=12):
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    if kind == "packed":
        x = [h.transpose(1, 2) for h in torch.randn(2, 5, 3, 4, dim).to(dtype).unbind(2)[:2]]
    else:
        x = [torch.randn(2, heads, 5, dim).to(dtype) for heads in (4, 2)][: 1 + (kind == "both")]
    places = torch.randn(5, 2) if kind == "alone" else torch.randn(2, 5, 3)
    return x, ops.rope_table(places, dim, dtype=sums)


@pytest.mark.parametrize("dtype,interleaved,kind", SAMPLES)
def test_opcheck(dtype, interleaved, kind):
    op, check = torch.ops.intarsia, torch.library.opcheck
    x, table = sample(dtype, kind)
    check(op.rope_out.default, (x, table, interleaved, [torch.empty_like(heads) for heads in x]))
    check(op.rope_.default, ([heads.clone() for heads in x], table, interleaved))
    grad = dtype in (torch.float32, torch.float64)
    x = [heads.requires_grad_(grad) for heads in x]
    check(op.rope.default, (x, table, interleaved, kind == "packed"))


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("kind", ["both", "packed", "alone"])
def test_derivatives(kind, pairing):
    x, table = sample(torch.float64, kind, dim=6)
    x = [heads.requires_grad_() for heads in x]

    def turned(*heads):
        result = ops.rope(*heads, table=table, pairing=pairing)
        return tuple(h for h in result if h is not None)

    assert torch.autograd.gradcheck(turned, x) and torch.autograd.gradgradcheck(turned, x)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_gradient_is_the_rotation_back(backend, dtype, pairing):
    backend.keep_to(dtype is torch.float32)
    places = torch.randn(5, 2, device=backend.device)
    q, k, g = (torch.randn(2, n, 5, 8, device=backend.device).to(dtype) for n in (3, 2, 3))
    q.requires_grad_()
    ops.rope(q, k, places, pairing=pairing)[0].backward(g)
    assert torch.equal(q.grad, ops.rope(g, positions=-places, pairing=pairing)[0])
    q.grad = None
    k.requires_grad_()
    ops.rope(q, k, places, pairing=pairing)[1].sum().backward()
    assert q.grad is None and k.grad.shape == k.shape
    both = ops.rope(q, k, places, pairing=pairing)
    (both[0].float().sum() + both[1].float().sum()).backward()
    assert q.grad is not None and bool(k.grad.isfinite().all())


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph(compiler):
    def products(packed, places):
        q, k, _ = (2 * packed).unbind(2)
        a, b = ops.rope(q, k, places, heads_axis=2)
        return a * b + a

    compiled = compiler(products, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (6, 9):
        packed, places = torch.randn(2, tokens, 3, 4, 8, requires_grad=True), torch.randn(tokens, 2)
        out, expected = compiled(packed, places), products(packed, places)
        torch.testing.assert_close(out, expected)
        (ours,) = torch.autograd.grad(out.sum(), packed)
        (theirs,) = torch.autograd.grad(expected.sum(), packed)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore")
def test_compiled_writes_reach_their_tensors(compiler):
    def write(packed, pool, table):
        q, k, _ = packed.unbind(2)
        ops.rope(q, k, table=table, heads_axis=2, out=(pool[0], pool[1]))
        a, b = ops.rope(q, k, table=table, heads_axis=2)
        ops.rope(q, k, table=table, heads_axis=2, inplace=True)
        return pool + 1, a - b

    packed, table = torch.randn(2, 6, 3, 4, 8), ops.rope_table(torch.randn(6), 8)
    q, k, v = packed.clone().unbind(2)
    expected = ops.rope(q, k, table=table, heads_axis=2)
    pool = torch.zeros(2, 2, 6, 4, 8)
    more, apart = compiler(write, backend="inductor", fullgraph=True)(packed, pool, table)
    assert torch.equal(pool, torch.stack(expected)) and torch.equal(more, pool + 1)
    assert torch.equal(apart, expected[0] - expected[1])
    assert torch.equal(packed, torch.stack((*expected, v), 2))


drawn = {
    "shape": st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 3), st.integers(1, 9)),
    "pairs": st.integers(3, 40),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "dtype": st.sampled_from(DTYPES),
    "seed": st.integers(0, 2**31),
}
few = drawn | {
    "shape": st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 1), st.integers(1, 6)),
    "pairs": st.integers(3, 12),
}


def check(shape, pairs, layout, dtype, seed, device):
    torch.manual_seed(seed)
    batch, *heads, tokens = shape
    pairing, heads_axis, inplace, axes = (
        PAIRINGS[seed % 2],
        1 + seed // 2 % 2,
        seed // 4 % 2 > 0,
        1 + seed // 8 % 3,
    )
    places = 30 * (torch.randn(batch, tokens, axes) if seed // 24 % 2 else torch.randn(tokens, axes))
    counts = heads if heads[1] else heads[:1]
    exact, given = [], []
    for count in counts:
        x = torch.randn(batch, count, tokens, 2 * pairs).to(dtype)
        exact.append(rope_oracle.rope(x, places, pairing))
        x = layout(x.transpose(1, 2) if heads_axis == 2 else x).to(device)
        given.append(x.clone(memory_format=torch.contiguous_format) if inplace and x.stride(-1) != 1 else x)
    how = {"pairing": pairing, "heads_axis": heads_axis, "inplace": inplace}
    turned = ops.rope(given[0], given[1] if len(given) > 1 else None, places.to(device), **how)
    rtol, atol = {
        torch.float16: (2**-9, 1e-6),
        torch.bfloat16: (2**-7, 1e-6),
        torch.float32: (1e-6, 2e-6),
        torch.float64: (1e-13, 1e-13),
    }[dtype]
    for ours, expected in zip(turned, exact, strict=False):
        ours = ours.transpose(1, 2) if heads_axis == 2 else ours
        torch.testing.assert_close(ours.cpu().double(), expected, rtol=rtol, atol=atol)


@FUZZ
@given(**drawn)
def test_fuzz(device, **case):
    check(**case, device=device)


@pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])
@FUZZ_INTERPRETED
@given(**few)
def test_fuzz_interpreted(**case):
    with ops.use_backend("triton"):
        check(**case, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


Q, K, TABLE = torch.randn(2, 3, 5, 8), torch.randn(2, 2, 5, 8), ops.rope_table(torch.arange(5), 8)
MANY = torch.randn(5, 2)
REFUSED = [
    ("rope: q must be a tensor .B, H, T, D., got list", ([1.0],), {"table": TABLE}),
    (r"rope: q must be a tensor .B, T, H, D., got shape \[3, 5, 8\]", (Q[0],), {"heads_axis": 2}),
    ("rope: k must be a tensor", (Q, 3.0), {"table": TABLE}),
    ("rope: q must be float16, bfloat16, float32 or float64, got torch.int64", (Q.long(),), {"table": TABLE}),
    ("rope: q must have an even number of channels, got 7", (Q[..., :7],), {"table": TABLE}),
    ("rope: k must be torch.float32 on cpu, as q is, got torch.float16", (Q, K.half()), {"table": TABLE}),
    ("rope: k must share B, T and D with q, got", (Q, K[:, :, :4]), {"table": TABLE}),
    ("rope: positions or table must be given, one of them, got neither", (Q, K), {}),
    ("rope: positions or table must be given, one of them, got both", (Q, K, MANY), {"table": TABLE}),
    (r"rope: table must have shape \[T, 2, D/2\] = \[5, 2, 4\]", (Q,), {"table": TABLE[:4]}),
    (r"rope: table must have shape \[T, 2, D/2\]", (Q,), {"table": TABLE.expand(3, 5, 2, 4)}),
    ("rope: table must be a tensor, got float", (Q,), {"table": 1.0}),
    ("rope: table must be on cpu, got meta", (Q,), {"table": TABLE.to("meta")}),
    ("rope: table must not require grad", (Q,), {"table": TABLE.clone().requires_grad_()}),
    ("rope: frequencies must be None with a table", (Q,), {"table": TABLE, "frequencies": [[1.0] * 4]}),
    ("rope: positions must be on cpu, got meta", (Q, K, MANY.to("meta")), {}),
    ("rope: pairing must be 'interleaved' or 'half', got 'neox'", (Q, K, MANY), {"pairing": "neox"}),
    ("rope: heads_axis must be 1 or 2, got 3", (Q, K, MANY), {"heads_axis": 3}),
    ("rope_table: positions must be a tensor .T, n. or .B, T, n. of numbers", (Q, K, [1.0]), {}),
    ("rope_table: positions must be a tensor .* got shape", (Q, K, torch.zeros(5, 4)), {}),
    ("rope_table: positions must be a tensor .* got torch.bool", (Q, K, MANY > 0), {}),
    (
        "rope_table: positions and frequencies must not require grad",
        (Q, K, MANY.clone().requires_grad_()),
        {},
    ),
    (
        "rope_table: positions and frequencies must not require grad",
        (Q, K, MANY),
        {"frequencies": [torch.ones(2), torch.ones(2, requires_grad=True)]},
    ),
    (
        "rope_table: frequencies must be one list for each of the 2 axes",
        (Q, K, MANY),
        {"frequencies": [[1.0]]},
    ),
    (
        "rope_table: frequencies must have rank 1 and D / 2 = 4 entries in all",
        (Q, K, MANY),
        {"frequencies": [[1.0], [1.0, 2.0]]},
    ),
]


@pytest.mark.parametrize("match,arguments,more", REFUSED, ids=range(len(REFUSED)))
def test_refused(match, arguments, more):
    with pytest.raises(ValueError, match=match):
        ops.rope(*arguments, **more)


def test_tables_and_frequencies_refuse_what_has_no_meaning():
    for match, arguments, more in (
        ("dim must be even and positive, got 7", (7,), {}),
        ("axes must be 1, 2 or 3, got 4", (8, 4), {}),
        ("dim must hold a pair of channels for each of the 3 axes, got 4", (4, 3), {}),
        ("theta must be positive and finite, got 0", (8,), {"theta": 0}),
        ("period must have one entry for each of the 2 axes, got 1 entries", (8, 2), {"period": (3,)}),
        ("period must be positive and finite, got -1", (8,), {"period": (-1,)}),
    ):
        with pytest.raises(ValueError, match=f"rope_frequencies: {match}"):
            ops.rope_frequencies(*arguments, **more)
    with pytest.raises(ValueError, match="rope_table: dtype must be float32 or float64, got torch.float16"):
        ops.rope_table(MANY, 8, dtype=torch.float16)


def test_the_registered_operators_check_for_themselves():
    call = torch.ops.intarsia
    with pytest.raises(ValueError, match="rope: table must be torch.float32, got torch.float64"):
        call.rope([Q], TABLE.double(), True, False)
    with pytest.raises(ValueError, match="rope: out must hold 2 tensors, got 1"):
        call.rope_out([Q, K], TABLE, True, [torch.empty_like(Q)])
    with pytest.raises(ValueError, match="rope: table must not require grad"):
        call.rope([Q.clone().requires_grad_()], TABLE.clone().requires_grad_(), True, False)
    with pytest.raises(ValueError, match=r"rope: q must have shape \[B, H, T, D\]"):
        call.rope([Q[0]], TABLE, True, False)
