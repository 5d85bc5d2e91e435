# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON to plain trees, within limits: no tags, no doubles, no bombs, no endless depth."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from intarsia.scene.errors import SceneError, key_path, show

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "MAX_TEXT", "parse"]

MAX_BYTES = 2**19
MAX_DEPTH = 12
MAX_NODES = 20_000
MAX_TEXT = 8192
_DIGITS = 100
_NUMBER = re.compile(r"[+-]?\d[\d_.eE+-]*|0[xob][\da-fA-F_]+")

_DEEP = f"must be nested at most {MAX_DEPTH} deep. Scenes need no more than four."
_MANY = (
    f"must hold at most {MAX_NODES} values and {MAX_BYTES} letters, aliases counted as what they stand for. "
    "Make the scene smaller."
)


def parse(text: str, *, form: str) -> Any:
    """Read one document.

    Args:
        text: the whole file.
        form: "yaml" or "json".

    Returns:
        A tree of dict, list, str, int, float, bool and None. Every key is a string, every number finite,
        every text at most `MAX_TEXT` bytes.

    Raises:
        SceneError: not well-formed, a key twice in one place, a tag, too much of anything.

    Note:
        YAML is looked through event by event, before anything is built: depth, doubles and the size to which
        aliases would grow are known when the safe loader begins.

    Example:
        >>> parse("canvas: {width: 64, height: 32}", form="yaml")
        {'canvas': {'width': 64, 'height': 32}}
    """
    if len(text) > MAX_BYTES:
        raise SceneError("", f"must have at most {MAX_BYTES} bytes. Make the scene smaller.")
    try:
        tree = _json(text) if form == "json" else _yaml(text)
    except RecursionError:
        raise SceneError("", _DEEP) from None
    letters = 0
    for count, (path, depth, value) in enumerate(_walk(tree)):
        letters += len(value) if isinstance(value, str) else 0
        if count >= MAX_NODES or letters > MAX_BYTES:
            raise SceneError(key_path(path[:4]), _MANY)
        if depth > MAX_DEPTH:
            raise SceneError(key_path(path[:4]), _DEEP)
        _check_leaf(path, value)
    return tree


def _walk(tree: Any) -> Iterator[tuple[tuple[Any, ...], int, Any]]:
    stack: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while stack:
        path, value = stack.pop()
        yield path, len(path), value
        if len(path) > MAX_DEPTH:
            continue
        children = value.items() if isinstance(value, dict) else enumerate(value) if _is_list(value) else ()
        stack += [((*path, key), child) for key, child in reversed(list(children))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _check_leaf(path: tuple[Any, ...], value: Any) -> None:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                name = key_path((*path, show(key)))
                raise SceneError(name, f"must be a word, got {show(key)}. Put such a key in quotes.")
    if isinstance(value, float) and not math.isfinite(value):
        raise SceneError(key_path(path), f"must be a finite number, got {value}. Write an ordinary number.")
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise SceneError(
                key_path(path), "must be Unicode text, got half a character. Retype it."
            ) from None
        if size > MAX_TEXT:
            raise SceneError(
                key_path(path), f"must have at most {MAX_TEXT} bytes of text, got {size}. Shorten it."
            )


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SceneError(key_path((twice,)), "must not stand twice in one place. Keep one of the two.")
        return mapping

    def constant(name: str) -> float:
        raise SceneError("", f"must hold finite numbers only, got {name}. Write an ordinary number.")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SceneError(where, f"must be JSON, got a fault ({error.msg}). Mend the file.") from None
    except SceneError:
        raise
    except ValueError:
        raise SceneError("", "must hold numbers of at most 4300 digits. Write smaller numbers.") from None


def _yaml(text: str) -> Any:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        seen = _Watch()
        for event in yaml.parse(text, Loader=loader):
            seen.event(event)
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
        raise SceneError(
            where, f"must be YAML, got a fault ({show(problem, limit=96)}). Mend the file."
        ) from None
    except SceneError:
        raise
    except (ValueError, OverflowError, TypeError) as error:
        raise SceneError(
            "", f"must hold legal values, got a fault ({show(str(error))}). Mend the file."
        ) from None


@dataclass
class _Level:
    """A list or mapping that is open while events pass by."""

    mapping: bool
    anchor: str | None
    nodes: int = 1
    index: int = 0
    key: Any = None
    at_key: bool = True
    keys: set[str] = field(default_factory=set)


class _Watch:
    """Follows the events of one document and refuses what would be dangerous to build."""

    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.sizes: dict[str, int] = {}
        self.total = self.documents = 0

    def event(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                self._fail(event, "must hold one document, got a second one. Use a file for each scene.")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            level = self.levels.pop()
            if level.anchor is not None:
                self.sizes[level.anchor] = level.nodes
            self._node(event, level.nodes)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._start(event, kind == "MappingStartEvent")
        elif kind == "ScalarEvent":
            self._scalar(event)
        elif kind == "AliasEvent":
            if self.levels and self.levels[-1].mapping and self.levels[-1].at_key:
                self._fail(event, "must have words as keys, got an alias. Write the key out.")
            if event.anchor not in self.sizes:
                self._fail(event, f"must name an anchor that is complete, got *{show(event.anchor)}.")
            self._node(event, self.sizes[event.anchor])

    def _start(self, event: Any, mapping: bool) -> None:
        self._no_tag(event)
        if self.levels and self.levels[-1].mapping and self.levels[-1].at_key:
            self._fail(event, "must have words as keys, got a list or a mapping. Write a word.")
        if len(self.levels) >= MAX_DEPTH:
            self._fail(event, _DEEP)
        self.levels.append(_Level(mapping, event.anchor))

    def _scalar(self, event: Any) -> None:
        self._no_tag(event)
        level = self.levels[-1] if self.levels else None
        if level is not None and level.mapping and level.at_key:
            if event.value in level.keys:
                level.key = event.value
                self._fail(event, "must not stand twice in one place. Keep one of the two.")
            level.keys.add(event.value)
            level.key, level.at_key = event.value, False
            return
        if len(event.value) > _DIGITS and _NUMBER.fullmatch(event.value):
            self._fail(
                event, f"must have at most {_DIGITS} digits, got {len(event.value)}. Write a smaller number."
            )
        if event.anchor is not None:
            self.sizes[event.anchor] = 1
        self._node(event, 1)

    def _node(self, event: Any, nodes: int) -> None:
        """A value is complete: the one that holds it has grown by so much."""
        self.total += nodes if type(event).__name__ in ("ScalarEvent", "AliasEvent") else 1
        if self.total > MAX_NODES or nodes > MAX_NODES:
            self._fail(event, _MANY)
        if self.levels:
            level = self.levels[-1]
            level.nodes += nodes
            level.at_key = True
            level.index += 1

    def _no_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._fail(event, f"must have no tag, got {show(event.tag)}. Scenes hold plain values only.")

    def _fail(self, event: Any, message: str) -> None:
        parts = [level.key if level.mapping else level.index for level in self.levels]
        key = key_path(tuple(part for part in parts if part is not None)[:6])
        raise SceneError(key or f"line {event.start_mark.line + 1}", message)
