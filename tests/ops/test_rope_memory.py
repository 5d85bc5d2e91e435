# SPDX-License-Identifier: Apache-2.0
"""Where rope reads and writes: any strides, packed tensors, in place, destinations, what may overlap."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from intarsia.ops._memory import may_repeat, may_share
from rope_oracle import PAIRINGS
from test_strides import LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")
pairings = pytest.mark.parametrize("pairing", PAIRINGS)


def case(backend, dtype=torch.float32, tokens=6, dim=20):
    q, k = torch.randn(2, 4, tokens, dim).to(dtype), torch.randn(2, 2, tokens, dim).to(dtype)
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    return q, k, ops.rope_table(7 * torch.randn(tokens, 2, device=backend.device), dim, dtype=sums)


@pairings
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_equal_bits_for_any_strides(backend, dtype, layout, pairing):
    backend.keep_to(dtype is torch.float32 and pairing == "half")
    q, k, table = case(backend, dtype)
    expected = ops.rope(q.to(backend.device), k.to(backend.device), table=table, pairing=pairing)
    given = [layout(x).to(backend.device) for x in (q, k)]
    for ours, theirs in zip(ops.rope(*given, table=table, pairing=pairing), expected, strict=True):
        assert torch.equal(ours, theirs) and ours.stride(-1) == 1


@pairings
@pytest.mark.parametrize("count", [1, 3])
def test_packed_heads_are_turned_where_they_lie(backend, dtype, pairing, count):
    backend.keep_to(dtype is torch.float32)
    packed = torch.randn(2, 6, 3, count, 16, device=backend.device).to(dtype)  # [B, T, 3, H, D]
    q, k, v = packed.clone().unbind(2)
    table = case(backend, dtype, dim=16)[2]
    expected = ops.rope(
        q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous(), table=table, pairing=pairing
    )
    fresh = ops.rope(q, k, table=table, heads_axis=2, pairing=pairing)
    for ours, theirs in zip(fresh, expected, strict=True):
        assert ours.is_contiguous() and torch.equal(ours.transpose(1, 2), theirs)
    there = torch.full_like(packed, float("nan"))
    ops.rope(q, k, table=table, heads_axis=2, pairing=pairing, out=(there[:, :, 0], there[:, :, 2]))
    assert torch.equal(there[:, :, 0], fresh[0]) and torch.equal(there[:, :, 2], fresh[1])
    assert bool(there[:, :, 1].isnan().all())
    result = ops.rope(q, k, table=table, heads_axis=2, pairing=pairing, inplace=True)
    assert result[0] is q and result[1] is k
    assert torch.equal(q, fresh[0]) and torch.equal(k, fresh[1]) and torch.equal(v, packed[:, :, 2])


def test_results_keep_the_memory_order_of_their_sources(backend):
    q, k, table = (x.to(backend.device) for x in case(backend))
    across = q.transpose(1, 2).contiguous().transpose(1, 2)
    turned = ops.rope(across, k, table=table)
    assert turned[0].stride() == across.stride() and turned[1].is_contiguous()


def test_part_of_the_channels_may_turn(backend):
    q, k, _ = (x.to(backend.device) for x in case(backend))
    places = torch.rand(6, device=backend.device)
    before = q.clone()
    ops.rope(q[..., :12], positions=places, inplace=True)
    assert torch.equal(q[..., 12:], before[..., 12:])
    assert torch.equal(q[..., :12], ops.rope(before[..., :12], positions=places)[0])


@pairings
def test_in_place_and_out_give_the_same_bits(backend, dtype, pairing):
    backend.keep_to(dtype is torch.float32)
    q, k, table = (x.to(backend.device) for x in case(backend, dtype, 33, 66))
    expected = ops.rope(q, k, table=table, pairing=pairing)
    out = torch.empty_like(q), torch.empty_like(k)
    versions = [x._version for x in (*out, q, k)]
    assert ops.rope(q, k, table=table, pairing=pairing, out=out) == out
    alone = torch.empty_like(q)
    assert ops.rope(q, table=table, pairing=pairing, out=(alone, None))[1] is None
    ops.rope(q, k, table=table, pairing=pairing, inplace=True)
    for ours in (out, (q, k), (alone, k)):
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
    assert all(x._version > before for x, before in zip((*out, q, k), versions, strict=True))


def test_large_results_written_past_the_caches_are_equal(threads):
    threads(2)
    q = torch.randn(4, 3, 4096, 128)
    table = ops.rope_table(torch.rand(4096), 128)
    for pairing in PAIRINGS:
        for x in (q, q.bfloat16(), q.half()):
            expected = torch.cat([ops.rope(x[:, :, t : t + 512], table=table[t : t + 512], pairing=pairing)[0]
                                  for t in range(0, 4096, 512)], 2)  # fmt: skip
            out = torch.empty_like(x)
            assert torch.equal(ops.rope(x, table=table, pairing=pairing, out=(out, None))[0], expected)
            shifted = torch.empty(x.numel() + 8, dtype=x.dtype)[1:-7].view(x.shape)
            assert torch.equal(ops.rope(x, table=table, pairing=pairing, out=(shifted, None))[0], expected)


def test_every_instruction_set_gives_the_same_bits(dtype):
    C = pytest.importorskip("intarsia._C", reason="the compiled module is not built")
    chosen = C.build_info()["simd"]
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    try:
        for dim in (2, 6, 16, 34, 62, 64, 130):
            q, k = torch.randn(2, 3, 5, dim).to(dtype), torch.randn(2, 1, 5, dim).to(dtype)
            table = ops.rope_table(torch.randn(5), dim, dtype=sums)
            for pairing in PAIRINGS:
                results = []
                for name in ("avx512", "avx2", "baseline"):
                    if C.cpu.use_simd(name):
                        results.append(ops.rope(q, k, table=table, pairing=pairing))
                for a, b in results[1:]:
                    assert torch.equal(a, results[0][0]) and torch.equal(b, results[0][1])
                with ops.use_backend("reference"):
                    a, b = ops.rope(q, k, table=table, pairing=pairing)
                if dtype not in (torch.float16, torch.bfloat16):
                    assert torch.equal(a, results[0][0]) and torch.equal(b, results[0][1])
    finally:
        C.cpu.use_simd(chosen)


def test_a_table_leaves_nothing_to_allocate():
    q, k = torch.randn(2, 4, 512, 64), torch.randn(2, 4, 512, 64)
    table, out = ops.rope_table(torch.rand(512, 2), 64), (torch.empty_like(q), torch.empty_like(k))

    def work():
        ops.rope(q, k, table=table, out=out)
        ops.rope(q, k, table=table, inplace=True)

    work()
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    assert not [
        e.key for e in profile.key_averages() if e.self_device_memory_usage or e.self_cpu_memory_usage > 0
    ]


@pytest.mark.cuda
def test_a_captured_call_replays_on_new_values(gpu_backend):
    packed = torch.randn(2, 64, 3, 6, 32, device=gpu_backend.device).bfloat16()
    q, k, _ = packed.unbind(2)
    table = ops.rope_table(torch.rand(64, 2, device=gpu_backend.device), 32)
    there = torch.empty_like(packed)
    out = there[:, :, 0], there[:, :, 1]
    ops.rope(q, k, table=table, heads_axis=2, out=out)  # Triton compiles now
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.rope(q, k, table=table, heads_axis=2, out=out)
    for _ in range(3):
        packed.normal_()
        graph.replay()
        for ours, theirs in zip(out, ops.rope(q, k, table=table, heads_axis=2), strict=True):
            assert torch.equal(ours, theirs)


def test_what_may_share_memory():
    pool = torch.zeros(2, 6, 3, 4, 8)
    q, k, v = pool.unbind(2)
    assert not may_share(q, k) and not may_share(k, v) and not may_share(v, q)
    assert may_share(q, q) and may_share(q, q[:, 1:]) and may_share(pool, q)
    assert may_share(q[..., :6], q[..., 4:]) and not may_share(q[..., :4], q[..., 4:])
    assert not may_share(q[:, ::2], q[:, 1::2]) and may_share(q[:, ::2], q[:, 2::2])
    assert not may_share(q, torch.zeros(2, 6, 4, 8)) and not may_share(q[:0], q)
    assert (
        not may_repeat(q) and not may_repeat(pool.transpose(1, 3)) and may_repeat(q[:, :1].expand(2, 6, 4, 8))
    )
    assert may_repeat(torch.zeros(11).as_strided((4, 3), (2, 2)))
    line = torch.zeros(200)
    for shift in range(0, 60):
        one, two = line.as_strided((3, 4, 5), (40, 6, 1)), line.as_strided((3, 4, 5), (40, 6, 1), shift)
        touched = {40 * a + 6 * b + c for a in range(3) for b in range(4) for c in range(5)}
        assert may_share(one, two) == bool(touched & {place + shift for place in touched}), shift


def refused(match, *arguments, **more):
    with pytest.raises(ValueError, match=match):
        ops.rope(*arguments, **more)


def test_memory_that_must_not_be_written_is_refused():
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    table, shared = ops.rope_table(torch.rand(3), 4), "not overlap another tensor of the call"
    refused(f"rope: out must {shared}", q, k, table=table, out=(q, k))
    refused(f"rope: out must {shared}", q, k, table=table, out=(k, torch.empty_like(k)))
    same = torch.empty_like(q)
    refused(f"rope: out must {shared}", q, k, table=table, out=(same, same))
    refused(f"rope: inplace must {shared}", q, q, table=table, inplace=True)
    refused(f"rope: inplace must {shared}", q, q[:, :1], table=table, inplace=True)
    wide = torch.randn(1, 1, 3, 4).expand(1, 2, 3, 4)
    refused("rope: inplace must have one place per element", wide, table=table, inplace=True)
    refused("rope: out must have one place per element", q, table=table, out=(wide, None))
    loose = torch.randn(1, 2, 3, 8)[..., ::2]
    refused("rope: inplace must be dense along its last axis", loose, table=table, inplace=True)
    refused("rope: out must be dense along its last axis", q, table=table, out=(loose, None))
    refused("rope: out must be torch.float32", q, table=table, out=(torch.empty(1, 2, 3, 6), None))
    refused("rope: out must be torch.float32", q, table=table, out=(q.half(), None))
    refused(r"rope: out must be \(q', k'\), got", q, k, table=table, out=(torch.empty_like(q), None))
    refused(r"rope: out must be \(q', None\), got", q, table=table, out=torch.empty_like(q))
    refused("rope: out must be None with inplace=True", q, table=table, out=(k, None), inplace=True)
    trained = q.clone().requires_grad_()
    refused("rope: inplace must be used without gradients", trained, table=table, inplace=True)
    refused("rope: out must be used without gradients", trained, table=table, out=(k, None))
    with torch.no_grad():
        assert ops.rope(trained, table=table, inplace=True)[0] is trained
