# SPDX-License-Identifier: Apache-2.0
"""Every operator as PyTorch sees it: opcheck, and torch.compile without a graph break."""

from __future__ import annotations

import itertools

import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, WEIGHTS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# A dtype each, so that 24 samples meet every dtype with every kind of canvas.
SAMPLES = [
    pytest.param(PROBLEMS[name], DTYPES[index % 4], index, id=f"{name}-{DTYPES[index % 4]}")
    for index, (name, _) in enumerate(itertools.product(sorted(PROBLEMS.keys() - {"whole"}), range(4)))
]


def arguments(problem, dtype, index):
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    grad = dtype in (torch.float32, torch.float64)
    canvas = problem.tensor(2, 3).to(dtype).requires_grad_(grad)
    patches = problem.patches().to(dtype).requires_grad_(grad)
    offsets = torch.tensor(problem.offsets)
    wrap = list(problem.wrap or [False] * len(problem.canvas))
    weight = problem.weight(WEIGHTS[index % 3])
    weight = [w.to(sums) for w in ([weight] if isinstance(weight, torch.Tensor) else weight)]
    coefficient = torch.rand(len(offsets), dtype=sums).requires_grad_(grad) if index % 2 else None
    scale = torch.rand(2, dtype=sums) if index % 3 else None
    return canvas, patches, offsets, wrap, weight, coefficient, scale


@pytest.mark.parametrize("problem,dtype,index", SAMPLES)
def test_opcheck(problem, dtype, index):
    op, check = torch.ops.intarsia, torch.library.opcheck
    canvas, patches, offsets, wrap, weight, coefficient, scale = arguments(problem, dtype, index)
    size, target = list(problem.patch), DTYPES[index // 2 % 4] if index % 2 else None
    normalize = bool(index // 2 % 2)
    check(op.extract_patches.default, (canvas, offsets, size, wrap, scale, target))
    merge = (offsets, weight, list(problem.canvas), wrap)
    check(op.scatter_average.default, (patches, *merge, normalize, coefficient, target))
    check(op.weight_total.default, (*merge, coefficient))
    check(
        op.gaussian_weights.default, (index + 1, 0.1 + index / 9, DTYPES[2 + index % 2], torch.device("cpu"))
    )

    canvas, patches = canvas.detach(), patches.detach()
    coefficient = None if coefficient is None else coefficient.detach()
    out = torch.empty_like(patches, dtype=target)
    check(op.extract_patches_out.default, (canvas, offsets, size, wrap, scale, out))
    out = torch.empty_like(canvas, dtype=target)
    check(op.scatter_average_out.default, (patches, *merge, normalize, coefficient, out))


def halves(canvas, offsets, rows, columns):
    patches = ops.extract_patches(canvas, offsets=offsets, size=(4, 5), wrap=(False, True))
    return ops.scatter_average(
        patches * 2 + 1, offsets=offsets, size=canvas.shape[2:], weight=(rows, columns), wrap=(False, True)
    )


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


@pytest.mark.parametrize("engine,dynamic", [("aot_eager", False), ("aot_eager", True), ("inductor", True)])
@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph(compiler, engine, dynamic):
    compiled = compiler(halves, backend=engine, fullgraph=True, dynamic=dynamic)
    weight = ops.gaussian_weights((4, 5))
    with torch._dynamo.config.patch(error_on_recompile=dynamic):
        for height, width in ((10, 13), (14, 17)):
            offsets = torch.tensor([[i, j] for i in range(0, height - 3, 2) for j in range(0, width, 3)])
            ours = torch.randn(2, 3, height, width, requires_grad=True)
            theirs = ours.detach().clone().requires_grad_()
            out, expected = compiled(ours, offsets, *weight), halves(theirs, offsets, *weight)
            torch.testing.assert_close(out, expected)
            out.square().sum().backward()
            expected.square().sum().backward()
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore")
def test_compiles_statically_to_native_code(compiler):
    compiled = compiler(halves, fullgraph=True, dynamic=False)
    offsets = torch.tensor([[i, j] for i in (0, 3, 6) for j in (0, 4, 8)])
    canvas, weight = torch.randn(2, 3, 10, 13), ops.gaussian_weights((4, 5))
    torch.testing.assert_close(compiled(canvas, offsets, *weight), halves(canvas, offsets, *weight))


@pytest.mark.filterwarnings("ignore")
def test_compiles_with_everything_made_inside(compiler):
    def whole(canvas):
        there = [[0, 0], [0, 4]]
        patches = ops.extract_patches(canvas[:, :, ::2], offsets=there, size=(4, 4))
        return ops.scatter_average(patches, offsets=there, size=(4, 8), weight=ops.gaussian_weights((4, 4)))

    canvas = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(
        compiler(whole, fullgraph=True, backend="aot_eager")(canvas), canvas[:, :, ::2]
    )


@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_destinations_are_written_through_views(compiler, engine):
    def write(canvas, pool):
        ops.extract_patches(canvas, offsets=[[0], [3]], size=(5,), out=pool[1])
        return pool + 1

    canvas, pool = torch.randn(1, 2, 8), torch.zeros(2, 1, 2, 2, 5)
    more = compiler(write, fullgraph=True, backend=engine)(canvas, pool)
    assert torch.equal(pool[1], ops.extract_patches(canvas, offsets=[[0], [3]], size=(5,)))
    assert torch.equal(more, pool + 1) and not pool[0].any()


@pytest.mark.filterwarnings("ignore")
def test_values_are_checked_when_a_compiled_graph_runs(compiler):
    compiled = compiler(halves, backend="aot_eager", fullgraph=True)
    canvas, weight = torch.randn(1, 1, 8, 13), ops.gaussian_weights((4, 5))
    compiled(canvas, torch.tensor([[0, 0], [4, 0], [0, 5], [4, 5], [0, 9], [4, 9]]), *weight)
    with pytest.raises(ops.CoverageError, match="are uncovered"):
        compiled(canvas, torch.tensor([[0, 0], [4, 0], [0, 5], [4, 5], [0, 5], [4, 5]]), *weight)
    with pytest.raises(ValueError, match="keep every region inside the canvas"):
        compiled(canvas, torch.tensor([[0, 0], [5, 0], [0, 5], [4, 5], [0, 9], [4, 9]]), *weight)
