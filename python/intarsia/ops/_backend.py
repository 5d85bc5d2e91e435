# SPDX-License-Identifier: Apache-2.0
"""Which backend serves which device.

A backend is a module with the functions `extract_patches`, `scatter_average`, `weight_total`,
`gaussian_weights`, `rope`, `canvas_noise`, `leapfrog` and `metropolis_select`, destination first. The
environment variable INTARSIA_BACKEND (read at the first call) or `use_backend` forces one.
INTARSIA_REQUIRE=cpu makes a missing backend an ImportError instead of a fallback.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

__all__ = ["backends", "reason", "use_backend"]

_MODULES = {
    "reference": "intarsia.ops.reference",
    "cpu": "intarsia.ops._cpu",
    "cuda": "intarsia.ops._cuda",
    "triton": "intarsia.ops._triton",
}
_PREFERENCES = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_FORCED: ContextVar[str | None] = ContextVar("intarsia_backend", default=None)

_loaded: dict[str, ModuleType | str] = {}
_default: dict[str, ModuleType] = {}


def select(device: torch.device) -> ModuleType:
    """The backend module for tensors on `device`."""
    forced = _FORCED.get()
    if forced is None:
        module = _default.get(device.type)
        if module is None:
            module = _default[device.type] = _choose(device)
        return module
    return _forced_module(forced, device)


def chosen(kind: str) -> ModuleType | None:
    """The backend that `select` would answer for a kind of device without further questions, or None."""
    return _default.get(kind) if _FORCED.get() is None else None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators on one backend inside a `with` statement.

    The choice holds for this thread or asynchronous task, and for backward passes of results made inside.

    Args:
        name: "reference", "cpu", "cuda" or "triton".

    Returns:
        A context manager.

    Raises:
        ValueError: If there is no such backend or it is not available; the message says why.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> with ops.use_backend("reference"):
        ...     ops.extract_patches(torch.arange(4.0).view(1, 1, 4), offsets=[[0], [2]], size=(2,)).tolist()
        [[[[0.0, 1.0]], [[2.0, 3.0]]]]
    """
    _require(name)
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)


def backends() -> dict[str, str]:
    """Every backend by name, with "available" or the reason why it is not.

    Returns:
        A dict with the keys reference, cpu, cuda and triton.

    Example:
        >>> from intarsia import ops
        >>> ops.backends()["reference"]
        'available'
    """
    return {name: "available" if isinstance(state := load(name), ModuleType) else state for name in _MODULES}


def reason(device: torch.device | str) -> str:
    """One sentence on the backend chosen for `device`.

    Args:
        device: the device asked about; it need not exist.

    Returns:
        The sentence, for `intarsia doctor`.
    """
    kind = torch.device(device).type
    forced = forced_name()
    if forced is not None:
        return f"{kind}: {forced}, because INTARSIA_BACKEND or use_backend asks for it"
    passed: list[tuple[str, str]] = []
    for name in _PREFERENCES.get(kind, ("reference",)):
        state = load(name)
        if isinstance(state, ModuleType):
            return f"{kind}: {name}" + "".join(f"; {other} is not available ({why})" for other, why in passed)
        passed.append((name, state))
    return f"{kind}: none"


def forced_name() -> str | None:
    """The name of the backend asked for, or None."""
    return _FORCED.get() or os.environ.get("INTARSIA_BACKEND") or None


def forced_here() -> str | None:
    """What `use_backend` asks for at this point, to be handed to `resume` by a backward pass."""
    return _FORCED.get()


@contextmanager
def resume(name: str | None) -> Iterator[None]:
    """Run a backward pass, which may be on another thread, on the backend of its forward pass."""
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)


def _choose(device: torch.device) -> ModuleType:
    name = os.environ.get("INTARSIA_BACKEND")
    if name:
        return _forced_module(name, device)
    required = os.environ.get("INTARSIA_REQUIRE", "").replace(" ", "").split(",")
    for name in _PREFERENCES.get(device.type, ("reference",)):
        state = load(name)
        if isinstance(state, ModuleType):
            if name == "reference" and device.type in _PREFERENCES:
                _warn_of_reference(_PREFERENCES[device.type][0])
            return state
        if name in required:
            raise ImportError(
                f"INTARSIA_REQUIRE asks for the {name} backend, which is not available: {state}"
            )
    raise AssertionError("the reference backend is always there")


def _warn_of_reference(wanted: str) -> None:
    warnings.warn(
        f"intarsia runs on its slow reference backend: the {wanted} backend is not available "
        f"({_loaded[wanted]}). Reinstall it with `python -m pip install --force-reinstall intarsia`, or set "
        "INTARSIA_BACKEND=reference to accept this.",
        RuntimeWarning,
        stacklevel=2,
    )


def _forced_module(name: str, device: torch.device) -> ModuleType:
    module = _require(name)
    devices = getattr(module, "DEVICES", None)
    if devices is not None and device.type not in devices:
        raise ValueError(
            f"use_backend: name must serve the device of the tensors, got {name!r} for {device}. "
            f"Move them to {' or '.join(devices)}, or choose another backend."
        )
    return module


def _require(name: str) -> ModuleType:
    if name not in _MODULES:
        raise ValueError(
            f"use_backend: name must be one of {', '.join(_MODULES)}, got {name!r}. Check INTARSIA_BACKEND."
        )
    state = load(name)
    if not isinstance(state, ModuleType):
        raise ValueError(f"use_backend: name must be an available backend, got {name!r}. It is not: {state}.")
    return state


def load(name: str) -> ModuleType | str:
    """The module of a backend, or the reason why there is none."""
    state = _loaded.get(name)
    if state is None:
        try:
            state = importlib.import_module(_MODULES[name])
        except Exception as error:  # a broken binary may fail in any way
            state = str(error).splitlines()[0] if str(error) else type(error).__name__
        state = _loaded.setdefault(name, state)
    return state
