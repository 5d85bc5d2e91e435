# SPDX-License-Identifier: Apache-2.0
"""Scenes: a picture written down as a file, read without trust, planned without weights, then painted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia.scene.drawing import draw as draw
    from intarsia.scene.errors import SceneError as SceneError
    from intarsia.scene.model import Model as Model
    from intarsia.scene.planning import Plan as Plan
    from intarsia.scene.planning import plan as plan
    from intarsia.scene.reading import build as build
    from intarsia.scene.reading import load as load
    from intarsia.scene.schema import Scene as Scene
    from intarsia.scene.schema import json_schema as json_schema

_HOMES = {
    "Model": "model",
    "Plan": "planning",
    "Scene": "schema",
    "SceneError": "errors",
    "build": "reading",
    "draw": "drawing",
    "json_schema": "schema",
    "load": "reading",
    "plan": "planning",
}

__all__ = ["Model", "Plan", "Scene", "SceneError", "build", "draw", "json_schema", "load", "plan"]


def __getattr__(name: str) -> Any:
    # Parts load on first use: `intarsia compose --help` pays neither for pydantic nor for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'intarsia.scene' has no attribute {name!r}")
    return getattr(importlib.import_module(f"intarsia.scene.{_HOMES[name]}"), name)
