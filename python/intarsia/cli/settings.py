# SPDX-License-Identifier: Apache-2.0
"""Every setting of a picture: checked before work begins, stored in its PNG, read back from it."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from intarsia.cli.model_file import ModelFile
from intarsia.cli.screen import Problem

__all__ = ["DEFAULT_STYLES", "METHODS", "PRECISIONS", "SOLVERS", "ImageSettings"]

METHODS = ("gaussian", "average", "bethe", "concat")
SOLVERS = ("dpmpp2m", "heun", "euler", "ddim", "ancestral")
DEFAULT_STYLES = {"landscapes": ("badlands", "redrock")}
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_MAX_ELEMENTS = 2**26


def _refuse(option: str, requirement: str, got: object, remedy: str) -> Problem:
    return Problem(f"generate image: --{option} must {requirement}, got {got}. {remedy}")


@dataclass(frozen=True)
class ImageSettings:
    """What decides the pixels of a picture. The defaults are those of the command.

    Attributes:
        width: of the canvas.
        height: of the canvas.
        style: names of styles, left to right; none takes the model's unconditional class.
        method: `gaussian` and `average` blend overlapping regions; `bethe` adds them and takes away what they
            share (DiffCollage); `concat` puts pieces side by side.
        loop: whether the right edge continues at the left one.
        steps: of the solver.
        solver: one of `SOLVERS`.
        guidance: 1 follows the model; more exaggerates the style.
        stride: between regions; 0 takes half a patch.
        blend: width over which neighbouring styles mix; 0 gives each region one style.
        seed: of the noise.
        upscale: enlarge the finished picture by this whole factor.
        model: name of a bundled model, or a file.
        precision: the network's floating type; `auto` takes what is fast on the device.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        max_batch: regions that go through the network at once.
    """

    width: int = 1024
    height: int = 128
    style: tuple[str, ...] = ()
    method: str = "gaussian"
    loop: bool = False
    steps: int = 32
    solver: str = "dpmpp2m"
    guidance: float = 1.0
    stride: int = 0
    blend: int = 192
    seed: int = 0
    upscale: int = 1
    model: str = "landscapes"
    precision: str = "auto"
    device: str = "auto"
    max_batch: int = 16

    def check(self) -> None:
        """Refuse what cannot be right for any model."""
        for name, low in (("width", 1), ("height", 1), ("steps", 1), ("upscale", 1), ("max-batch", 1)):
            value = getattr(self, name.replace("-", "_"))
            if value < low:
                raise _refuse(name, f"be at least {low}", value, "Leave it out for the default.")
        for name, low in (("stride", 0), ("blend", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise _refuse(name, "not be negative", getattr(self, name), "Leave it out for the default.")
        if self.seed >= 2**63:
            raise _refuse("seed", "be below 2**63", self.seed, "Take a smaller number.")
        if self.width * self.height * self.upscale**2 > _MAX_ELEMENTS:
            size = f"{self.width} x {self.height}" + (f" x {self.upscale}^2" if self.upscale > 1 else "")
            raise _refuse("width", f"give at most {_MAX_ELEMENTS} pixels", size, "Make the picture smaller.")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise _refuse("guidance", "be a number from 0 up", self.guidance, "Take 1 to 4.")
        for name, legal in (("method", METHODS), ("solver", SOLVERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in legal:
                raise _refuse(name, f"be one of {', '.join(legal)}", repr(getattr(self, name)), "Choose one.")
        if self.loop and self.method == "concat":
            raise _refuse(
                "loop", "go with overlapping regions", "--method concat", "Use gaussian or average."
            )

    def check_model(self, model: ModelFile) -> tuple[int, int]:
        """Refuse what does not suit `model`; returns the patch `(h, w)` that its regions will have."""
        for name in self.style:
            if name not in model.styles:
                known = ", ".join(model.styles) or "none: this model has no styles"
                near = get_close_matches(name, model.styles, 1)
                remedy = f"Did you mean {near[0]}?" if near else "Separate several names by commas."
                raise _refuse("style", f"name styles of the model ({known})", repr(name), remedy)
        patch = self._halved(model) if self.method == "bethe" else self._largest(model)
        stride = self.stride or patch[1] // 2
        if self.method == "bethe" and stride != patch[1] // 2:
            required = f"be half a patch, {patch[1] // 2}, with --method bethe"
            raise _refuse("stride", required, stride, "Leave it out.")
        if stride > patch[1]:
            raise _refuse(
                "stride", f"be at most the patch width {patch[1]}", stride, "Regions would leave gaps."
            )
        if self.loop and self.width % stride:
            below = self.width // stride * stride
            lengths = " or ".join(str(n) for n in (below, below + stride) if n >= patch[1])
            requirement = f"be a multiple of the stride {stride} for a loop"
            raise _refuse("width", requirement, self.width, f"Use {lengths}, or another --stride.")
        if self.loop and self.method == "bethe" and self.width <= patch[1]:
            required = f"be above the patch width {patch[1]} for a loop of --method bethe"
            raise _refuse("width", required, self.width, f"Use {patch[1] + stride}.")
        return patch

    def _largest(self, model: ModelFile) -> tuple[int, int]:
        legal = [size for size in model.sizes if size[0] <= self.height and size[1] <= self.width]
        if not legal:
            h, w = min(model.sizes, key=math.prod)
            got = f"{self.width} x {self.height}"
            raise _refuse(
                "width", f"be at least {w} and --height at least {h}", got, "Make the picture larger."
            )
        return max(legal, key=lambda size: (math.prod(size), size))

    def _halved(self, model: ModelFile) -> tuple[int, int]:
        """The patch of a collage: what overlaps must be known to the model, too; the canvas is smallest."""
        legal = []
        for h, w in model.sizes:
            rows, columns = self.height > h, self.width > w or self.loop
            shared = {(h // 2 if rows else h, w), (h, w // 2 if columns else w)}
            shared.add((h // 2 if rows else h, w // 2 if columns else w))
            if shared <= set(model.sizes):
                legal.append((h, w))
        if not legal:
            shown = ", ".join(f"{h}x{w}" for h, w in model.sizes)
            remedy = "Take gaussian, or train on half patches, too."
            raise _refuse("method", f"suit the sizes of the model ({shown})", "bethe", remedy)
        return min(legal, key=lambda size: (math.prod(self.canvas(size)), -math.prod(size), size))

    def canvas(self, patch: tuple[int, int]) -> tuple[int, int]:
        """The canvas that is painted, (rows, columns), of which the picture is the upper left part."""
        wanted = (self.height, self.width)
        if self.method == "concat":
            return -(-wanted[0] // patch[0]) * patch[0], -(-wanted[1] // patch[1]) * patch[1]
        if self.method != "bethe":
            return wanted
        rows, columns = (
            p + max(0, -(-(n - p) // (p // 2))) * (p // 2) for n, p in zip(wanted, patch, strict=True)
        )
        return rows, self.width if self.loop else columns

    def strides(self, patch: tuple[int, int]) -> tuple[int, int]:
        """Stride per axis, (rows, columns)."""
        if self.method == "concat":
            return patch
        if self.method == "bethe":
            return patch[0] // 2, patch[1] // 2
        return min(self.stride or patch[0] // 2, patch[0]), self.stride or patch[1] // 2

    def command(self, output: str = "picture.png") -> str:
        """The command line that makes this picture."""
        words = ["intarsia", "generate", "image", "-o", output]
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), "--" + field.name.replace("_", "-")
            # An empty style is written out, for a model may have default styles of its own.
            if value == field.default and field.name != "style":
                continue
            if value is True:
                words.append(option)
            else:
                words += [option, ",".join(value) if isinstance(value, tuple) else str(value)]
        return shlex.join(words)

    @classmethod
    def parse(cls, text: str) -> ImageSettings:
        """Settings from the JSON that a picture carries; types are checked, values are not."""
        try:
            found = json.loads(text)["settings"]
            fields = {field.name: field.default for field in dataclasses.fields(cls)}
            return cls(**{name: _typed(name, value, fields[name]) for name, value in found.items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Problem(
                f"generate image: --from must hold settings that this version knows, got {error!r}. "
                "Give the settings as options instead."
            ) from error


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise TypeError(f"{name} = {str(value)[:40]!r}")
    return value
