# SPDX-License-Identifier: Apache-2.0
"""Registration with PyTorch's dispatcher, and the rule for when a call may go past it.

The dispatcher adds some ten microseconds of bookkeeping to a call, much for a small kernel. `direct` is true
only where that bookkeeping would do nothing: plain dense tensors, no gradient wanted, no mode or transform
active, nobody tracing or profiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from intarsia.ops._check import fail

LIBRARY = torch.library.Library("intarsia", "DEF")


def register(
    name: str,
    arguments: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    vmap: Callable[..., Any] | None = None,
) -> None:
    """Define `intarsia::<name><arguments>` with its kernel for every device, its shapes and derivative."""
    LIBRARY.define(name + arguments, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"intarsia::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"intarsia::{name}", backward, setup_context=setup, lib=LIBRARY)
    if vmap is not None:
        torch.library.register_vmap(f"intarsia::{name}", vmap, lib=LIBRARY)


def bump(out: Tensor) -> None:
    """Tell autograd that `out` was written to."""
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)


def bumped(out: Sequence[Tensor | None]) -> list[Tensor]:
    """Those that are there of the tensors written to, after autograd has been told."""
    written = [tensor for tensor in out if tensor is not None]
    torch.autograd.graph.increment_version([tensor for tensor in written if not tensor.is_inference()])
    return written


def plain_keys() -> int:
    """The dispatch keys of an ordinary tensor, as bits."""
    keys = torch._C._dispatch_keys(torch.empty(0, device="cpu"))
    for name in (
        "CPU",
        "CUDA",
        "AutogradCPU",
        "AutogradCUDA",
        "AutocastCPU",
        "AutocastCUDA",
        "ADInplaceOrView",
    ):
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys.raw_repr()


def _always_dispatch(*tensors: Tensor | None) -> bool:
    return False


def _build_direct() -> Callable[..., bool]:
    compiling = torch.compiler.is_compiling
    grad_enabled = torch.is_grad_enabled
    try:
        profiling = torch._C._autograd._profiler_enabled
        tracing = torch._C._get_tracing_state
        dispatch_modes = torch._C._len_torch_dispatch_stack
        function_modes = torch._C._len_torch_function_stack
        transform = torch._C._functorch.peek_interpreter_stack
        dispatch_keys = torch._C._dispatch_keys
        forward_ad._current_level  # noqa: B018
        unusual = ~plain_keys()
    except AttributeError:
        return _always_dispatch
    plain = (Tensor, torch.nn.Parameter)

    def direct(*tensors: Tensor | None) -> bool:
        """Whether a call on these tensors may go to the backend without passing the dispatcher."""
        if (
            compiling()
            or dispatch_modes()
            or function_modes()
            or profiling()
            or transform() is not None
            or tracing() is not None
            or forward_ad._current_level >= 0
        ):
            return False
        grad = grad_enabled()
        for tensor in tensors:
            if tensor is not None and (
                type(tensor) not in plain
                or (grad and tensor.requires_grad)
                or dispatch_keys(tensor).raw_repr() & unusual
            ):
                return False
        return True

    return direct


direct = _build_direct()


def choose(function: str, kernel: Callable[..., Any], *tensors: Tensor | None) -> Callable[..., Any]:
    """The kernel itself where the dispatcher would do nothing, else the registered operator."""
    if direct(*tensors):
        return kernel
    if forward_ad._current_level >= 0:
        _refuse_tangents(function, tensors)
    return getattr(torch.ops.intarsia, function).default


def _refuse_tangents(function: str, tensors: tuple[Tensor | None, ...]) -> None:
    # PyTorch would silently return a tangent of zeros.
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            remedy = "Use reverse mode: torch.autograd.grad."
            fail(function, "tensors", "carry no forward-mode tangents", "a dual tensor", remedy)
