# SPDX-License-Identifier: Apache-2.0
"""The exact decode and encode of a call: the network's steps over the stripes of every sample."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from intarsia.adapters.diffusers._call import Call
from intarsia.adapters.diffusers._exact import Engine, NotFiniteError
from intarsia.adapters.diffusers._exact_plan import channels_of, passes_of, steps_of
from intarsia.adapters.diffusers._nonfinite import refuse, warn
from intarsia.adapters.diffusers._resident import resident


def whole(call: Call, canvas: Tensor) -> Tensor:
    """The network over all of `canvas` [B, C, *S], stripe by stripe.

    Returns:
        [B, C', *T] on the call's store, float32 (float64 from a network in float64).

    Raises:
        NonFinitePieceError: a map holds NaN or infinity, in float32 either.
        ValueError: the VAE is none that is known to the letter.
    """
    steps, unit, decoding = steps_of(call.name, call.vae), call.unit, call.name == "decode"
    (height, width), (patch_height, patch_width) = call.size, call.patches
    area = patch_height * patch_width
    rows = max(1, area // width)
    finer = unit if decoding else 1
    device, dtype, look = call.device, call.dtype, call.on_nonfinite != "ignore"
    size = (finer * height, finer * width)
    high = torch.promote_types(dtype, torch.float32)
    out = torch.empty(len(canvas), channels_of(steps), *size, dtype=high, device=call.store)
    parts = -(-height // rows) * passes_of(steps)
    redone: list[str] = []

    def attempt(engine: Engine, number: int, widest: torch.dtype | None) -> str | None:
        """Do one sample; the step after which it fails is returned, or refused in the `widest` dtype."""
        sample = canvas[number]
        try:
            engine.run(steps, sample, rows * (1 if decoding else unit), out[number])
        except NotFiniteError as error:
            clean = bool(torch.isfinite(sample).all())
            if clean and widest is None:
                return error.step
            i = error.stripe
            box = (0, i * rows * unit, width * unit, min(height, (i + 1) * rows) * unit)
            place = f"stripe {i} (pixels {box}) of sample {number} after {error.step}"
            tried = widest or torch.float32
            refuse(call.name, place, sample=number, piece=i, box=box, tried=tried, clean=clean)
        return None

    with call.ready(parts * len(canvas)) as watch:
        hook = getattr(call.vae, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(call.vae)
        wrap = (bool(call.wrap[0]), bool(call.wrap[1]))
        engine = Engine(device, dtype, call.store, wrap, area, look, watch)
        for number in range(len(canvas)):
            failed = attempt(engine, number, None if call.upcasts else dtype)
            if failed is not None:
                watch.expect(parts)
                redone.append(f"sample {number} (first after {failed})")
                with resident(call.name, call.vae, dtype=torch.float32):
                    attempt(replace(engine, dtype=torch.float32), number, torch.float32)
    warn(call.name, redone)
    return out
