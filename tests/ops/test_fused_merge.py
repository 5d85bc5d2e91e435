# SPDX-License-Identifier: Apache-2.0
"""Guidance and the solver's update inside a merge, and crops written several times."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, WEIGHTS, Problem

pytestmark = pytest.mark.usefixtures("poisoned_empty")
NAMES = sorted(PROBLEMS.keys() - {"whole"})
B, C = 2, 3


def sums(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def weight_of(problem, kind, dtype, device):
    weight = problem.weight(kind)
    if isinstance(weight, torch.Tensor):
        return weight.to(device, sums(dtype))
    return tuple(factor.to(device, sums(dtype)) for factor in weight)


def exact(answers, guidance, problem, weight, normalize, coefficient, x, a, b, noise, c):
    """The separate steps in float64 on the reference backend."""
    last = answers.double()[:, -1]
    value = last
    for k, scales in enumerate(guidance.double()):
        value = value + scales.view(-1, *[1] * (last.dim() - 2)) * (answers.double()[:, k] - last)
    weight = weight.double() if isinstance(weight, torch.Tensor) else tuple(w.double() for w in weight)
    with ops.use_backend("reference"):
        merged = ops.scatter_average(
            value,
            weight=weight,
            size=problem.canvas,
            normalize=normalize,
            coefficient=None if coefficient is None else coefficient.double(),
            **problem.geometry,
        )

    def factor(number):
        number = torch.as_tensor(number).double()
        return number.view(-1, *[1] * (merged.dim() - 1)) if number.dim() else number

    return factor(a) * x.double() + factor(b) * merged + c * noise.double()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("terms", [2, 3])
def test_all_in_one_pass_equals_the_separate_steps(backend, dtype, assert_near, name, kind, terms):
    backend.keep_to(dtype is torch.float32 and terms == 2 and kind == WEIGHTS[0])
    problem = PROBLEMS[name]
    regions = len(problem.offsets)
    answers = torch.stack([problem.patches(B, C) for _ in range(terms)], 1).to(dtype)
    weight = weight_of(problem, kind, dtype, "cpu")
    placed = (
        weight.to(backend.device)
        if isinstance(weight, torch.Tensor)
        else tuple(factor.to(backend.device) for factor in weight)
    )
    guidance = torch.rand(terms - 1, regions, dtype=sums(dtype)) * 2
    x, noise = (problem.tensor(B, C).to(dtype) for _ in range(2))
    a, b = torch.tensor([0.25, -0.5], dtype=sums(dtype)), 0.75
    for normalize in (True, False):
        coefficient = torch.rand(regions, dtype=sums(dtype)) + 0.5
        update = (x, a, b, noise, 0.5)
        expected = exact(answers, guidance, problem, weight, normalize, coefficient, *update)
        there = backend.device
        updated = ops.scatter_average(
            answers.to(there), weight=placed, size=problem.canvas, normalize=normalize,
            coefficient=coefficient.to(there), guidance=guidance.to(there), x=x.to(there), a=a.to(there), b=b,
            noise=noise.to(there), c=0.5, **problem.geometry,
        )  # fmt: skip
        assert updated.dtype is dtype
        assert_near(updated / 4, expected / 4, dtype)


def test_guidance_of_equal_answers_is_the_plain_merge(backend):
    problem = PROBLEMS[NAMES[0]]
    patches = problem.patches(B, C).to(backend.device)
    weight = weight_of(problem, WEIGHTS[0], torch.float32, backend.device)
    arguments = {"weight": weight, "size": problem.canvas, **problem.geometry}
    plain = ops.scatter_average(patches, coefficient=None, **arguments)
    guided = ops.scatter_average(torch.stack([patches, patches], 1), guidance=7.5, **arguments)
    torch.testing.assert_close(guided, plain, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("scale", [3.0, torch.linspace(0, 8, 4), torch.linspace(0, 8, 4)[None]])
def test_guidance_is_one_scale_one_for_each_region_or_rows_of_them(scale):
    chain = Problem((10,), (4,), [[0], [2], [4], [6]], None)
    answers = torch.stack([chain.patches(1, 2), chain.patches(1, 2)], 1)
    scales = scale
    if isinstance(scale, torch.Tensor):
        scales = scale.reshape(4, 1, 1)
    combined = answers[:, 1] + scales * (answers[:, 0] - answers[:, 1])
    arguments = {"weight": (torch.ones(4),), "size": (10,), **chain.geometry}
    expected = ops.scatter_average(combined, **arguments)
    torch.testing.assert_close(ops.scatter_average(answers, guidance=scale, **arguments), expected)


def test_an_update_without_guidance_and_without_noise():
    chain = Problem((9,), (5,), [[0], [4]], None)
    patches, x = chain.patches(2, 3), chain.tensor(2, 3)
    arguments = {"weight": (torch.ones(5),), "size": (9,), **chain.geometry}
    merged = ops.scatter_average(patches, **arguments)
    updated = ops.scatter_average(patches, x=x, a=0.25, b=0.75, **arguments)
    torch.testing.assert_close(updated, 0.25 * x + 0.75 * merged)
    into = torch.full_like(x, float("nan"))
    assert ops.scatter_average(patches, x=x, a=0.25, b=0.75, out=into, **arguments) is into
    assert torch.equal(into, updated)


def test_halves_are_merged_into_a_canvas_in_full_precision(backend):
    problem = PROBLEMS[NAMES[0]]
    answers = torch.stack([problem.patches(B, C) for _ in range(2)], 1).to(backend.device, torch.bfloat16)
    x = problem.tensor(B, C).to(backend.device)
    weight = weight_of(problem, WEIGHTS[0], torch.float32, backend.device)
    arguments = {"weight": weight, "size": problem.canvas, "guidance": 2.0, **problem.geometry}
    merged = ops.scatter_average(answers, dtype=torch.float32, **arguments)
    updated = ops.scatter_average(answers, x=x, a=0.5, b=0.5, **arguments)
    assert updated.dtype is torch.float32
    torch.testing.assert_close(updated, 0.5 * x + 0.5 * merged, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_copies_repeat_the_crop(backend, dtype, name, copies):
    backend.keep_to(dtype is torch.float32 and copies == 2)
    problem = PROBLEMS[name]
    canvas = problem.tensor(B, C).to(backend.device, dtype)
    scale = torch.rand(B, device=backend.device, dtype=sums(dtype))
    for target in (None, torch.bfloat16):
        arguments = {"size": problem.patch, "scale": scale, "dtype": target, **problem.geometry}
        once = ops.extract_patches(canvas, **arguments)
        many = ops.extract_patches(canvas, copies=copies, **arguments)
        assert many.shape == (B, copies, *once.shape[1:])
        assert all(torch.equal(copy, once) for copy in many.unbind(1))


def test_copies_of_a_result_beyond_the_cache_are_streamed():
    offsets = [[i, j] for i in range(0, 448, 8) for j in range(0, 448, 8)]
    canvas = torch.randn(1, 1, 512, 512)
    once = ops.extract_patches(canvas, offsets=offsets, size=(64, 64))
    many = ops.extract_patches(canvas, offsets=offsets, size=(64, 64), copies=2)
    assert all(torch.equal(copy, once) for copy in many.unbind(1))


def test_gradients():
    problem = Problem((6, 7), (3, 4), [[0, 0], [0, 3], [3, 0], [3, 3], [2, 5]], (False, True))
    answers = torch.stack([problem.patches(1, 2) for _ in range(2)], 1).double().requires_grad_()
    x, noise = (problem.tensor(1, 2).double().requires_grad_() for _ in range(2))
    weight = tuple(factor.double() for factor in problem.weight("factors"))
    guidance, a = torch.rand(5).double(), torch.rand(1).double()

    def update(answers, x, noise):
        return ops.scatter_average(
            answers, weight=weight, size=problem.canvas, guidance=guidance,
            x=x, a=a, b=0.5, noise=noise, c=2.0, **problem.geometry,
        )  # fmt: skip

    assert torch.autograd.gradcheck(update, (answers, x, noise), nondet_tol=0)
    canvas = problem.tensor(1, 2).double().requires_grad_()
    cut = lambda c: ops.extract_patches(c, size=problem.patch, copies=2, **problem.geometry)  # noqa: E731
    assert torch.autograd.gradcheck(cut, (canvas,), nondet_tol=0)


@pytest.mark.parametrize("index", range(24))
def test_opcheck(index):
    dtype = (torch.float16, torch.bfloat16, torch.float32, torch.float64)[index % 4]
    problem = PROBLEMS[NAMES[index % len(NAMES)]]
    grad = index % 4 > 1
    terms = 1 + index % 3
    answers = torch.stack([problem.patches(B, C) for _ in range(terms)], 1).to(dtype)
    answers = (answers[:, 0] if terms == 1 else answers).contiguous().requires_grad_(grad)
    weight = problem.weight(WEIGHTS[index % 3])
    weight = [w.to(sums(dtype)) for w in ([weight] if isinstance(weight, torch.Tensor) else weight)]
    wrap = list(problem.wrap or [False] * len(problem.canvas))
    guidance = torch.rand(terms - 1, len(problem.offsets), dtype=sums(dtype)) if terms > 1 else None
    x = noise = each = None
    if index // 3 % 2 or terms == 1:
        x, each = problem.tensor(B, C).to(dtype).requires_grad_(grad), torch.rand(B, dtype=sums(dtype))
        noise = problem.tensor(B, C).to(dtype).requires_grad_(grad)
    parts = (guidance, x, noise, 0.5, 0.25, 2.0 if x is not None else 0.0, each, None)
    plain = (torch.tensor(problem.offsets), weight, list(problem.canvas), wrap, True, None)
    torch.library.opcheck(torch.ops.intarsia.scatter_average_fused.default, (answers, *plain, *parts, None))
    detached = [part.detach() if isinstance(part, torch.Tensor) else part for part in parts]
    out = torch.empty(B, C, *problem.canvas, dtype=dtype)
    torch.library.opcheck(
        torch.ops.intarsia.scatter_average_fused_out.default, (answers.detach(), *plain, *detached, out)
    )
    canvas = problem.tensor(B, C).to(dtype).requires_grad_(grad)
    torch.library.opcheck(
        torch.ops.intarsia.extract_patches.default,
        (canvas, torch.tensor(problem.offsets), list(problem.patch), wrap, None, None, terms),
    )


@pytest.mark.parametrize(
    "change,message",
    [
        ({"guidance": torch.ones(3)}, r"guidance must have shape \[R\] or \[K - 1, R\] = \[1, 4\], got"),
        ({"guidance": torch.ones(2, 4)}, r"guidance must have shape \[R\] or \[K - 1, R\] = \[1, 4\]"),
        ({"guidance": "seven"}, "guidance must be a number or a tensor"),
        ({"guidance": torch.ones(4, dtype=torch.int64)}, "guidance must be real floating-point"),
        ({"guidance": torch.full((4,), float("nan"))}, "guidance must be finite"),
        ({"x": None, "a": 0.5}, "x must be given with a, b, c and noise"),
        ({"x": None, "noise": torch.ones(1, 2, 10), "c": 1.0}, "x must be given with a, b, c and noise"),
        ({"c": 1.0}, "noise must come with a c that is not 0"),
        ({"noise": torch.ones(1, 2, 10)}, "noise must come with a c that is not 0"),
        ({"x": torch.ones(1, 2, 9)}, r"x must be a canvas \[1, 2, 10\], got \[1, 2, 9\]"),
        ({"x": torch.ones(1, 2, 10).double(), "dtype": torch.float32}, "x must be torch.float32 on cpu"),
        ({"noise": torch.ones(1, 2, 10).half(), "c": 1.0}, "noise must be torch.float32 on cpu"),
        ({"a": torch.ones(3)}, r"a must be a number or have shape \[1\]"),
        ({"a": "half"}, r"a must be a number or a tensor \[B\]"),
        ({"c": torch.ones(1), "noise": torch.ones(1, 2, 10)}, "c must be a number"),
        ({"a": torch.ones(1, requires_grad=True)}, "a must not require grad"),
        ({"coefficient": torch.ones(4, requires_grad=True)}, "coefficient must not require grad"),
    ],
)
def test_bad_arguments(change, message):
    chain = Problem((10,), (4,), [[0], [2], [4], [6]], None)
    arguments = {
        "guidance": 2.0,
        "x": torch.ones(1, 2, 10),
        "weight": (torch.ones(4),),
        "size": (10,),
    } | change
    with pytest.raises(ValueError, match=f"scatter_average: {message}"):
        ops.scatter_average(torch.ones(1, 2, 4, 2, 4), **arguments, **chain.geometry)


def test_more_bad_arguments():
    chain = Problem((10,), (4,), [[0], [2], [4], [6]], None)
    three = torch.ones(1, 3, 4, 2, 4)
    with pytest.raises(ValueError, match="guidance must have a row for 2 of the 3 answers"):
        ops.scatter_average(three, guidance=2.0, weight=(torch.ones(4),), size=(10,), **chain.geometry)
    with pytest.raises(ValueError, match="copies must be at least 1, got 0"):
        ops.extract_patches(torch.ones(1, 1, 10), size=(4,), copies=0, **chain.geometry)
    x = torch.ones(1, 2, 10)
    with pytest.raises(ValueError, match="out must not overlap an input"):
        ops.scatter_average(
            three[:, 0], x=x, a=0.5, weight=(torch.ones(4),), size=(10,), out=x, **chain.geometry
        )
