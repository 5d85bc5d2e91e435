# SPDX-License-Identifier: Apache-2.0
"""First and second derivatives, against finite differences."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, Problem, starts
from torch.autograd import gradcheck, gradgradcheck

SMALL = {
    "chain": Problem((9,), (4,), [[5], [0], [3], [3]]),
    "loop": Problem((6,), (4,), [[-1], [3]], (True,)),
    "grid": Problem((4, 5), (2, 3), starts([0, 2], [0, 2])),
    "ring": Problem((3, 4), (2, 2), starts([0, 1], [1, 3]), (False, True)),
    "volume": Problem((2, 3, 3), (2, 2, 2), starts([0], [0, 1], [0, 2]), (False, False, True)),
}


def double(weight):
    return (
        weight.double() if isinstance(weight, torch.Tensor) else tuple(factor.double() for factor in weight)
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_extract(name, channels, scaled):
    problem = SMALL[name]
    canvas = problem.tensor(1, channels).double().requires_grad_()
    scale = torch.rand(1, dtype=torch.float64) if scaled else None

    def cut(x):
        return ops.extract_patches(x, size=problem.patch, scale=scale, **problem.geometry)

    assert gradcheck(cut, canvas, nondet_tol=0) and gradgradcheck(cut, canvas, nondet_tol=0)


@pytest.mark.parametrize("kind", ["factors", "windows"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_scatter(name, normalize, kind):
    problem = SMALL[name]
    weight = double(problem.weight(kind))
    patches = problem.patches(1, 1).double().requires_grad_()
    coefficient = torch.rand(len(problem.offsets), dtype=torch.float64).add_(0.3).requires_grad_()

    def merge(p, c=None):
        options = {"normalize": normalize, "coefficient": c, **problem.geometry}
        return ops.scatter_average(p, weight=weight, size=problem.canvas, **options)

    assert gradcheck(merge, (patches, coefficient), nondet_tol=0)
    assert gradgradcheck(merge, (patches, coefficient), nondet_tol=0, fast_mode=True)
    assert gradcheck(merge, (patches,), nondet_tol=0, fast_mode=True)
    assert gradcheck(lambda c: merge(patches.detach(), c), (coefficient,), nondet_tol=0, fast_mode=True)


@pytest.mark.parametrize("kind", ["factors", "window", "windows"])
@pytest.mark.parametrize("name", SMALL)
def test_total(name, kind):
    problem = SMALL[name]
    weight = double(problem.weight(kind))
    coefficient = torch.randn(len(problem.offsets), dtype=torch.float64).requires_grad_()

    def add(c):
        return ops.weight_total(problem.offsets, weight, problem.canvas, wrap=problem.wrap, coefficient=c)

    assert gradcheck(add, coefficient, nondet_tol=0)


def test_gradients_of_every_backend_agree(backend, dtype):
    problem = PROBLEMS["ring"]
    device = backend.device
    canvas = problem.tensor(2, 3).to(device, dtype).requires_grad_()
    weight = tuple(factor.to(device) for factor in problem.weight("factors"))
    coefficient = (torch.rand(6) + 0.5).to(device).requires_grad_()
    target = problem.tensor(2, 3).to(device, dtype)

    def loss(x, c):
        patches = ops.extract_patches(x, size=problem.patch, **problem.geometry)
        merged = ops.scatter_average(
            patches * patches, weight=weight, size=problem.canvas, coefficient=c, **problem.geometry
        )
        return (merged.float() * target.float()).sum()

    ours = torch.autograd.grad(loss(canvas, coefficient), (canvas, coefficient))
    with ops.use_backend("reference"):
        theirs = torch.autograd.grad(loss(canvas, coefficient), (canvas, coefficient))
    assert ours[0].dtype is dtype
    bound = {torch.float16: 1e-2, torch.bfloat16: 6e-2}.get(dtype, 2e-5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=bound, atol=bound)


def test_a_backward_pass_runs_on_the_backend_of_its_forward_pass(monkeypatch):
    from intarsia.ops import reference

    calls = []
    real = reference.scatter_average
    monkeypatch.setattr(reference, "scatter_average", lambda *a: (calls.append(1), real(*a)))
    canvas = torch.randn(1, 1, 6, requires_grad=True)
    with ops.use_backend("reference"):
        patches = ops.extract_patches(canvas, offsets=[[0], [2]], size=(4,))
    patches.sum().backward()
    assert calls == [1] and canvas.grad.flatten().tolist() == [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]


def test_nothing_is_kept_of_the_patches_without_need():
    patches = torch.randn(1, 2, 1, 4, requires_grad=True)
    mean = ops.scatter_average(patches, offsets=[[0], [2]], weight=(torch.ones(4),), size=(6,))
    assert all(kept is None or kept.shape != patches.shape for kept in mean.grad_fn.saved_tensors)
