# SPDX-License-Identifier: Apache-2.0
"""intarsia: one picture inlaid from many fitted pieces, made by composing pre-trained diffusion models.

Kernels compute, csrc passes, ops checks, layout says where, compose says how much, samplers say when.

Example:
    >>> import torch
    >>> from intarsia import Factor, compose, layout, samplers, schedules
    >>> D = lambda x, sigma, cond=None: x / (1 + sigma.reshape(-1, 1, 1) ** 2)
    >>> strip = compose.average(Factor(D, layout.chain(96, patch=32, stride=16)))
    >>> sigmas = schedules.karras(8, sigma_min=0.01, sigma_max=10.0)
    >>> noise = 10.0 * torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(0))
    >>> samplers.sample(strip, noise, sigmas, samplers.Heun()).shape
    torch.Size([1, 3, 96])
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia import adapters as adapters
    from intarsia import compose as compose
    from intarsia import conditioning as conditioning
    from intarsia import denoisers as denoisers
    from intarsia import guidance as guidance
    from intarsia import layout as layout
    from intarsia import media as media
    from intarsia import metrics as metrics
    from intarsia import models as models
    from intarsia import ops as ops
    from intarsia import samplers as samplers
    from intarsia import scene as scene
    from intarsia import schedules as schedules
    from intarsia import training as training
    from intarsia import types as types
    from intarsia.compose import Factor as Factor

_SUBMODULES = (
    "adapters",
    "compose",
    "conditioning",
    "denoisers",
    "guidance",
    "layout",
    "media",
    "metrics",
    "models",
    "ops",
    "samplers",
    "scene",
    "schedules",
    "training",
    "types",
)

__all__ = ["Factor", "__version__", *_SUBMODULES]

try:
    __version__ = version("intarsia")
except PackageNotFoundError:  # a source checkout on the path, not installed
    __version__ = "0.0.0+source"


def __getattr__(name: str) -> Any:
    # Submodules load on first use: the command line answers --help without paying for torch.
    if name not in __all__:
        raise AttributeError(f"module 'intarsia' has no attribute {name!r}")
    try:
        if name == "Factor":
            return importlib.import_module("intarsia.compose").Factor
        return importlib.import_module(f"intarsia.{name}")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise ImportError("intarsia needs PyTorch >= 2.6. Install it first: pip install torch") from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
