# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest
import torch
from intarsia.ops import _plan

SIZES = ((10, 12), (4, 5), (False, True))


def offsets(*rows):
    return torch.tensor(rows)


def test_a_plan_belongs_to_content_not_to_objects():
    one, two = offsets([0, 0], [6, 7]), offsets([0, 0], [6, 7])
    plan = _plan.get_plan("f", one, *SIZES)
    assert _plan.get_plan("f", two, *SIZES) is plan
    one[0, 0] = 3
    changed = _plan.get_plan("f", one, *SIZES)
    assert changed is not plan and plan.offsets[0, 0] == 0 and changed.offsets[0, 0] == 3


@pytest.mark.parametrize(
    "sizes",
    [((11, 12), (4, 5), (False, True)), ((10, 12), (4, 4), (False, True)), ((10, 12), (4, 5), (True, True))],
)
def test_every_part_of_the_geometry_counts(sizes):
    there = offsets([0, 0], [6, 7])
    assert _plan.get_plan("f", there, *sizes) is not _plan.get_plan("f", there, *SIZES)


def test_the_same_bytes_in_another_shape_are_another_plan():
    flat = _plan.get_plan("f", torch.tensor([[0], [0], [1], [1]]), (9,), (3,), (False,))
    square = _plan.get_plan("f", torch.tensor([[0, 0], [1, 1]]), (9, 9), (3, 3), (False, False))
    assert flat.num_regions == 4 and square.num_regions == 2


def test_plans_are_forgotten_and_made_again():
    first = _plan.get_plan("f", offsets([0, 0]), *SIZES)
    for i in range(65):
        _plan.get_plan("f", offsets([i % 7, i // 7]), *SIZES)
    again = _plan.get_plan("f", offsets([0, 0]), *SIZES)
    assert again is not first and torch.equal(again.offsets, first.offsets)
    assert len(_plan._ready) <= 128


def test_checks_are_remembered_for_what_they_looked_at():
    calls = []

    def check():
        calls.append(1)
        return (1,), _plan.get_plan("f", offsets([0, 0]), *SIZES)

    _plan._ready.clear()
    host = torch.device("cpu")
    for there in (offsets([0, 0]), offsets([0, 0]), offsets([1, 0])):
        _plan.prepare("f", there, (1,), check, host)
    _plan.prepare("f", offsets([0, 0]), (2,), check, host)
    _plan.prepare("g", offsets([0, 0]), (1,), check, host)
    assert len(calls) == 4


def test_a_failed_check_is_made_again():
    def refuse():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            _plan.prepare("f", offsets([0, 0]), ("refused",), refuse, torch.device("cpu"))


def test_threads_may_share_a_plan():
    _plan._cached.cache_clear()
    plans, regions = [], torch.cartesian_prod(torch.arange(7), torch.arange(12))

    def build():
        plan = _plan.get_plan("f", regions, *SIZES)
        plans.append((plan.cell_region.clone(), plan.uncovered))

    workers = [threading.Thread(target=build) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(plans) == 16
    assert all(torch.equal(lists, plans[0][0]) and gap == (0, None) for lists, gap in plans)


def test_content_is_what_numpy_says():
    there = torch.randint(-(2**62), 2**62, (5, 3))
    assert _plan.content("f", there) == there.numpy().tobytes()
    assert _plan.content("f", there[:0]) == b""
    for sparse in (there.T, there[::2], there[:1].expand(4, 3)):
        assert _plan.content("f", sparse) == sparse.numpy().tobytes()


@pytest.mark.parametrize(
    "bad,got",
    [
        (torch.zeros(1, 2, dtype=torch.int32), "torch.int32 on cpu"),
        (torch.zeros(1, 2), "torch.float32 on cpu"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), "torch.int64 on meta"),
        (torch.zeros(1, 2, dtype=torch.int64).to_sparse(), "torch.int64 on cpu as torch.sparse_coo"),
    ],
)
def test_memory_that_does_not_hold_the_integers_is_not_read(bad, got):
    with pytest.raises(ValueError, match=f"^f: offsets must be int64 on the CPU, got {got}[.] "):
        _plan.get_plan("f", bad, *SIZES)
    with pytest.raises(ValueError, match=f"^f: offsets must be int64 on the CPU, got {got}[.] "):
        _plan.prepare("f", bad, (), pytest.fail, torch.device("cpu"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_gets_its_copy_once():
    plan, device = _plan.get_plan("f", offsets([0, 0]), *SIZES), torch.device("cuda:0")
    copy = plan.on(device)
    assert copy is plan.on(device) and copy.offsets.device == device and copy.edges[0].device == device
    assert plan.on(torch.device("cpu")) is plan and copy.uncovered == plan.uncovered
