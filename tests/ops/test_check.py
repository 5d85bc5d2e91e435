# SPDX-License-Identifier: Apache-2.0
"""Every refusal, by its words: `<function>: <argument> must <requirement>, got <what>. <remedy>`."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from intarsia import ops

CANVAS = torch.zeros(2, 3, 8, 10)
PATCHES = torch.zeros(2, 4, 3, 4, 6)
OFFSETS = [[0, 0], [0, 4], [4, 0], [4, 4]]
WINDOW = torch.ones(1, 4, 6)
NAN = torch.full((1, 4, 6), float("nan"))
META = torch.device("meta")


def extract(canvas=CANVAS, **changed):
    return ops.extract_patches(canvas, **{"offsets": OFFSETS, "size": (4, 6), **changed})


def scatter(patches=PATCHES, **changed):
    arguments = {"offsets": OFFSETS, "weight": WINDOW, "size": (8, 10), **changed}
    return ops.scatter_average(patches, **arguments)


def total(offsets=OFFSETS, weight=WINDOW, size=(8, 10), **changed):
    return ops.weight_total(offsets, weight, size, **changed)


def test_the_arguments_below_are_right_before_they_are_changed():
    assert extract().shape == PATCHES.shape and scatter().shape == CANVAS.shape and total().shape == (8, 10)


def test_a_size_may_hold_any_integers():
    for size in ((np.int64(4), 6), [torch.tensor(4), np.uint8(6)], torch.Size((4, 6))):
        assert torch.equal(extract(size=size), extract())


EXTRACT = [
    ({"canvas": [[1.0]]}, "canvas must be a tensor [B, C, *S], got list"),
    ({"canvas": CANVAS.int()}, "canvas must be float16, bfloat16, float32 or float64, got torch.int32"),
    (
        {"canvas": CANVAS.cfloat()},
        "canvas must be float16, bfloat16, float32 or float64, got torch.complex64",
    ),
    (
        {"canvas": CANVAS[0, 0]},
        "canvas must have shape [B, C, *S] with 1 to 3 canvas axes, got shape [8, 10]",
    ),
    ({"canvas": CANVAS[..., None, None]}, "canvas must have shape [B, C, *S] with 1 to 3 canvas axes"),
    ({"canvas": CANVAS.to_sparse()}, "canvas must be dense, got torch.sparse_coo"),
    ({"size": 4}, "size must be a sequence with one integer per axis, got 4"),
    ({"size": (4.0, 6)}, "size must hold integers, got (4.0, 6)"),
    ({"size": ("4", 6)}, "size must hold integers, got ('4', 6)"),
    ({"size": (None, 6)}, "size must hold integers, got (None, 6)"),
    ({"size": (torch.tensor([4, 4]), 6)}, "size must hold integers, got (tensor([4, 4]), 6)"),
    ({"size": (np.float64(4), 6)}, "size must hold integers, got (np.float64(4.0), 6)"),
    ({"size": (4,)}, "size must have one length for each of the 2 axes, got (4,)"),
    ({"size": (0, 6)}, "size must be positive on every axis, got patch (0, 6), canvas (8, 10)"),
    ({"size": (4, -6)}, "size must be positive on every axis, got patch (4, -6), canvas (8, 10)"),
    ({"size": (9, 6)}, "size must not let a patch exceed the canvas, got patch (9, 6), canvas (8, 10)"),
    ({"size": (9, 6), "wrap": (True, True)}, "size must not let a patch exceed the canvas"),
    (
        {"offsets": [[0, 5]]},
        "offsets must keep every region inside the canvas, region 0 spans 5 to 11 on axis 1 of 10",
    ),
    (
        {"offsets": [[0, 0], [-1, 0]]},
        "offsets must keep every region inside the canvas, region 1 spans -1 to 3",
    ),
    ({"offsets": [[-1, 0]], "wrap": (False, True)}, "offsets must keep every region inside the canvas"),
    ({"offsets": [[0]]}, "offsets must have shape [R, 2], got shape [1, 1]"),
    ({"offsets": [0, 4]}, "offsets must have shape [R, 2], got shape [2]"),
    ({"offsets": torch.zeros(5, 0, dtype=torch.int64)}, "offsets must have shape [R, 2], got shape [5, 0]"),
    ({"offsets": [[0.5, 1.0]]}, "offsets must be an integer tensor [R, n], got torch.float32"),
    ({"offsets": [[True, False]]}, "offsets must be an integer tensor [R, n], got torch.bool"),
    ({"offsets": "no"}, "offsets must be an integer tensor [R, n], got str"),
    ({"offsets": [[0, 0], [1]]}, "offsets must be an integer tensor [R, n], got list"),
    ({"wrap": True}, "wrap must be None or a sequence with one bool per axis, got True"),
    ({"wrap": (True,)}, "wrap must have one bool for each of the 2 axes, got 1"),
    ({"scale": 2.0}, "scale must be a tensor or None, got float"),
    ({"scale": torch.ones(3)}, "scale must have shape [2], got shape [3]"),
    ({"scale": torch.ones(2, 1)}, "scale must have shape [2], got shape [2, 1]"),
    ({"scale": torch.ones(2).int()}, "scale must be real floating-point, got torch.int32"),
    ({"scale": torch.ones(2, device=META)}, "scale must be on cpu, got meta"),
    ({"scale": torch.ones(2, requires_grad=True)}, "scale must not require grad, got one that does"),
    ({"dtype": torch.int32}, "dtype must be float16, bfloat16, float32 or float64, got torch.int32"),
]
SCATTER = [
    (
        {"patches": PATCHES[0, 0]},
        "patches must have shape [B, R, C, *s] with 1 to 3 canvas axes, got shape [3, 4, 6]",
    ),
    ({"patches": PATCHES.long()}, "patches must be float16, bfloat16, float32 or float64, got torch.int64"),
    ({"size": (8,)}, "size must have one length for each of the 2 canvas axes, got (8,)"),
    ({"size": (8, -10)}, "size must be positive on every axis"),
    ({"size": (8, 5)}, "size must not let a patch exceed the canvas, got patch (4, 6), canvas (8, 5)"),
    ({"offsets": OFFSETS[:3]}, "offsets must have one row for each of the 4 patches, got 3"),
    (
        {"offsets": [*OFFSETS[:3], [4, 5]]},
        "offsets must keep every region inside the canvas, region 3 spans 5 to 11",
    ),
    (
        {"weight": 1.0},
        "weight must be a tensor [R|1, *s] or a tuple with one rank-1 tensor per axis, got float",
    ),
    (
        {"weight": (WINDOW, None)},
        "weight must be a tensor [R|1, *s] or a tuple with one rank-1 tensor per axis",
    ),
    ({"weight": WINDOW.int()}, "weight must be real floating-point, got torch.int32"),
    ({"weight": WINDOW[0]}, "weight must be one tensor [R|1, *s] or 2 rank-1 factors, got shapes [[4, 6]]"),
    (
        {"weight": WINDOW.expand(3, 4, 6)},
        "weight must have shape [R|1, *s] = [4|1, 4, 6], got shape [3, 4, 6]",
    ),
    ({"weight": torch.ones(1, 6, 4)}, "weight must have shape [R|1, *s] = [4|1, 4, 6], got shape [1, 6, 4]"),
    (
        {"weight": (torch.ones(4),)},
        "weight must be one tensor [R|1, *s] or 2 rank-1 factors, got shapes [[4]]",
    ),
    ({"weight": ()}, "weight must be one tensor [R|1, *s] or 2 rank-1 factors, got shapes []"),
    ({"weight": (torch.ones(6), torch.ones(4))}, "weight must have factors of lengths (4, 6), got (6, 4)"),
    ({"weight": WINDOW.to(META)}, "weight must be on cpu, got meta"),
    ({"weight": WINDOW.clone().requires_grad_()}, "weight must not require grad, got one that does"),
    ({"weight": NAN}, "weight must have a positive, finite total at every canvas element"),
    ({"weight": NAN, "normalize": False}, "weight must be finite, got NaN or infinity"),
    ({"weight": WINDOW * float("inf")}, "weight must have a positive, finite total at every canvas element"),
    ({"weight": WINDOW * 0}, "weight must have a positive, finite total at every canvas element"),
    ({"coefficient": [1.0] * 4}, "coefficient must be a tensor or None, got list"),
    ({"coefficient": torch.ones(3)}, "coefficient must have shape [4], got shape [3]"),
    ({"coefficient": torch.ones(4).long()}, "coefficient must be real floating-point, got torch.int64"),
    ({"coefficient": torch.ones(4, device=META)}, "coefficient must be on cpu, got meta"),
    (
        {"coefficient": torch.tensor([1.0, 1, -0.5, 1])},
        "coefficient must be at least 0 where normalize=True, got -0.5",
    ),
    (
        {"coefficient": torch.tensor([1.0, 1, NAN[0, 0, 0], 1])},
        "coefficient must be finite, got NaN or infinity",
    ),
    ({"coefficient": torch.zeros(4)}, "weight must have a positive, finite total at every canvas element"),
    ({"wrap": (False,)}, "wrap must have one bool for each of the 2 axes, got 1"),
    ({"dtype": torch.bool}, "dtype must be float16, bfloat16, float32 or float64, got torch.bool"),
]
TOTAL = [
    ({"size": (8, 10, 1, 1)}, "size must have 1 to 3 canvas axes, got (8, 10, 1, 1)"),
    ({"size": (8, 10, 1)}, "weight must be one tensor [R|1, *s] or 3 rank-1 factors, got shapes [[1, 4, 6]]"),
    ({"offsets": [[0, 0, 0]]}, "offsets must have shape [R, 2], got shape [1, 3]"),
    (
        {"weight": WINDOW.expand(3, 4, 6)},
        "weight must have shape [R|1, *s] = [4|1, 4, 6], got shape [3, 4, 6]",
    ),
    ({"weight": NAN}, "weight must be finite, got NaN or infinity"),
    (
        {"weight": "gauss"},
        "weight must be a tensor [R|1, *s] or a tuple with one rank-1 tensor per axis, got str",
    ),
    ({"coefficient": torch.ones(5)}, "coefficient must have shape [4], got shape [5]"),
]


@pytest.mark.parametrize(
    "function,changed,message",
    [
        *((extract, *case) for case in EXTRACT),
        *((scatter, *case) for case in SCATTER),
        *((total, *case) for case in TOTAL),
    ],
)
def test_refusals(function, changed, message):
    name = {extract: "extract_patches", scatter: "scatter_average", total: "weight_total"}[function]
    with pytest.raises(ValueError, match=f"^{name}: {re.escape(message)}.*[.]$"):
        function(**changed)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_refusals_by_value_do_not_depend_on_the_backend(name):
    with ops.use_backend(name):
        for weight in (NAN, WINDOW * 0, WINDOW * float("inf")):
            with pytest.raises(ValueError, match="weight must have a positive, finite total at every canvas"):
                scatter(weight=weight)


def test_an_uncovered_canvas_says_how_much_and_where():
    message = (
        "scatter_average: offsets must cover every canvas element, 16 of 80 are uncovered (first at (0, 6)). "
        "Pull the last region to the edge or use a smaller stride."
    )
    with pytest.raises(ops.CoverageError, match=re.escape(message)):
        scatter(PATCHES[:, :3], offsets=[[0, 0], [4, 0], [4, 4]])


OUT = torch.zeros(2, 4, 3, 4, 6)


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"out": [1.0]}, "out must be a tensor, got list"),
        ({"out": OUT[:, :3]}, "out must have shape [2, 4, 3, 4, 6], got shape [2, 3, 3, 4, 6]"),
        ({"out": OUT.int()}, "out must be float16, bfloat16, float32 or float64, got torch.int32"),
        ({"out": OUT, "dtype": torch.float16}, "out must be torch.float16, got torch.float32"),
        ({"out": OUT.to(META)}, "out must be on cpu, got meta"),
        ({"out": OUT.transpose(1, 2).contiguous().transpose(1, 2)}, "out must be contiguous, got strides"),
        ({"out": OUT.clone().requires_grad_()}, "out must be used without gradients"),
        ({"out": OUT, "canvas": CANVAS.clone().requires_grad_()}, "out must be used without gradients"),
    ],
)
def test_refused_destinations(changed, message):
    with pytest.raises(ValueError, match=f"^extract_patches: {re.escape(message)}"):
        extract(**changed)


def test_a_destination_may_share_a_buffer_but_no_element_with_an_input():
    pool = torch.zeros(2 * 3 * 80 + 2 * 4 * 3 * 24)
    canvas, rest = pool[:480].view(2, 3, 8, 10), pool[480:].view(2, 4, 3, 4, 6)
    assert extract(canvas, out=rest) is rest
    with pytest.raises(ValueError, match="out must not overlap an input, got memory shared with one"):
        extract(canvas, out=pool[479:-1].view(2, 4, 3, 4, 6))
    with pytest.raises(ValueError, match="scatter_average: out must not overlap an input"):
        scatter(PATCHES, out=PATCHES.view(-1)[:480].view(2, 3, 8, 10))
    grad = canvas.clone().requires_grad_()
    with torch.no_grad():
        assert extract(grad, out=rest) is rest
