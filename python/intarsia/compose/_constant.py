# SPDX-License-Identifier: Apache-2.0
"""Marking what the compiler may take as constant, without loading the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant(function: Function) -> Function:
    """As `torch.compiler.assume_constant_result`, which would import the compiler to set this mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
