# SPDX-License-Identifier: Apache-2.0
"""The way past the dispatcher is taken only where the dispatcher would do nothing."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from intarsia.ops import _library
from oracle import PROBLEMS
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PROBLEM = PROBLEMS["ring"]
WEIGHT = tuple(torch.ones(extent) for extent in PROBLEM.patch)


def extract(canvas, **more):
    return ops.extract_patches(canvas, size=PROBLEM.patch, **PROBLEM.geometry, **more)


def scatter(patches, **more):
    return ops.scatter_average(patches, size=PROBLEM.canvas, **{"weight": WEIGHT, **PROBLEM.geometry, **more})


@pytest.fixture
def canvas():
    return torch.randn(2, 3, *PROBLEM.canvas)


def test_plain_tensors_go_past_the_dispatcher(canvas):
    trained = torch.nn.Parameter(canvas)
    assert _library.direct(canvas, None, canvas[:, :, ::2])
    assert not _library.direct(trained) and not _library.direct(canvas, trained)
    with torch.no_grad():
        assert _library.direct(trained)
    with torch.inference_mode():
        assert _library.direct(canvas, canvas + 1)
    assert _library.direct(torch.ones(1)), "nothing may linger after a mode has ended"


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


class Watcher(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen = [*getattr(self, "seen", []), function]
        return function(*args, **(kwargs or {}))


def test_modes_see_the_operator(canvas):
    with Recorder() as mode:
        extract(canvas)
    assert torch.ops.intarsia.extract_patches.default in mode.seen
    with Watcher() as mode:
        extract(canvas)
    assert torch.ops.intarsia.extract_patches.default in mode.seen


def test_the_profiler_sees_the_operator(canvas):
    with torch.profiler.profile() as profile:
        extract(canvas)
    assert "intarsia::extract_patches" in {event.key for event in profile.key_averages()}


class Tagged(torch.Tensor):
    pass


def test_subclasses_keep_their_class(canvas):
    tagged = canvas.as_subclass(Tagged)
    assert not _library.direct(tagged)
    assert isinstance(extract(tagged), Tagged) and torch.equal(extract(tagged), extract(canvas))


def test_lazy_negation_is_resolved(canvas):
    lazy = torch.complex(canvas, canvas).conj().imag
    assert lazy.is_neg() and not _library.direct(lazy)
    assert torch.equal(extract(lazy), -extract(canvas))


def test_fake_tensors_stay_fake(canvas):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(canvas)
        patches = extract(fake, dtype=torch.float16)
        assert patches.shape == (2, 6, 3, *PROBLEM.patch) and patches.dtype is torch.float16
        merged = scatter(patches, weight=tuple(torch.ones(extent) for extent in PROBLEM.patch))
        assert merged.shape == canvas.shape
    meta = extract(canvas.to("meta"))
    assert meta.device.type == "meta" and meta.shape == patches.shape


def test_make_fx_records_the_operators(canvas):
    graph = make_fx(lambda x: scatter(extract(x)))(canvas)
    targets = [node.target for node in graph.graph.nodes]
    assert torch.ops.intarsia.extract_patches.default in targets
    assert torch.ops.intarsia.scatter_average.default in targets
    other = torch.randn_like(canvas)
    torch.testing.assert_close(graph(other), other)


def test_export_records_the_operator(canvas):
    class Cut(torch.nn.Module):
        def forward(self, x):
            return extract(x)

    program = torch.export.export(Cut(), (canvas,))
    assert torch.equal(program.module()(canvas), extract(canvas))
    assert "intarsia.extract_patches" in program.graph_module.code


def test_vmap_is_a_larger_batch(canvas):
    many = torch.randn(4, *canvas.shape)
    scale = torch.rand(4, 2)
    for dim in (0, 2):
        patches = torch.vmap(extract, in_dims=dim)(many.movedim(0, dim))
        assert torch.equal(patches, torch.stack([extract(one) for one in many]))
    both = torch.vmap(lambda x, s: extract(x, scale=s))(many, scale)
    assert torch.equal(both, torch.stack([extract(x, scale=s) for x, s in zip(many, scale, strict=True)]))
    merged = torch.vmap(scatter)(patches)
    assert torch.equal(merged, torch.stack([scatter(one) for one in patches]))
    nested = torch.vmap(torch.vmap(lambda x: extract(x[None])))(many)
    assert torch.equal(nested[:, :, 0], patches)
    with pytest.raises(
        ValueError, match="extract_patches: canvas must be mapped over by a vmap, got a vmap ov"
    ):
        torch.vmap(lambda s: extract(canvas, scale=s))(scale)
    with pytest.raises(ValueError, match="extract_patches: offsets must be shared by a vmap"):
        there = torch.tensor(PROBLEM.offsets).expand(4, -1, -1)
        call = torch.ops.intarsia.extract_patches
        torch.vmap(lambda o: call(canvas, o, list(PROBLEM.patch), [False, True], None, None))(there)
    with pytest.raises(ValueError, match="scatter_average: patches must be all that a vmap maps over"):
        torch.vmap(lambda c: scatter(patches[0], coefficient=c))(torch.rand(3, 6))


def test_func_grad_is_right_or_refused(canvas):
    trained = canvas.clone().requires_grad_()
    extract(trained).square().sum().backward()
    try:
        gradient = torch.func.grad(lambda x: extract(x).square().sum())(canvas)
    except RuntimeError as error:
        assert "functorch transforms" in str(error), "PyTorch cannot transform such operators yet"
    else:
        assert torch.equal(gradient, trained.grad)


def test_forward_mode_is_refused_not_ignored(canvas):
    message = "tensors must carry no forward-mode tangents"
    with pytest.raises(ValueError, match=f"extract_patches: {message}"):
        torch.func.jvp(extract, (canvas,), (canvas,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(canvas, canvas)
        with pytest.raises(ValueError, match=message):
            extract(dual)
        assert torch.equal(extract(canvas), extract(canvas.clone()))


def test_out_tells_autograd_that_it_was_written(canvas):
    out = torch.zeros(2, 6, 3, *PROBLEM.patch)
    kept = (torch.ones_like(out).requires_grad_() * out).sum()
    extract(canvas, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()
    with torch.inference_mode():
        inside = torch.empty_like(out)
        assert extract(canvas, out=inside) is inside and torch.equal(inside, out)


def test_the_registered_operators_check_their_arguments_themselves(canvas):
    call = torch.ops.intarsia.extract_patches
    with pytest.raises(ValueError, match="size must not let a patch exceed the canvas"):
        call(canvas, torch.tensor([[0, 0]]), [7, 8], [False, False], None, None)
    with pytest.raises(ValueError, match="scale must not require grad"):
        scale = torch.ones(2, requires_grad=True)
        call(canvas, torch.tensor([[0, 0]]), [4, 8], [False, False], scale, None)
    weight = [torch.ones(1, *PROBLEM.patch, requires_grad=True)]
    with pytest.raises(ValueError, match="weight must not require grad"):
        offsets = torch.tensor(PROBLEM.offsets)
        torch.ops.intarsia.weight_total(offsets, weight, [6, 16], [False, True], None)


def registered(offsets, device=None):
    """Each registered operator called with these offsets."""
    wrap, size, patch = [False, True], [6, 16], list(PROBLEM.patch)
    canvas = torch.ones(1, 1, *size, device=device)
    patches = torch.ones(1, offsets.shape[0], 1, *patch, device=device)
    weight = [torch.ones(extent, device=device) for extent in patch]
    op = torch.ops.intarsia
    return {
        "extract_patches": lambda: op.extract_patches(canvas, offsets, patch, wrap, None, None),
        "scatter_average": lambda: op.scatter_average(
            patches, offsets, weight, size, wrap, False, None, None
        ),
        "weight_total": lambda: op.weight_total(offsets, weight, size, wrap, None),
    }


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["extract_patches", "scatter_average", "weight_total"])
def test_the_registered_operators_read_no_foreign_memory(name, device):
    for offsets, got in (
        (torch.zeros(1, 2, dtype=torch.int32), "torch.int32 on cpu"),
        (torch.zeros(1, 2, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), "torch.int64 on meta"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: offsets must be int64 on the CPU, got {got}[.]"):
            registered(offsets, device)[name]()


@pytest.mark.parametrize("name", ["extract_patches", "scatter_average", "weight_total"])
def test_the_registered_operators_take_offsets_of_any_strides(name):
    wide = torch.tensor([[0, 1, 0], [9, 9, 9], [1, 2, 2]])
    for offsets in (wide[::2].T, wide[::2, 1:], wide[2:, 1:].expand(3, 2)):
        dense = registered(offsets.clone(memory_format=torch.contiguous_format))
        assert torch.equal(registered(offsets)[name](), dense[name]())
