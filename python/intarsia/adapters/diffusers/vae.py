# SPDX-License-Identifier: Apache-2.0
"""Decoding and encoding of canvases of any size: in overlapping pieces, closed where the canvas is closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from intarsia.adapters.diffusers._call import Call, Pair, Tick, check_input, latent_size, unit_of
from intarsia.adapters.diffusers._pieces import NonFinitePieceError
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
    window: Window = triangle,
    max_batch: int = 1,
    offload: torch.device | str | None = None,
    storage: Literal["device", "cpu"] | None = None,
    upcast: bool | None = None,
    on_nonfinite: Literal["upcast", "raise", "ignore"] = "upcast",
    progress: bool | None = False,
    callback: Tick | None = None,
) -> Tensor:
    """Decode latents of any size to an image, piece by piece, closed where the canvas is closed.

    The canvas is cut into pieces of `patch` latent elements that overlap by `overlap` or more, evenly spread;
    every piece is decoded by the VAE's own `decode`, and the answers are averaged by `window`. A canvas no
    larger than a piece is decoded whole.

    Args:
        vae: AutoencoderKL (Stable Diffusion 1 to 3, XL, Flux) or AutoencoderTiny of diffusers.
        latents: [B, C, h, w], floating: what the VAE decodes, divided by `scaling_factor`, shifted back.
        wrap: per axis (height, width), whether the canvas closes on itself.
        patch: size of a piece in latent elements; one number, or (height, width).
        overlap: least overlap of neighbours in latent elements, below `patch`.
        window: how much each pixel of a piece counts.
        max_batch: pieces per call of the VAE.
        offload: device to compute on. The weights are there for the call and back where they were afterwards,
            whatever happens. None: where they are, or where the pipeline's own offloading takes them.
        storage: where decoded pieces wait: the device of the computation, or the CPU. None: the device.
        upcast: whether a VAE in float16 computes in float32 throughout. None: if its `config.force_upcast`.
        on_nonfinite: what is done with a piece in half precision that holds NaN or infinity: decode it again
            in float32 and warn ("upcast"), or "raise", or "ignore" and do not even look.
        progress: show a bar; None: where a terminal looks on.
        callback: called with (pieces done, pieces in all) after each; what it raises ends the call.

    Returns:
        [B, 3, H, W] float32 (float64 from a VAE in float64) on the device of `latents`, not clamped.

    Raises:
        NonFinitePieceError: a piece is not finite, in float32 either; its `box` says where.
        ValueError: an argument has the wrong shape, or the VAE is none of those above.

    Note:
        Not differentiable. Deterministic where the VAE is. On a closed axis whose length `patch - overlap`
        divides, rolling the latents by that stride rolls the image. Memory beyond the VAE's own for
        `max_batch` pieces: the result, and one sample's pieces in float32, about
        `12 H W (patch / (patch - overlap))^2` bytes. The VAE is changed while it works (and restored), so
        no other thread may use it meanwhile.

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
        "decode",
        vae,
        (latents.shape[2], latents.shape[3]),
        wrap,
        patch,
        overlap,
        window,
        max_batch,
        offload,
        storage,
        upcast,
        on_nonfinite,
        progress,
        callback,
    )

    def network(z: Tensor) -> Tensor:
        answer: Tensor = vae.decode(z, return_dict=False)[0]
        return answer

    return call.in_pieces(network, latents).to(latents.device)


def encode(
    vae: Any,
    image: Tensor,
    *,
    sample: bool = False,
    generator: Generators = None,
    wrap: Sequence[bool] = (False, False),
    patch: Pair = 64,
    overlap: Pair = 16,
    window: Window = triangle,
    max_batch: int = 1,
    offload: torch.device | str | None = None,
    storage: Literal["device", "cpu"] | None = None,
    upcast: bool | None = None,
    on_nonfinite: Literal["upcast", "raise", "ignore"] = "upcast",
    progress: bool | None = False,
    callback: Tick | None = None,
) -> Tensor:
    """Encode an image of any size to latents, piece by piece, closed where the canvas is closed.

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
        "encode",
        vae,
        latent_size(unit_of(vae), image),
        wrap,
        patch,
        overlap,
        window,
        max_batch,
        offload,
        storage,
        upcast,
        on_nonfinite,
        progress,
        callback,
    )
    moments = call.in_pieces(lambda x: _moments(vae, x, sample), image)
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
