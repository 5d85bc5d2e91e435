# SPDX-License-Identifier: Apache-2.0
"""What every launch shares: the device guard, three right-aligned axes and the limit of the grid."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

import triton
import triton.language as tl

__all__ = ["accumulator", "check_grid", "guard", "narrow", "pad", "power_of_two"]

MAX_PROGRAMS = 2**31 - 1


@triton.jit
def narrow(value, pointer):
    """Cast to the pointer's type; fp64 reaches the half types through fp32, as in PyTorch."""
    if value.dtype == tl.float64:
        if pointer.dtype.element_ty.primitive_bitwidth == 16:
            value = value.to(tl.float32)
    return value.to(pointer.dtype.element_ty)


def guard(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Make `tensor`'s device current, so that the kernel runs there and on that device's current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def pad(values: Sequence[Any], fill: Any = 1) -> tuple[Any, Any, Any]:
    """Right-align one value per axis into three."""
    first, second, third = [fill] * (3 - len(values)) + list(values)
    return first, second, third


def power_of_two(size: int, most: int) -> int:
    """Return the smallest power of two that holds `size`, at most `most`."""
    return min(triton.next_power_of_2(max(size, 1)), most)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Return the type sums are held in: fp64 for fp64, fp32 for everything else."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def check_grid(function: str, programs: int) -> tuple[int]:
    """Return the one-axis grid of `programs` programs.

    Raises:
        ValueError: if there are more programs than the first axis of a grid can hold.
    """
    if programs > MAX_PROGRAMS:
        raise ValueError(
            f"{function}: out must fit {MAX_PROGRAMS} programs, got {programs}. Split the batch."
        )
    return (programs,)
