# SPDX-License-Identifier: Apache-2.0
"""A call of decode or encode: its arguments looked at, and the VAE made ready for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from intarsia.adapters.diffusers._resident import dtype_of, managed, place_of, resident, undivided
from intarsia.adapters.diffusers._watch import Tick, Watch
from intarsia.layout import Window
from intarsia.layout._check import check_wrap, fail

Pair: TypeAlias = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class Call:
    """What `decode` and `encode` share; the arguments are theirs.

    Attributes:
        name: the function that messages speak for.
        size: (h, w) of the latent canvas.

    Raises:
        ValueError: an argument is out of its range.
    """

    name: str
    vae: Any
    size: tuple[int, int]
    wrap: Sequence[bool]
    patch: Pair
    overlap: Pair
    window: Window
    max_batch: int
    offload: torch.device | str | None
    storage: str | None
    upcast: bool | None
    on_nonfinite: str
    progress: bool | None
    callback: Tick | None

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(self.vae, nn.Module) or not hasattr(self.vae, "decode"):
            fail(name, "vae", "be a VAE of diffusers", type(self.vae).__name__, "Pass pipe.vae.")
        check_wrap(name, self.wrap, 2)
        patch, overlap = self.patches, self.overlaps
        if overlap[0] >= patch[0] or overlap[1] >= patch[1]:
            fail(name, "overlap", f"be below the patch {patch}", overlap, "A quarter of the patch is usual.")
        if self.max_batch < 1:
            fail(name, "max_batch", "be at least 1", self.max_batch, "1 needs the least memory.")
        if self.on_nonfinite not in ("upcast", "raise", "ignore"):
            required = "be 'upcast', 'raise' or 'ignore'"
            fail(name, "on_nonfinite", required, repr(self.on_nonfinite), "Leave it out for 'upcast'.")
        if self.storage not in (None, "device", "cpu"):
            required = "be 'device' or 'cpu'"
            fail(name, "storage", required, repr(self.storage), "Leave it out for the device.")
        if self.offload is not None and managed(self.vae):
            required = "be None for a VAE that a pipeline offloads by hooks"
            fail(name, "offload", required, self.offload, "Its hooks bring the weights; leave it out.")

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        if self.offload is None:
            return place_of(self.vae)
        return torch.empty(0, device=self.offload).device

    @property
    def store(self) -> torch.device:
        """Where results wait."""
        return torch.device("cpu") if self.storage == "cpu" else self.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        dtype = dtype_of(self.name, self.vae)
        forced = getattr(self.vae.config, "force_upcast", False) if self.upcast is None else self.upcast
        return torch.float32 if forced and dtype == torch.float16 else dtype

    @contextmanager
    def ready(self, total: int) -> Iterator[Watch]:
        """Hold the VAE as the call needs it; yields what to call after each of `total` parts."""
        device = None if self.offload is None else self.device
        dtype = None if self.dtype == dtype_of(self.name, self.vae) else self.dtype
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(undivided(self.vae))
            stack.enter_context(resident(self.name, self.vae, device=device, dtype=dtype))
            yield stack.enter_context(Watch(total, self.progress, self.callback))

    @property
    def upcasts(self) -> bool:
        """Whether what is not finite is done again in float32."""
        return self.dtype in (torch.float16, torch.bfloat16) and self.on_nonfinite == "upcast"

    @property
    def patches(self) -> tuple[int, int]:
        """(height, width) of a piece in latent elements."""
        return _pair(self.name, "patch", self.patch, 1)

    @property
    def overlaps(self) -> tuple[int, int]:
        """Least overlap of pieces in latent elements, per axis."""
        return _pair(self.name, "overlap", self.overlap, 0)

    @property
    def unit(self) -> int:
        """Pixels per latent element."""
        return unit_of(self.vae)


def unit_of(vae: Any) -> int:
    """Pixels per latent element, on either axis.

    Args:
        vae: an AutoencoderKL, an AutoencoderTiny, or another VAE of diffusers whose levels halve the size.

    Returns:
        2 to the number of levels less one.

    Raises:
        ValueError: its config does not say how many levels it has.

    Example:
        >>> from diffusers import AutoencoderTiny
        >>> unit_of(AutoencoderTiny())
        8
    """
    for key in ("encoder_block_out_channels", "block_out_channels"):
        channels = getattr(getattr(vae, "config", None), key, None)
        if channels is not None:
            return int(2 ** (len(channels) - 1))
    remedy = "Pass an AutoencoderKL or AutoencoderTiny of diffusers."
    fail("unit_of", "vae", "name its levels in config.block_out_channels", type(vae).__name__, remedy)


def check_input(name: str, argument: str, x: Tensor) -> None:
    """Refuse what is not a floating [B, C, height, width] with elements."""
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.numel() or not x.is_floating_point():
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        remedy = "Add a batch axis with unsqueeze(0), or convert with .float()."
        fail(name, argument, "be a floating tensor [B, C, height, width] with elements", got, remedy)


def latent_size(unit: int, image: Tensor) -> tuple[int, int]:
    """(h, w) of the latents of `image` [B, C, H, W], whose sizes must be multiples of `unit`."""
    height, width = image.shape[2:]
    if height % unit or width % unit:
        legal = [sorted({max(1, n // unit) * unit, -(-n // unit) * unit}) for n in (height, width)]
        near = [" or ".join(map(str, values)) for values in legal]
        remedy = f"The nearest legal heights are {near[0]}, widths {near[1]}: pad or crop the image."
        fail("encode", "image", f"have multiples of {unit} pixels", f"{height} x {width}", remedy)
    return height // unit, width // unit


def _pair(name: str, argument: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        remedy = "Give one number of latent elements, or (height, width)."
        fail(name, argument, f"be one or two integers of at least {least}", value, remedy)
    return pair[0], pair[1]
