# SPDX-License-Identifier: Apache-2.0
"""How long a device keeps the tables of a plan. The device is played, as no test may depend on having one."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from intarsia import ops
from intarsia.ops import _plan
from intarsia.ops._coverage import Coverage

GPU = torch.device("cuda:0")


class Table:
    device = GPU

    def __init__(self):
        self.readers = []

    def record_stream(self, stream):
        self.readers.append(stream.cuda_stream)


class Gpu:
    """What `Plan.keep` asks of torch.cuda."""

    def __init__(self):
        self.capturing, self.stream, self.device = False, 7, 0

    def enter(self, device):
        gpu = self

        class Inside:
            def __enter__(self):
                self.before, gpu.device = gpu.device, device.index

            def __exit__(self, *error):
                gpu.device = self.before

        return Inside()


@pytest.fixture
def gpu(monkeypatch):
    played = Gpu()
    monkeypatch.setattr(_plan, "_captured", set())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: played.device)
    monkeypatch.setattr(torch.cuda, "device", played.enter)
    capturing = lambda: played.capturing and played.device == GPU.index  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", capturing)
    current = lambda device: SimpleNamespace(cuda_stream=played.stream)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    return played


def copied():
    """A plan as the caches hold it, with a copy on the played device."""
    host = _plan.get_plan("f", torch.tensor([[0], [2]]), (6,), (4,), (False,))
    copy = _plan.Plan((6,), (4,), (False,), 2, Table(), Table(), host)
    host._copies[GPU] = copy
    _plan._ready["played"] = (), copy
    return copy


def covered(copy):
    copy.__dict__["coverage"] = Coverage((Table(),), (Table(),), Table(), Table(), (0, None))
    return [*copy.edges, *copy.axis_cell, copy.cell_start, copy.cell_region]


def evict():
    _plan._ready.clear()
    _plan._cached.cache_clear()
    gc.collect()


@pytest.mark.parametrize("current", [0, 1])
def test_a_captured_plan_outlives_the_caches(gpu, current):
    gpu.device = current
    plan = weakref.ref(copied())
    plan().keep()
    evict()
    assert plan() is None, "outside of a capture the caches alone decide"

    gpu.capturing = True
    plan = weakref.ref(copied())
    plan().keep()
    evict()
    assert plan() is not None and plan()._host is not None and gpu.device == current


def test_every_stream_that_reads_a_table_is_known_to_the_allocator(gpu):
    plan = copied()
    for stream in (7, 7, 9, 7, 9):
        gpu.stream = stream
        plan.keep()
    assert plan.offsets.readers == plan.order.readers == [7, 9]

    later = covered(plan)
    for stream in (9, 9, 7):
        gpu.stream = stream
        plan.keep()
    assert all(table.readers == [9, 7] for table in later)
    evict()


def test_nothing_is_asked_about_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", pytest.fail)
    _plan.get_plan("f", torch.tensor([[0], [2]]), (6,), (4,), (False,)).keep()


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_every_operator_keeps_its_plan_after_the_launch(monkeypatch, name):
    kept, backend = [], []
    with ops.use_backend(name):
        module = ops._backend.select(torch.device("cpu"))
        for function in ("extract_patches", "scatter_average", "weight_total"):
            launch = getattr(module, function)
            note = lambda *a, launch=launch, function=function: (launch(*a), backend.append(function))  # noqa: E731
            monkeypatch.setattr(module, function, note)
        monkeypatch.setattr(_plan.Plan, "keep", lambda plan: kept.append((plan.num_regions, backend[-1])))
        geometry = {"offsets": [[0], [2], [1]], "size": (6,)}
        patches = ops.extract_patches(torch.ones(1, 1, 6), offsets=geometry["offsets"], size=(4,))
        ops.scatter_average(patches, weight=(torch.ones(4),), **geometry)
        ops.weight_total(weight=(torch.ones(4),), **geometry)
    assert kept == [(3, "extract_patches"), (3, "scatter_average"), (3, "weight_total")]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_replays_after_its_plan_has_left_the_caches():
    patches, weight = torch.rand(1, 2, 1, 4, device=GPU), (torch.ones(4, device=GPU),)
    geometry = {"offsets": torch.tensor([[0], [2]]), "size": (6,), "weight": weight}
    expected = ops.scatter_average(patches, **geometry)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.scatter_average(patches, **geometry)
    evict()
    torch.cuda.empty_cache()
    clutter = [torch.full((512,), 255, dtype=torch.uint8, device=GPU) for _ in range(64)]
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected) and clutter
