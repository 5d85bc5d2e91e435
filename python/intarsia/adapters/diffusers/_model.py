# SPDX-License-Identifier: Apache-2.0
"""The pipeline's network as one composite on the canvas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.adapters.diffusers.family import Family
from intarsia.adapters.diffusers.plan import Plan
from intarsia.adapters.diffusers.region import Region
from intarsia.compose import Composite, Factor, average
from intarsia.guidance import CFG
from intarsia.layout._check import fail
from intarsia.types import Cond, Denoiser, PerCanvas, StopSampling

_NEGATIVE = "negative_"
_OWN = ("prompt", "side", "patch")


def guide_scales(
    family: Family, regions: Sequence[Region], plan: Plan, scale: float, extra: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """What the network is told of guidance, and the scale of every patch's guidance, [R] float64."""
    own = [scale if region.guidance_scale is None else region.guidance_scale for region in regions]
    wanted = torch.tensor([own[index] if index >= 0 else scale for index in plan.owner.tolist()])
    told = {"guidance": wanted.float()} if family.embeds_guidance else {}
    scales = torch.tensor([family.cfg_scale(value, extra) for value in wanted.tolist()], dtype=torch.float64)
    return told, scales.clamp(min=1)


def watch(plan: Plan, device: torch.device) -> Tensor | None:
    """What `Network.bad` is to be on a device."""
    return None if device.type == "cpu" else torch.zeros(plan.num_patches, dtype=torch.bool, device=device)


def usual_batch(patch: Sequence[int]) -> int:
    """How many patches of a size [latents] a network call may hold where nobody says: 8 of 64 x 64."""
    return max(1, min(8, 8 * 64 * 64 // math.prod(patch)))


@dataclass(frozen=True, eq=False)
class Network:
    """The pipeline's network, whose rows are told of a table of prompts and of their place.

    Its condition is small, however many patches there are: {"prompt": [rows, 2] the rows of the table for
    the prompt and the negative one, "side": [rows] which of the two, "patch": [rows] their places in the
    plan, and the family's geometry}.

    Attributes:
        family: calls it.
        tables: encoded prompts [N, ...].
        stopped: asked before each call whether the run is over.
        bad: [R], bool, which patches were ever answered with NaN or infinity; None where the composite looks
            at once, as on the CPU. Elsewhere that would wait for the device in every call, not every step.
    """

    family: Family
    tables: dict[str, Tensor]
    stopped: Callable[[], bool]
    bad: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; patches are cut out in it."""
        return self.family.dtype

    def native(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Ask the network for rows `x` [rows, C, *s] at timesteps `t` [rows].

        Raises:
            StopSampling: the run was interrupted.
        """
        if self.stopped():
            raise StopSampling
        rows = cond["prompt"].gather(1, cond["side"][:, None])[:, 0]
        told = {name: table.index_select(0, rows) for name, table in self.tables.items()}
        told.update((name, value) for name, value in cond.items() if name not in _OWN)
        out = self.family.predict(x, t, told)
        if self.bad is not None:
            wrong = ~out.flatten(1).sum(1, dtype=torch.float32).isfinite()
            self.bad.index_put_((cond["patch"],), wrong, accumulate=True)
        return out

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Its scheduler steps what it predicts; nobody asks for clean canvases."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Rescaled:
    """Guidance of the whole canvas whose contrast is pulled back to that of the positive prompts.

    Attributes:
        positive: the composite of the prompts.
        negative: that of the negative prompts, on the same patches.
        scale: of guidance, the same everywhere.
        phi: how far.

    Source:
        Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", equations 14 to 16.
    """

    positive: Composite
    negative: Composite
    scale: float
    phi: float

    def native(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The networks' rescaled output [B, C, *S]."""
        towards, away = self.positive.native(x, t, cond), self.negative.native(x, t, cond)
        guided = away + self.scale * (towards - away)
        axes = tuple(range(1, x.ndim))
        ratio = towards.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (self.phi * ratio + (1 - self.phi))

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """As for `Network`."""
        raise NotImplementedError


def compose(
    network: Network,
    plan: Plan,
    rows: Cond,
    places: Mapping[str, Tensor],
    scales: Tensor,
    *,
    max_batch: int | None,
    pad: bool,
    rescale: float,
) -> Denoiser:
    """All patches with their weights and guidance, as one denoiser of the canvas.

    Args:
        network: the leaf.
        plan: the patches.
        rows: of the table, [R, 2] or PerCanvas [B, R, 2].
        places: the family's geometry, [R, ...]; names with "negative_" are for the negative prompts.
        scales: [R], 1 is no guidance.
        max_batch: most rows of a network call.
        pad: fill up the last batch.
        rescale: of guidance.

    Raises:
        ValueError: guidance of different scales is to be rescaled.
    """
    device = network.family.device
    told: list[dict[str, Cond]] = [{}, {}]
    for name, value in places.items():
        told[name.startswith(_NEGATIVE)][name.removeprefix(_NEGATIVE)] = value.to(device)
    own, against = told
    own["prompt"] = PerCanvas(rows.value.to(device)) if isinstance(rows, PerCanvas) else rows.to(device)
    own["side"] = torch.zeros(1, dtype=torch.int64, device=device)
    own["patch"] = torch.arange(plan.num_patches, device=device)
    against["side"] = own["side"] + 1

    def over(denoiser: Denoiser, cond: Cond) -> Composite:
        return average(
            Factor(
                denoiser,
                plan.layout,
                plan.weight,
                coefficient=plan.coefficient,
                cond=cond,
                max_batch=max_batch,
                pad=pad,
            ),
            on_nonfinite="raise" if network.bad is None else "ignore",
        )

    one = bool((scales == scales[0]).all())
    if one and scales[0] == 1:
        return over(network, own)
    if not rescale:
        return over(CFG(network, uncond=against, scale=float(scales[0]) if one else scales), own)
    if not one:
        remedy = "Give all regions one guidance_scale, or none of their own."
        fail("Composer", "guidance_rescale", "be 0 where regions differ in guidance", rescale, remedy)
    return Rescaled(over(network, own), over(network, {**own, **against}), float(scales[0]), rescale)
