# SPDX-License-Identifier: Apache-2.0
"""Model files: one safetensors file with half-precision weights and the settings that rebuild the network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intarsia.models.edm import EDMDenoiser
from intarsia.models.unet import UNet

__all__ = ["available", "channels_last", "load", "save"]

_FOLDER = Path(__file__).parent / "weights"


def available() -> tuple[str, ...]:
    """Names of the bundled models.

    Returns:
        The names, sorted; `load` takes any of them.

    Example:
        >>> "landscapes" in available()
        True
    """
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def channels_last(denoiser: EDMDenoiser) -> None:
    """Lay out the weights of a 2-D network with channels last, the processor's fast layout."""
    for parameter in denoiser.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        # Asked of oneDNN only where torch was built with it.
        fast = (
            torch.backends.mkldnn.is_available()
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        )
        return torch.bfloat16 if fast else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def save(denoiser: EDMDenoiser, path: str | Path, settings: dict[str, Any]) -> None:
    """Write `denoiser` atomically.

    Args:
        denoiser: the network; weights are stored in float16.
        path: destination file.
        settings: arguments of `UNet`, JSON-able; the remaining settings are read off the denoiser.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().half().contiguous() for name, value in denoiser.net.state_dict().items()
    }
    about = {
        "unet": settings,
        "styles": list(denoiser.styles),
        "sizes": denoiser.sizes,
        "sigma_data": denoiser.sigma_data,
        "sigma_range": (denoiser.sigma_min, denoiser.sigma_max),
        "label": denoiser.label,
        "about": denoiser.about,
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata={"intarsia": json.dumps(about)})
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(
    name: str | Path = "landscapes", *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> EDMDenoiser:
    """Load a bundled model, or a file that `save` wrote, ready to sample.

    Args:
        name: a bundled model's name (see `available`) or the path of a `.safetensors` file.
        device: where the weights go.
        dtype: the network's compute dtype; None takes bfloat16 where the processor is fast in it,
            else float32.

    Returns:
        The denoiser in evaluation mode, parameters frozen; `styles`, `sizes`, `sigma_min`, `sigma_max`
        describe it.

    Raises:
        ValueError: if `name` is neither a bundled model nor a model file.

    Note:
        Only safetensors files are read: no code runs from a model file.

    Example:
        >>> D = load("landscapes")
        >>> D.sizes[0]
        (64, 64)
    """
    from safetensors import SafetensorError, safe_open

    path = _FOLDER / f"{name}.safetensors" if str(name) in available() else Path(name)
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"load: name must be a bundled model or the path of a .safetensors file, got {str(name)!r}. "
            f"Bundled: {', '.join(available()) or 'none'}."
        )
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["intarsia"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key).float() for key in file.keys()}
        # Shapes are compared before memory is taken: a damaged file may ask for any amount.
        with torch.device("meta"):
            net = UNet(**about["unet"])
        net.load_state_dict(tensors, assign=True)
        denoiser = EDMDenoiser(
            net,
            styles=about["styles"],
            sizes=about["sizes"],
            sigma_data=about["sigma_data"],
            sigma_range=tuple(about["sigma_range"]),
            label=str(about.get("label", "style")),
            about=about.get("about"),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"load: name must be a file written by intarsia.models.save, got {str(name)!r} ({reason}). "
            "Train one with `intarsia train image`."
        ) from error
    target = torch.device(device)
    denoiser.compute_dtype = dtype or _fast_dtype(target)
    denoiser.eval().requires_grad_(False).to(target)
    channels_last(denoiser)
    return denoiser
