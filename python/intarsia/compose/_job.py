# SPDX-License-Identifier: Apache-2.0
"""Job: one leaf denoiser on equally sized regions, batched through the network and merged."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from intarsia.compose._constant import constant
from intarsia.compose._rows import Rows
from intarsia.compose._workspace import Workspace
from intarsia.compose.factor import Factor, name_of
from intarsia.denoisers import Preconditioned
from intarsia.guidance import Term
from intarsia.layout import Layout
from intarsia.layout._check import fail
from intarsia.types import Cond, Denoiser, NonFiniteError, index_cond, per_sample

_FINITE_REMEDY = (
    "Run the network in bfloat16 or float32, or pass on_nonfinite='ignore' to let the values spread to the "
    "elements that this region covers."
)


class NonFiniteRegionError(NonFiniteError):
    """A network returned NaN or infinity. `factor` and `region` say where, in the order they were given."""

    def __init__(self, message: str, *, factor: int, region: int) -> None:
        """Keep the place beside the message."""
        super().__init__(message, step=-1)
        self.factor = factor
        self.region = region


def jobs_of(factor: Factor, number: int) -> list[Job]:
    """The jobs of a factor: one per size of region and distinct leaf denoiser of its terms."""
    leaves: dict[int, list[Term]] = {}
    for term in factor.terms:
        leaves.setdefault(id(term[0]), []).append(term)
    return [
        Job(factor, number, group, part, index, tuple(terms))
        for group, (part, index) in enumerate(factor.layout.groups)
        for terms in leaves.values()
    ]


class Job:
    """K terms of one denoiser on R regions of one size: the unit that is batched and merged.

    A `Preconditioned` network is taken apart: c_in and the cast happen while patches are cut out, and
    c_skip and c_out are applied to the merged canvas, once per element and not once per row.
    """

    def __init__(
        self, factor: Factor, number: int, group: int, part: Layout, index: Tensor, terms: tuple[Term, ...]
    ) -> None:
        self.factor, self.number, self.group, self.terms = factor, number, group, terms
        self.leaf: Denoiser = terms[0][0]
        self.part = part.repeated(len(terms))
        self.rows = Rows(index, factor.cond, [cond for _, cond, _ in terms], factor.max_batch)
        scales = torch.cat([factor.scale(coefficient)[index] for _, _, coefficient in terms])
        self.coefficient = None if bool((scales == 1).all()) else scales
        self._weights: dict[tuple[torch.dtype, torch.device], tuple[tuple[Tensor, ...], Tensor | None]] = {}
        self._shares: dict[tuple[torch.dtype, torch.device], tuple[Tensor]] = {}
        self._workspace = Workspace()

    @constant
    def weights(self, dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Weight and coefficient in `dtype` on `device`, kept after the first call."""
        held = self._weights.get((dtype, device))
        if held is None:
            weight = self.factor.layout.weights(self.factor.weight, dtype=dtype, device=device)[self.group]
            if weight[0].ndim > 1 and weight[0].shape[0] > 1:
                weight = (weight[0].repeat(len(self.terms), *(1,) * (weight[0].ndim - 1)),)
            scale = None if self.coefficient is None else self.coefficient.to(device=device, dtype=dtype)
            held = self._weights[dtype, device] = weight, scale
        return held

    def total(self) -> Tensor:
        """Sum of weights and coefficients on the canvas, `[*S]` float64."""
        weight, coefficient = self.weights(torch.float64, torch.device("cpu"))
        return self.part.total(weight=weight, coefficient=coefficient)

    def __call__(
        self, x: Tensor, sigma: Tensor, cond: Cond, *, name: str, normalize: bool, check: bool
    ) -> Tensor:
        """Merge what the denoiser says of every region, `[B, C, *S]` in the dtype of the sums."""
        if type(self.leaf) is not Preconditioned or sigma.requires_grad:
            call = partial(self._network, self.leaf, sigma, name=name if check else None)
            return self._merge(x, cond, call, normalize=normalize)
        net, dtype = self.leaf.net, self.leaf.dtype
        c_in, c_skip, c_out, time = self.leaf.precond(sigma)
        call = partial(self._network, net, time, name=name if check else None, bare=True)
        merged = self._merge(x, cond, call, normalize=normalize, scale=c_in, dtype=dtype)
        skipped = per_sample(c_skip, x) * x
        if not normalize:
            skipped = skipped * self._share(merged.dtype, x.device)[0]
        return skipped + per_sample(c_out, x) * merged

    def _merge(
        self,
        x: Tensor,
        cond: Cond,
        call: Callable[[Tensor, int, Cond], Tensor],
        *,
        normalize: bool,
        scale: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        shape = (x.shape[0], self.rows.per_sample, x.shape[1], *self.part.patch)
        with self._workspace.borrow(shape, x, dtype or x.dtype) as spare:
            patches = self.part.extract(x, scale=scale, dtype=dtype, out=spare).flatten(0, 1)
            outputs: list[Tensor] = []
            for start, stop, told in self.rows.batches(x.shape[0], cond, x.device):
                batch = patches.narrow(0, start, stop - start)
                out = call(batch, start, told)
                exact = torch.promote_types(out.dtype, patches.dtype) == patches.dtype
                if spare is not None and exact and stop - start < len(patches):
                    batch.copy_(_unshared(out, patches))
                else:
                    outputs.append(out)
            rows = patches if not outputs else outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            high = torch.float64 if x.dtype == torch.float64 else torch.float32
            rows = rows.to(high) if high == torch.float64 else rows
            weight, coefficient = self.weights(high, x.device)
            return self.part.merge(
                rows.reshape(shape), weight=weight, normalize=normalize, coefficient=coefficient, dtype=high
            )

    def _network(
        self,
        network: Callable[..., Tensor],
        levels: Tensor,
        patches: Tensor,
        start: int,
        cond: Cond,
        *,
        name: str | None,
        bare: bool = False,
    ) -> Tensor:
        count = patches.shape[0]
        rows = torch.arange(start, start + count, device=levels.device)
        levels = levels.index_select(0, rows // self.rows.per_sample)
        batch = patches
        if self.factor.pad and count != self.factor.max_batch:
            filled = torch.arange(self.factor.max_batch or count, device=patches.device).clamp(max=count - 1)
            batch, levels = patches.index_select(0, filled), levels.index_select(0, filled)
            cond = index_cond(cond, filled)
        out = network(batch, levels) if bare and cond is None else network(batch, levels, cond)
        if out.shape != batch.shape:
            required = f"return the shape of its input {list(batch.shape)}"
            remedy = "Cut off extra channels and do not change the size."
            fail("Factor", "denoiser", required, list(out.shape), remedy)
        out = out if batch is patches else out.narrow(0, 0, count)
        if name is not None:
            self._check_finite(name, out, patches, start)
        return out

    @constant
    def _share(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
        """What this job adds to the total weight, `[*S]`."""
        held = self._shares.get((dtype, device))
        if held is None:
            held = self._shares[dtype, device] = (self.total().to(device=device, dtype=dtype),)
        return held

    def _check_finite(self, name: str, out: Tensor, patches: Tensor, start: int) -> None:
        if math.isfinite(out.detach().sum().item()):
            return
        bad = ~torch.isfinite(out.detach()).flatten(1).all(1)
        if not bool(bad.any()):
            return
        row = int(bad.nonzero()[0])
        sample, local = self.rows.locate(start + row)
        region = int(self.rows.index[local])
        clean = bool(torch.isfinite(patches[row]).all())
        place = f"region {region} (offset {tuple(self.part.offsets[local].tolist())}) of sample {sample}"
        source = "a finite input" if clean else "an input that already had some"
        raise NonFiniteRegionError(
            f"{name}: denoiser {name_of(self.leaf)} of factor {self.number} must return finite values, got "
            f"NaN or infinity in {place} from {source}. {_FINITE_REMEDY}",
            factor=self.number,
            region=region,
        )


def _unshared(out: Tensor, store: Tensor) -> Tensor:
    """`out`, copied first if it is a view of the memory it is about to be written to."""
    shared = out.untyped_storage().data_ptr() == store.untyped_storage().data_ptr()
    return out.clone() if shared else out
