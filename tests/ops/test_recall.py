# SPDX-License-Identifier: Apache-2.0
"""Repeated calls go straight to the kernel, and whatever may have changed between two calls is seen."""

from __future__ import annotations

import gc
import importlib
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from intarsia import ops
from intarsia.ops._recall import recall
from torch.utils._python_dispatch import TorchDispatchMode

EXTRACT = importlib.import_module("intarsia.ops.extract_patches")
SCATTER = importlib.import_module("intarsia.ops.scatter_average")
SIZE, PATCH = (6, 9), (4, 5)

pytestmark = pytest.mark.skipif(
    recall("extract_patches") is None, reason="no compiled CPU backend, or an unknown PyTorch"
)


@pytest.fixture(autouse=True)
def fresh():
    recall("extract_patches").forget()
    recall("scatter_average").forget()


@pytest.fixture
def places():
    return torch.tensor([[0, 0], [2, 4], [1, 2], [2, 0], [0, 4]])


def cut(canvas, places, **more):
    return ops.extract_patches(canvas, offsets=places, size=PATCH, **more)


def window(dtype=torch.float32):
    return torch.ones(4, dtype=dtype), torch.linspace(1, 2, 5, dtype=dtype)


def merge(patches, places, weight, **more):
    return ops.scatter_average(patches, offsets=places, weight=weight, size=SIZE, **more)


def slowly(function, *args, **kwargs):
    for name in ("extract_patches", "scatter_average"):
        recall(name).forget()
    result = function(*args, **kwargs)
    for name in ("extract_patches", "scatter_average"):
        recall(name).forget()
    return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_same_bits_again(places, dtype):
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    weight = window(sums)
    for _ in range(3):
        canvas = torch.randn(2, 3, *SIZE).to(dtype)
        patches = cut(canvas, places)
        assert torch.equal(patches, slowly(cut, canvas, places))
        cut(canvas, places)
        merged = merge(patches, places, weight)
        assert torch.equal(merged, slowly(merge, patches, places, weight))
        for _ in range(2):
            cut(canvas, places), merge(patches, places, weight)
        assert len(EXTRACT._calls) == len(SCATTER._calls) == 1
        full = (torch.rand(1, *PATCH, dtype=sums) + 0.5,)
        for _ in range(2):
            merged = merge(patches, places, full, normalize=False, dtype=torch.float32)
        assert torch.equal(merged, slowly(merge, patches, places, full, normalize=False, dtype=torch.float32))
        merge(patches, places, weight)


def test_offsets_that_change_in_place_are_seen_even_through_numpy(places):
    canvas = torch.randn(1, 1, *SIZE)
    before = cut(canvas, places)
    assert torch.equal(cut(canvas, places), before)
    places.numpy()[0] = (1, 1)
    after = cut(canvas, places)
    assert torch.equal(after[:, 0], canvas[:, :, 1:5, 1:6]) and torch.equal(after[:, 1:], before[:, 1:])
    places.numpy()[0] = (3, 0)
    for _ in range(2):
        with pytest.raises(ValueError, match="extract_patches: "):
            cut(canvas, places)
    places.resize_(2, 2)
    assert cut(canvas, places.copy_(torch.tensor([[0, 0], [2, 4]]))).shape == (1, 2, 1, *PATCH)


@pytest.mark.parametrize(
    "change",
    [
        {"canvas": torch.randn(2, 1, *SIZE)},
        {"canvas": torch.randn(1, 1, *SIZE).double()},
        {"canvas": torch.randn(1, 1, 9, 6).mT},
        {"canvas": torch.randn(1, 1, *SIZE, requires_grad=True)},
        {"canvas": torch.nn.Parameter(torch.randn(1, 1, *SIZE))},
        {"size": [4, 5]},
        {"size": (2, 2)},
        {"wrap": (False, True)},
        {"dtype": torch.float16},
        {"scale": torch.ones(1)},
        {"copies": 2},
    ],
    ids=str,
)
def test_another_argument_is_another_call(places, change):
    canvas = torch.randn(1, 1, *SIZE)
    first = {"canvas": canvas, "offsets": places, "size": PATCH}
    for _ in range(2):
        ops.extract_patches(**first)
    for _ in range(2):
        result = ops.extract_patches(**(first | change))
    with ops.use_backend("reference"):
        assert torch.equal(result, ops.extract_patches(**(first | change)))


def test_inputs_that_no_kernel_takes_are_refused_as_ever(places):
    for _ in range(2):
        cut(torch.randn(1, 1, *SIZE), places)
    with pytest.raises(ValueError, match="canvas must be float16"):
        cut(torch.ones(1, 1, *SIZE, dtype=torch.int32), places)
    with pytest.raises(ValueError, match="canvas must be a tensor"):
        cut([1.0], places)
    weight, patches = window(), torch.randn(1, 5, 1, *PATCH)
    for _ in range(2):
        merge(patches, places, weight)
    bad = (weight[0], weight[1].clone().fill_(float("nan")))
    with pytest.raises(ValueError, match="scatter_average: weight must be finite"):
        merge(patches, places, bad)
    with pytest.raises(ValueError, match="scatter_average: x must be given with a"):
        merge(patches, places, weight, a=0.5)


def test_out(places):
    canvas, out = torch.randn(1, 2, *SIZE), torch.empty(1, 5, 2, *PATCH)
    expected = cut(canvas, places)
    for _ in range(2):
        version = out._version
        out.detach().fill_(float("nan"))
        assert cut(canvas, places, out=out) is out
        assert torch.equal(out, expected) and out._version > version
    halves = torch.empty_like(out, dtype=torch.bfloat16)
    assert torch.equal(cut(canvas, places, out=halves), expected.to(torch.bfloat16))
    with pytest.raises(ValueError, match="out must have shape"):
        cut(canvas, places, out=out[:, :4])
    with pytest.raises(ValueError, match="out must be contiguous"):
        cut(canvas, places, out=torch.empty(1, 5, 2, 5, 4).mT)
    with pytest.raises(ValueError, match="out must be torch.float16, got torch.float32"):
        cut(canvas, places, out=out, dtype=torch.float16)
    memory = torch.randn(1, 5, 2, *PATCH)
    with pytest.raises(ValueError, match="out must not overlap an input"):
        cut(memory.view(-1)[: canvas.numel()].view(canvas.shape), places, out=memory)
    with pytest.raises(ValueError, match="out must be used without gradients"):
        cut(canvas, places, out=out.clone().requires_grad_())


def test_a_first_call_into_other_halves_leaves_the_dtype_of_later_ones_alone(places):
    canvas, weight = torch.randn(1, 2, *SIZE), window()
    for _ in range(2):
        cut(canvas, places, out=torch.empty(1, 5, 2, *PATCH, dtype=torch.bfloat16))
        patches = cut(canvas, places)
        merge(patches, places, weight, out=torch.empty(1, 2, *SIZE, dtype=torch.bfloat16))
        assert patches.dtype is merge(patches, places, weight).dtype is torch.float32
        assert cut(canvas, places, dtype=torch.bfloat16).dtype is torch.bfloat16


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_who_watches_or_transforms_sees_the_operator(places):
    canvas = torch.randn(3, 1, 1, *SIZE)
    expected = [cut(one, places) for one in canvas]
    with Watch() as watch:
        cut(canvas[0], places)
    assert torch.ops.intarsia.extract_patches.default in watch.seen
    with torch.profiler.profile() as profile:
        cut(canvas[0], places)
    assert any("extract_patches" in event.name for event in profile.events())
    mapped = torch.vmap(lambda one: cut(one, places))(canvas)
    assert torch.equal(mapped, torch.stack(expected))
    assert cut(canvas[0].to("meta"), places).is_meta
    with ops.use_backend("reference"):
        assert torch.equal(cut(canvas[0], places), expected[0])
    negated = torch._neg_view(canvas[0])
    assert torch.equal(cut(negated, places), -expected[0])


def test_it_forgets():
    canvas = torch.randn(1, 1, *SIZE)
    last = torch.tensor([[0, 0]])
    watched = weakref.ref(last)
    cut(canvas, last)
    del last
    for index in range(100):
        cut(canvas, torch.tensor([[index % 3, index % 5]]))
    gc.collect()
    assert watched() is None and len(EXTRACT._calls) <= 32


def test_sixteen_threads(places):
    canvases = [torch.randn(1, 2, *SIZE) for _ in range(4)]
    others = [places.clone() for _ in range(40)]
    expected = [cut(canvas, places) for canvas in canvases]

    def work(index):
        canvas = index % 4
        return torch.equal(cut(canvases[canvas], others[index % 40]), expected[canvas])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(2000)))
