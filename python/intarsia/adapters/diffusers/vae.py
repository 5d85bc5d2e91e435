# SPDX-License-Identifier: Apache-2.0
"""Decoding and encoding of canvases of any size, in overlapping pieces or exactly, closed where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from intarsia.adapters.diffusers._call import Call, Pair, check_input, latent_size, unit_of
from intarsia.adapters.diffusers._nonfinite import NonFinitePieceError
from intarsia.adapters.diffusers._pieces import in_pieces
from intarsia.adapters.diffusers._watch import Tick
from intarsia.adapters.diffusers._whole import whole
from intarsia.layout import Window, triangle
from intarsia.layout._check import fail
from intarsia.types import Generators

__all__ = ["NonFinitePieceError", "decode", "encode", "unit_of"]


def decode(
    vae: Any,
    latents: Tensor,
    *,
    wrap: Sequence[bool] = (False, False),
    patch: Pair = 64,
    overlap: Pair = 16,
    exact: bool = False,
    window: Window = triangle,
    max_batch: int = 1,
    offload: torch.device | str | None = None,
    storage: Literal["device", "cpu"] | None = None,
    upcast: bool | None = None,
    on_nonfinite: Literal["upcast", "raise", "ignore"] = "upcast",
    progress: bool | None = False,
    callback: Tick | None = None,
) -> Tensor:
    """Decode latents of any size to an image, closed where the canvas is closed: in pieces, or exactly.

    In pieces: the canvas is cut into pieces of `patch` latent elements that overlap by `overlap` or more,
    evenly spread; every piece is decoded by the VAE's own `decode`, and the answers are averaged by `window`.
    A canvas no larger than a piece is decoded whole.

    Exactly: what decoding the whole canvas gives, to rounding. Every feature map is made once, in stripes of
    full rows; a GroupNorm takes its statistics from all stripes before any is normalised, a convolution sees
    the neighbouring rows, and attention all of the map.

    Args:
        vae: AutoencoderKL (Stable Diffusion 1 to 3, XL, Flux) or AutoencoderTiny of diffusers.
        latents: [B, C, h, w], floating: what the VAE decodes, divided by `scaling_factor`, shifted back.
        wrap: per axis (height, width), whether the canvas closes on itself.
        patch: size of a piece in latent elements; one number, or (height, width). A stripe of `exact` has
            its area, in rows.
        overlap: least overlap of neighbours in latent elements, below `patch`; `exact` needs none.
        exact: whether to decode exactly; for AutoencoderKL as it is defined by diffusers, not hooked.
        window: how much each pixel of a piece counts.
        max_batch: pieces per call of the VAE; `exact` takes one sample at a time.
        offload: device to compute on. The weights are there for the call and back where they were afterwards,
            whatever happens. None: where they are, or where the pipeline's own offloading takes them.
        storage: where decoded pieces, or the feature maps of `exact`, wait: the device of the computation, or
            the CPU. None: the device.
        upcast: whether a VAE in float16 computes in float32 throughout. None: if its `config.force_upcast`.
        on_nonfinite: what is done with a piece in half precision that holds NaN or infinity: decode it again
            in float32 and warn ("upcast"), or "raise", or "ignore" and do not even look. With `exact` it is
            the sample that is decoded again, as its statistics are spoiled.
        progress: show a bar; None: where a terminal looks on.
        callback: called with (parts done, parts in all) after each piece, or each stripe of each layer; what
            it raises ends the call.

    Returns:
        [B, 3, H, W] float32 (float64 from a VAE in float64) on the device of `latents`, not clamped.

    Raises:
        NonFinitePieceError: a piece is not finite, in float32 either; its `box` says where.
        ValueError: an argument has the wrong shape, or the VAE is none of those above; with `exact`, a part
            of it is not known to the letter.

    Note:
        Not differentiable. Deterministic where the VAE is. On a closed axis whose length `patch - overlap`
        divides, rolling the latents by that stride rolls the image; with `exact`, rolling by anything. The
        VAE is changed while it works (and restored), so no other thread may use it meanwhile.

        Memory, with e bytes per element, f pixels per latent element, c_0 and c_1 channels at the finest
        level and the next, c_m in the middle, A = max(patch area, w) the elements of a stripe, r its rows:

        - pieces: what the VAE takes for `max_batch` of them; the result; one sample's pieces in float32,
          about `12 H W (patch / (patch - overlap))^2`.
        - exact, working: `2 e c_1 f^2 A (1 + 2/(f r))`, or `2 e c_m (h w + 4 A)` in attention, besides what
          a convolution takes inside; the result. Independent of H but for attention.
        - exact, on `storage`: `e H W max(c_1, 2 c_0)`, and the edges of stripes, 2/(f r) as much again. The
          whole decode holds about `6 e H W c_0`, all on the device.

        Attention scores take `4 h^2 w^2 c_m` operations however they are cut: 34 TFLOP for 3840 x 2160.

    Source:
        Bar-Tal et al. 2023, MultiDiffusion, equation 5, for the weighted average.

    Example:
        >>> from diffusers import AutoencoderTiny
        >>> vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        ...     decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1))
        >>> decode(vae, torch.zeros(1, 4, 8, 24), patch=8, overlap=2, wrap=(False, True)).shape
        torch.Size([1, 3, 16, 48])
    """
    check_input("decode", "latents", latents)
    call = Call(
        name="decode",
        vae=vae,
        size=(latents.shape[2], latents.shape[3]),
        wrap=wrap,
        patch=patch,
        overlap=overlap,
        window=window,
        max_batch=max_batch,
        offload=offload,
        storage=storage,
        upcast=upcast,
        on_nonfinite=on_nonfinite,
        progress=progress,
        callback=callback,
    )

    def network(z: Tensor) -> Tensor:
        answer: Tensor = vae.decode(z, return_dict=False)[0]
        return answer

    return (whole(call, latents) if exact else in_pieces(call, network, latents)).to(latents.device)


def encode(
    vae: Any,
    image: Tensor,
    *,
    sample: bool = False,
    generator: Generators = None,
    wrap: Sequence[bool] = (False, False),
    patch: Pair = 64,
    overlap: Pair = 16,
    exact: bool = False,
    window: Window = triangle,
    max_batch: int = 1,
    offload: torch.device | str | None = None,
    storage: Literal["device", "cpu"] | None = None,
    upcast: bool | None = None,
    on_nonfinite: Literal["upcast", "raise", "ignore"] = "upcast",
    progress: bool | None = False,
    callback: Tick | None = None,
) -> Tensor:
    """Encode an image of any size to latents, closed where the canvas is closed: in pieces, or exactly.

    Args:
        vae: as in `decode`.
        image: [B, 3, H, W], floating, in [-1, 1] ([0, 1] is not rescaled); H and W are multiples of
            `unit_of(vae)`.
        sample: draw from the posterior. False: its mean, which is what a guide wants.
        generator: one, or one per sample, for `sample`; noise is drawn once for the whole canvas, as
            diffusers would draw it, and not per piece.
        wrap: per axis (height, width), whether the canvas closes on itself.
        patch: size of a piece in latent elements; one number, or (height, width).
        overlap: least overlap of neighbours in latent elements, below `patch`.
        exact: as in `decode`.
        window: how much each latent element of a piece counts.
        max_batch: pieces per call of the VAE.
        offload: as in `decode`.
        storage: as in `decode`.
        upcast: as in `decode`.
        on_nonfinite: as in `decode`.
        progress: show a bar; None: where a terminal looks on.
        callback: called with (pieces done, pieces in all) after each.

    Returns:
        [B, C, h, w] float32 (float64 from a VAE in float64) on the device of `image`: raw latents; the
        caller shifts and multiplies by `scaling_factor`.

    Raises:
        NonFinitePieceError: a piece is not finite, in float32 either.
        ValueError: an argument has the wrong shape (the nearest legal size is named), `sample` with a VAE
            that has no posterior, or the VAE is none of those above.

    Note:
        As in `decode`. Where pieces overlap, posteriors are averaged in mean and log variance.

    Example:
        >>> from diffusers import AutoencoderTiny
        >>> vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        ...     decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1))
        >>> encode(vae, torch.zeros(1, 3, 16, 48), patch=8, overlap=2, wrap=(False, True)).shape
        torch.Size([1, 4, 8, 24])
    """
    check_input("encode", "image", image)
    call = Call(
        name="encode",
        vae=vae,
        size=latent_size(unit_of(vae), image),
        wrap=wrap,
        patch=patch,
        overlap=overlap,
        window=window,
        max_batch=max_batch,
        offload=offload,
        storage=storage,
        upcast=upcast,
        on_nonfinite=on_nonfinite,
        progress=progress,
        callback=callback,
    )
    if exact:
        moments = whole(call, image)
    else:
        moments = in_pieces(call, lambda x: _moments(vae, x, sample), image)
    channels = vae.config.latent_channels
    latents = moments[:, :channels]
    if sample:
        spread = moments[:, channels:].clamp(-30, 20).mul(0.5).exp()
        latents = latents + spread * _noise(latents, call, generator)
    return latents.to(image.device).contiguous()


def _moments(vae: Any, image: Tensor, sample: bool) -> Tensor:
    """Mean and log variance [B, 2C, h, w] of the posterior; latents [B, C, h, w] of a VAE without one."""
    answer = vae.encode(image)
    posterior = getattr(answer, "latent_dist", None)
    if posterior is None and sample:
        remedy = "Pass sample=False: there is only one answer."
        fail("encode", "vae", "have a posterior to sample from", type(vae).__name__, remedy)
    moments: Tensor = answer.latents if posterior is None else posterior.parameters
    return moments


def _noise(mean: Tensor, call: Call, generator: Generators) -> Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    drawn: Tensor = randn_tensor(tuple(mean.shape), generator=generator, device=call.device, dtype=call.dtype)
    return drawn.to(mean)
