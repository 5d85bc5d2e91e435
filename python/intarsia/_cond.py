# SPDX-License-Identifier: Apache-2.0
"""Condition trees: what a denoiser is told besides the canvas. `intarsia.types` re-exports all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Cond",
    "PerCanvas",
    "broadcast_cond",
    "cat_cond",
    "check_cond",
    "index_cond",
    "merge_cond",
    "override_cond",
    "same_structure",
]

Cond: TypeAlias = Any
"""A tree (dict, list, tuple) of tensors, None and plain values. Tensors have a leading axis of rows."""


@dataclass(frozen=True, eq=False)
class PerCanvas:
    """A leaf of `Factor.cond` that differs between canvases as well as regions: `value` is [B, R, ...].

    Example:
        >>> styles = PerCanvas(torch.arange(6).reshape(2, 3))
        >>> index_cond(styles, torch.tensor([2, 0]), canvas=torch.tensor([0, 1]))
        tensor([2, 3])
    """

    value: Tensor


def rebuild(like: Any, parts: list[Any]) -> Any:
    """`parts` in a list or tuple of the kind of `like`; a named tuple takes them one by one."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _map(leaf: Callable[[Any, str], Any], cond: Cond, path: str = "cond") -> Cond:
    if isinstance(cond, dict):
        return {key: _map(leaf, value, f"{path}[{key!r}]") for key, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return rebuild(cond, [_map(leaf, value, f"{path}[{i}]") for i, value in enumerate(cond)])
    return leaf(cond, path)


def check_cond(name: str, cond: Cond, rows: int, *, per_canvas: int | None = None) -> None:
    """Refuse a tree with a tensor whose leading axis is neither 1 nor `rows`.

    Args:
        name: the function that the message speaks for.
        cond: tree; tensors without axes and plain values are shared by all rows.
        rows: the expected leading axis: B for a run, R for a Factor.
        per_canvas: B where `PerCanvas` leaves [B, R, ...] are legal; None refuses them.

    Raises:
        ValueError: a leaf does not fit; the message names its path in the tree.

    Example:
        >>> check_cond("sample", {"style": torch.tensor([1, 2])}, 2)
    """

    def leaf(value: Any, path: str) -> None:
        shape = list(value.value.shape) if isinstance(value, PerCanvas) else []
        if isinstance(value, PerCanvas) and per_canvas is None:
            raise ValueError(
                f"{name}: {path} must be a plain tensor here, got PerCanvas of shape {shape}. "
                "Give it to Factor(cond=...)."
            )
        fits = len(shape) >= 2 and shape[0] in (1, per_canvas) and shape[1] == rows
        if isinstance(value, PerCanvas) and not fits:
            raise ValueError(
                f"{name}: {path} must have shape [{per_canvas}, {rows}, ...] as PerCanvas, got {shape}. "
                "Axis 0 counts the canvases, axis 1 the regions."
            )
        if isinstance(value, Tensor) and value.ndim and value.shape[0] not in (1, rows):
            raise ValueError(
                f"{name}: {path} must have a leading axis of 1 or {rows}, got {list(value.shape)}. "
                "Give one row per sample, or one row for all."
            )

    _map(leaf, cond)


def broadcast_cond(cond: Cond, rows: int) -> Cond:
    """Expand every leading axis of 1 to `rows`; other leaves stay.

    Returns:
        The same tree; expanded tensors are views [rows, ...].

    Example:
        >>> broadcast_cond({"style": torch.tensor([7]), "name": "sky"}, 3)
        {'style': tensor([7, 7, 7]), 'name': 'sky'}
    """

    def leaf(value: Any, path: str) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
            return value.expand(rows, *value.shape[1:])
        return value

    return _map(leaf, cond)


def index_cond(cond: Cond, rows: Tensor, *, canvas: Tensor | None = None) -> Cond:
    """Select rows of every tensor of a tree.

    Args:
        cond: tree of tensors [R, ...] (or [1, ...], expanded), `PerCanvas` [B, R, ...], None, plain values.
        rows: [N], int64, which rows.
        canvas: [N], int64, the canvas of each row: needed where the tree has a `PerCanvas`.

    Returns:
        The same tree with tensors [N, ...].

    Raises:
        ValueError: a `PerCanvas` without `canvas`.

    Example:
        >>> index_cond({"style": torch.tensor([4, 5, 6])}, torch.tensor([2, 0]))
        {'style': tensor([6, 4])}
    """

    def leaf(value: Any, path: str) -> Any:
        if isinstance(value, PerCanvas):
            if canvas is None:
                raise ValueError(
                    f"index_cond: canvas must be given for the PerCanvas at {path}, got None. "
                    "Pass canvas=, the canvas of each row."
                )
            table = value.value
            first = torch.zeros_like(canvas) if table.shape[0] == 1 else canvas
            return table[first.to(table.device), rows.to(table.device)]
        if isinstance(value, Tensor) and value.ndim:
            if value.shape[0] == 1:
                return value.expand(rows.numel(), *value.shape[1:])
            return value.index_select(0, rows.to(value.device))
        return value

    return _map(leaf, cond)


def merge_cond(first: Cond, second: Cond) -> Cond:
    """Join two trees: dicts are merged, None gives way to the other.

    Returns:
        A tree that shares its leaves with both.

    Raises:
        ValueError: a key is in both, or two trees that are not dicts meet.

    Example:
        >>> merge_cond({"style": 1}, {"vertical": 2})
        {'style': 1, 'vertical': 2}
    """
    if first is None or second is None:
        return second if first is None else first
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise ValueError(
            "merge_cond: cond must be a dict on both sides where the run and a Factor both give one, got "
            f"{type(first).__name__} and {type(second).__name__}. Name the parts: {{'prompt': ...}}."
        )
    twice = sorted(str(key) for key in first.keys() & second.keys())
    if twice:
        raise ValueError(
            f"merge_cond: cond must not give a key twice, got {', '.join(twice)} on both sides. "
            "Give it either to the run or to the Factor."
        )
    return {**first, **second}


def override_cond(base: Cond, over: Cond) -> Cond:
    """Let a term's own condition win over the run's: keys of dicts replace, `{}` changes nothing.

    Anything but a dict replaces `base` as a whole, None included. So a null condition `{"style": null}`
    keeps what else the network is told, such as the place of its region.

    Returns:
        A tree that shares its leaves with both.

    Example:
        >>> override_cond({"style": 3, "vertical": 0.5}, {"style": 0})
        {'style': 0, 'vertical': 0.5}
        >>> override_cond({"style": 3}, None) is None
        True
    """
    if not isinstance(over, dict):
        return over
    if not over:
        return base
    return {**base, **over} if isinstance(base, dict) else over


def same_structure(first: Cond, second: Cond) -> bool:
    """Say whether `cat_cond` can join two trees: same nesting, tensor beside tensor, equal plain values.

    Returns:
        True where the trees differ in the rows of their tensors at most.

    Example:
        >>> same_structure({"style": torch.ones(1)}, {"style": None})
        False
    """
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same_structure(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        return len(first) == len(second) and all(map(same_structure, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        alike = first.dtype == second.dtype and first.device == second.device
        if not first.ndim or not second.ndim:
            return alike and first is second
        return alike and first.shape[1:] == second.shape[1:]
    if isinstance(first, Tensor) or isinstance(second, Tensor) or type(first) is not type(second):
        return False
    return bool(first is second or first == second)


def cat_cond(conds: Iterable[Cond]) -> Cond:
    """Concatenate the rows of trees of the same structure; plain values are taken once.

    Returns:
        One tree; its tensors [N1 + N2 + ..., ...] are new.

    Raises:
        ValueError: the trees differ in structure (ask `same_structure` first).

    Example:
        >>> cat_cond([{"style": torch.tensor([1])}, {"style": torch.tensor([0])}])
        {'style': tensor([1, 0])}
    """
    trees = list(conds)
    if not all(same_structure(trees[0], tree) for tree in trees[1:]):
        raise ValueError(
            "cat_cond: conds must have the same keys, shapes and plain values, got trees that differ. "
            "Evaluate them one after the other."
        )
    return _cat(trees)


def _cat(trees: list[Cond]) -> Cond:
    first = trees[0]
    if isinstance(first, dict):
        return {key: _cat([tree[key] for tree in trees]) for key in first}
    if isinstance(first, (list, tuple)):
        return rebuild(first, [_cat(list(parts)) for parts in zip(*trees, strict=True)])
    return torch.cat(trees) if isinstance(first, Tensor) and first.ndim else first
