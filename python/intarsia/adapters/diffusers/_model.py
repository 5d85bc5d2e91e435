# SPDX-License-Identifier: Apache-2.0
"""The pipeline's network as one composite on the canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from intarsia.adapters.diffusers.denoiser import denoiser
from intarsia.adapters.diffusers.family import Family
from intarsia.adapters.diffusers.plan import Plan
from intarsia.adapters.diffusers.region import Region
from intarsia.compose import Composite, Factor, average
from intarsia.guidance import CFG
from intarsia.types import Cond, Denoiser, PerCanvas, StopSampling

if TYPE_CHECKING:
    from intarsia.adapters.diffusers.composer import Composer

_NEGATIVE = "negative_"


def guide_scales(
    family: Family, regions: Sequence[Region], plan: Plan, scale: float, extra: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """What the network is told of guidance, and the scale of every patch's guidance, [R] float64."""
    own = [scale if region.guidance_scale is None else region.guidance_scale for region in regions]
    wanted = torch.tensor([own[index] if index >= 0 else scale for index in plan.owner.tolist()])
    told = {"guidance": wanted.float()} if family.embeds_guidance else {}
    scales = torch.tensor([family.cfg_scale(value, extra) for value in wanted.tolist()], dtype=torch.float64)
    return told, scales.clamp(min=1)


class Model:
    """A network whose rows are told of a table of prompts and of their place.

    Its condition is small, however many patches there are: {"prompt": [rows, 2] the rows of the table for
    the prompt and the negative one, "side": [rows] which of the two, and the family's geometry}.

    Args:
        composer: asked before each call whether the run is over.
        plan: the patches.
        tables: encoded prompts [N, ...].
        scheduler: of the run.
    """

    def __init__(self, composer: Composer, plan: Plan, tables: dict[str, Tensor], scheduler: Any) -> None:
        self.composer, self.family, self.plan, self.tables = composer, composer.family, plan, tables
        self.denoiser: Denoiser = denoiser(
            self.family.network, scheduler, call=self.predict, dtype=self.family.dtype
        )

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Ask the network for rows `x` [rows, C, *s] at timesteps `t` [rows].

        Raises:
            StopSampling: the run was interrupted.
        """
        if self.composer._interrupt:
            raise StopSampling
        rows = cond["prompt"].gather(1, cond["side"][:, None])[:, 0]
        told = {name: table.index_select(0, rows) for name, table in self.tables.items()}
        told.update((name, value) for name, value in cond.items() if name not in ("prompt", "side"))
        return self.family.predict(x, t, told)

    def compose(
        self,
        rows: Cond,
        places: Mapping[str, Tensor],
        scales: Tensor,
        *,
        max_batch: int | None,
        pad: bool,
        rescale: float,
    ) -> Composite:
        """All patches with their weights and guidance, as one denoiser of the canvas.

        Args:
            rows: of the table, [R, 2] or PerCanvas [B, R, 2].
            places: the family's geometry, [R, ...]; names with "negative_" are for the negative prompts.
            scales: [R], 1 is no guidance.
            max_batch: most rows of a network call.
            pad: fill up the last batch.
            rescale: of guidance.
        """
        device = self.family.device
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        cond: dict[str, Cond] = {
            name: value.to(device) for name, value in places.items() if not name.startswith(_NEGATIVE)
        }
        against = {
            name.removeprefix(_NEGATIVE): value.to(device)
            for name, value in places.items()
            if name.startswith(_NEGATIVE)
        }
        table = PerCanvas(rows.value.to(device)) if isinstance(rows, PerCanvas) else rows.to(device)
        cond.update(prompt=table, side=zero)
        against.update(side=zero + 1)
        scale = float(scales[0]) if bool((scales == scales[0]).all()) else scales
        alone = isinstance(scale, float) and scale == 1
        guided = self.denoiser if alone else CFG(self.denoiser, uncond=against, scale=scale)
        return average(
            Factor(
                guided,
                self.plan.layout,
                self.plan.weight,
                coefficient=self.plan.coefficient,
                cond=cond,
                max_batch=max_batch,
                pad=pad,
            ),
            on_nonfinite="raise",
        )
