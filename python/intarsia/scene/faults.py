# SPDX-License-Identifier: Apache-2.0
"""From pydantic's list of errors to one line in the words of the house."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from intarsia.scene.errors import SceneError, key_path, nearest, show

__all__ = ["fault"]

_KINDS = {
    "int_type": "be a whole number",
    "int_from_float": "be a whole number",
    "int_parsing_size": "be a smaller number",
    "float_type": "be a number",
    "finite_number": "be a finite number",
    "string_type": "be text",
    "bool_type": "be true or false",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "model_type": "be keys with values",
    "dict_type": "be keys with values",
    "model_attributes_type": "be keys with values",
    "string_pattern_mismatch": "consist of letters, digits, - and _",
    "missing": "be given",
}
_LIMITS = {
    "greater_than_equal": ("ge", "be at least {}"),
    "greater_than": ("gt", "be more than {}"),
    "less_than_equal": ("le", "be at most {}"),
    "less_than": ("lt", "be below {}"),
    "string_too_short": ("min_length", "have at least {} characters"),
    "string_too_long": ("max_length", "have at most {} characters"),
    "too_long": ("max_length", "have at most {} entries"),
    "too_short": ("min_length", "have at least {} entries"),
    "literal_error": ("expected", "be one of {}"),
}


def fault(error: ValidationError, root: type[BaseModel]) -> SceneError:
    """The most telling one of pydantic's errors.

    Args:
        error: what validation raised.
        root: the model that was asked for.

    Returns:
        An error that names the key and, where a key is unknown, the nearest legal one.

    Example:
        >>> class Size(BaseModel, extra="forbid"):
        ...     width: int
        >>> try:
        ...     Size.model_validate({"widht": 3})
        ... except ValidationError as error:
        ...     print(fault(error, Size))
        widht: must be a key that scenes know, got 'widht'. Did you mean width?
    """
    found = error.errors(include_url=False, include_context=True)
    # A misspelt key makes a required one missing: the spelling is the news.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    place, kind, value = first["loc"], first["type"], first.get("input")
    key = key_path(place)
    if kind in ("extra_forbidden", "invalid_key"):
        known = tuple(sorted(_model(root, place[:-1]).model_fields))
        remedy = nearest(str(place[-1]), known)
        return SceneError(key, f"must be a key that scenes know, got {show(place[-1])}. {remedy}")
    if kind == "missing" and isinstance(place[-1], int):
        count = len(value) if isinstance(value, list) else 0
        return SceneError(
            key_path(place[:-1]), f"must have {_entries(place)}, got {count}. Add what is missing."
        )
    if kind == "too_long" and place[-1] in ("box", "region", "patch", "overlap"):
        count = len(value) if isinstance(value, list) else 0
        return SceneError(key, f"must have {_entries((*place, 0))}, got {count}. Leave out what is too much.")
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        limit = _plain(first.get("ctx", {}).get(name)).replace("'", "").replace(" or ", ", ")
        return SceneError(key, f"must {text.format(limit)}, got {_got(value, kind)}. {_remedy(kind)}")
    requirement = _KINDS.get(kind)
    if requirement is None:
        return SceneError(key, f"must be legal ({show(first['msg'], limit=96)}), got {show(value)}.")
    got = "nothing" if kind == "missing" else show(value)
    remedy = "Add this key." if kind == "missing" else _hint(kind, value)
    return SceneError(key, f"must {requirement}, got {got}. {remedy}")


def _plain(limit: object) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _entries(place: tuple[Any, ...]) -> str:
    if len(place) > 1 and place[-2] == "box":
        return "four whole numbers, [left, top, right, bottom]"
    return "two whole numbers, [width, height]"


def _got(value: object, kind: str) -> str:
    if kind.startswith(("string_too", "too_")) and isinstance(value, (str, list, dict)):
        return str(len(value))
    return show(value)


def _remedy(kind: str) -> str:
    if kind == "literal_error":
        return "Choose one."
    return "Shorten it." if kind.endswith("too_long") or kind == "too_long" else "Change it."


def _hint(kind: str, value: object) -> str:
    if value is None:
        return "Leave the key out, or give it a value."
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "Put it in quotes."
    if kind in ("float_type", "int_type") and isinstance(value, str):
        return "Write it without quotes, such as 0.5 or 1.0e+3."
    return "See `intarsia compose --schema`."


def _model(root: type[BaseModel], place: tuple[Any, ...]) -> type[BaseModel]:
    """The model that a path leads to."""
    model = root
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = next(iter(_models(model.model_fields[part].annotation)), model)
    return model


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
