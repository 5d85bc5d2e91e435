# SPDX-License-Identifier: Apache-2.0
"""Whether strided tensors share elements: parts of one packed tensor lie between each other and do not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

_MANY = 8


def may_repeat(tensor: Tensor) -> bool:
    """Whether two indices of one tensor may name the same element; False only where none do."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def may_share(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors may have an element in common; False only where they have none."""
    if one.device != other.device or one.numel() == 0 or other.numel() == 0:
        return False
    apart = other.data_ptr() - one.data_ptr()
    if apart >= _extent(one) or -apart >= _extent(other):
        return False
    width = one.element_size()
    if one.stride() != other.stride() or width != other.element_size() or apart % width:
        return True
    axes = sorted(zip(one.stride(), one.shape, other.shape, strict=True), reverse=True)
    return _meet(axes, apart // width)


def any_shared(written: Sequence[Tensor], read: Sequence[Tensor]) -> bool:
    """Whether a written tensor may have an element in common with a read one or another written one."""
    tensors = [*written, *read]
    # Tensors of one call are most often far apart, which their first and last bytes tell.
    spans = [(tensor.data_ptr(), _extent(tensor)) for tensor in tensors]
    for i in range(len(written)):
        start, extent = spans[i]
        for j in range(i + 1, len(tensors)):
            apart = spans[j][0] - start
            if -spans[j][1] < apart < extent and may_share(tensors[i], tensors[j]):
                return True
    return False


def _extent(tensor: Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _meet(axes: Sequence[tuple[int, int, int]], apart: int) -> bool:
    # Whether indices i, j exist with sum stride * (j - i) + apart = 0, from the widest stride on: what the
    # narrower ones can make up for leaves few differences j - i to try.
    if not axes:
        return apart == 0
    (stride, size, other), *rest = axes
    if stride == 0:
        return _meet(rest, apart)
    forth = sum(step * (n - 1) for step, n, _ in rest)
    back = sum(step * (n - 1) for step, _, n in rest)
    low = max(-((back + apart) // stride), 1 - size)
    high = min((forth - apart) // stride, other - 1)
    if high - low >= _MANY:
        return True
    return any(_meet(rest, apart + stride * shift) for shift in range(low, high + 1))
