# SPDX-License-Identifier: Apache-2.0
"""Settings of `intarsia extend` and `intarsia inpaint`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches

from intarsia.cli.model_file import ModelFile
from intarsia.cli.screen import Problem
from intarsia.cli.settings import PRECISIONS, SOLVERS

__all__ = ["EDIT_METHODS", "MAX_PIXELS", "EditSettings"]

EDIT_METHODS = ("bethe", "gaussian", "average")
MAX_PIXELS = 2**26
_MAX_REGIONS = 4096


@dataclass(frozen=True)
class EditSettings:
    """What decides the pixels that are painted. The defaults are those of the commands.

    Attributes:
        left: pixels to add; `right`, `top` and `bottom` likewise. All 0 for inpainting.
        style: name of a style; `auto` takes the one that suits the picture best, `none` the null style.
        method: how regions become one picture.
        work_height: the picture is painted at most this high, and what was painted is enlarged.
        steps: of the solver.
        solver: one of `SOLVERS`.
        seed: of the noise.
        model: name of a bundled model, or a file.
        precision: the network's floating type; `auto` takes what is fast on the device.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        max_batch: regions that go through the network at once.
    """

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    style: str = "auto"
    method: str = "bethe"
    work_height: int = 192
    steps: int = 64
    solver: str = "ancestral"
    seed: int = 0
    model: str = "landscapes"
    precision: str = "auto"
    device: str = "auto"
    max_batch: int = 16

    def check(self, command: str, model: ModelFile) -> tuple[int, int]:
        """Refuse what cannot be right; returns the patch `(h, w)` that regions will have."""

        def refuse(option: str, requirement: str, got: object, remedy: str) -> Problem:
            return Problem(f"{command}: --{option} must {requirement}, got {got}. {remedy}")

        for name in ("left", "right", "top", "bottom", "seed"):
            if getattr(self, name) < 0:
                raise refuse(name, "not be negative", getattr(self, name), "Leave it out for the default.")
        for name, low in (("steps", 1), ("max_batch", 1), ("work_height", 32)):
            if getattr(self, name) < low:
                option = name.replace("_", "-")
                raise refuse(option, f"be at least {low}", getattr(self, name), "Leave it out.")
        if self.seed >= 2**63:
            raise refuse("seed", "be below 2**63", self.seed, "Take a smaller number.")
        for name, legal in (("method", EDIT_METHODS), ("solver", SOLVERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in legal:
                raise refuse(name, f"be one of {', '.join(legal)}", repr(getattr(self, name)), "Choose one.")
        if self.style not in ("auto", "none", *model.styles):
            known = ", ".join(("auto", "none", *model.styles))
            near = get_close_matches(self.style, model.styles, 1)
            remedy = f"Did you mean {near[0]}?" if near else "Give one."
            raise refuse("style", f"be one of {known}", repr(self.style), remedy)
        legal_sizes = [
            (h, w)
            for h, w in model.sizes
            if self.method != "bethe" or {(h // 2, w), (h, w // 2), (h // 2, w // 2)} <= set(model.sizes)
        ]
        if not legal_sizes:
            shown = ", ".join(f"{h}x{w}" for h, w in model.sizes)
            raise refuse(
                "method", f"suit the sizes of the model ({shown})", "bethe", "Take --method gaussian."
            )
        return max(legal_sizes, key=lambda size: (math.prod(size), size))

    def check_size(self, command: str, height: int, width: int, patch: tuple[int, int]) -> tuple[int, int]:
        """Refuse a result that is too large; returns the size `(h, w)` at which it is painted."""
        if height * width > MAX_PIXELS:
            raise Problem(
                f"{command}: the picture must have at most {MAX_PIXELS} pixels, got {width} x {height}. "
                "Make it smaller."
            )
        scale = min(1.0, self.work_height / height)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        count = math.prod(2 * -(-n // p) for n, p in zip(size, patch, strict=True))
        if count > _MAX_REGIONS:
            raise Problem(
                f"{command}: the picture must take at most {_MAX_REGIONS} regions, got {count}. "
                "Take a smaller --work-height."
            )
        return size
