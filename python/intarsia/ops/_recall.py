# SPDX-License-Identifier: Apache-2.0
"""Calls on the CPU that repeat an earlier one go straight to the kernel, found by `csrc/bind_recall.cpp`.

A repeated call has the same offsets (the tensor itself, with the content it had), size, wrap and dtype, and
inputs of the same shapes and dtypes: every check that it would pass again is skipped. Calls that want
gradients, a mode, a transform, a profiler or another backend are not recognised.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from intarsia.ops import _backend
from intarsia.ops._library import plain_keys
from intarsia.ops._plan import Plan


@cache
def recall(function: str) -> Any:
    """The memory of one operator, or None where the compiled CPU backend is not what serves the CPU."""
    try:
        module = _backend.load("cpu")
        kind = module.Recall  # type: ignore[union-attr]
        quiet = [
            torch._C._len_torch_dispatch_stack,
            torch._C._len_torch_function_stack,
            torch._C._autograd._profiler_enabled,
            torch._C._functorch.peek_interpreter_stack,
            torch._C._get_tracing_state,
        ]
        forward_ad._current_level  # noqa: B018
        asked = {
            "tensor": Tensor,
            "empty": torch.empty,
            "threads": torch.get_num_threads,
            "forward_ad": forward_ad,
            "dispatch_keys": torch._C._dispatch_keys,
            "unusual": ~plain_keys(),
            "quiet": quiet,
        }
    except AttributeError:
        # No compiled backend, or a PyTorch that keeps these answers elsewhere.
        return None
    return kind(asked, _backend._FORCED, function)


def lasting(size: Any, wrap: Any) -> bool:
    """Whether what describes a call cannot change: tuples of plain numbers, or None for wrap."""
    return (
        type(size) is tuple
        and all(type(extent) is int for extent in size)
        and (wrap is None or (type(wrap) is tuple and all(type(closed) is bool for closed in wrap)))
    )


def serves(plan: Plan) -> bool:
    """Whether the compiled CPU backend, chosen by nobody, made the call that `plan` is for."""
    device = plan.offsets.device
    return device.type == "cpu" and _backend.select(device) is _backend.load("cpu")
