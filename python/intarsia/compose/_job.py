# SPDX-License-Identifier: Apache-2.0
"""Job: one leaf denoiser on equally sized regions, batched through the network and merged."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from intarsia.compose._constant import constant
from intarsia.compose._rows import Rows
from intarsia.compose._workspace import Workspace, reusable
from intarsia.compose.factor import Factor, name_of
from intarsia.denoisers import Preconditioned
from intarsia.guidance import Native, Term
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


class Update(NamedTuple):
    """The solver's update `a x + b D + c noise`, and where it may be written."""

    a: float
    b: float
    c: float
    noise: Tensor | None
    out: Tensor | None = None


class Looked(NamedTuple):
    """What a call of the network returned for the rows from `start` on, and the sum of it."""

    start: int
    out: Tensor
    total: Tensor


Weights: TypeAlias = tuple[tuple[Tensor, ...], Tensor | None, Tensor | None]


def jobs_of(factor: Factor, number: int) -> list[Job]:
    """The jobs of a factor: one per size of region and distinct leaf denoiser of its terms."""
    leaves: dict[int, list[Term]] = {}
    for term in factor.terms:
        leaves.setdefault(id(term[0]), []).append(term)
    return [
        Job(factor, number, group, part, index, tuple(terms))
        for group, (part, index) in enumerate(factor.regions.groups)
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
        scales = torch.stack([_per_region(coefficient, factor)[index] for _, _, coefficient in terms])
        own = factor.coefficients[index]
        # Where the terms share all of the weight, the merge combines them while it reads them.
        self.guidance = scales[:-1] if len(terms) > 1 and _is_one(scales.sum(0)) else None
        self.part = part if self.guidance is not None else part.repeated(len(terms))
        signed = own if self.guidance is not None else (scales * own).flatten()
        self.coefficient = None if bool((signed == 1).all()) else signed
        self.rows = Rows(index, factor.cond, [cond for _, cond, _ in terms], factor.max_batch)
        self._weights: dict[tuple[torch.dtype, torch.device], Weights] = {}
        self._shares: dict[tuple[torch.dtype, torch.device], tuple[Tensor]] = {}
        self._workspace = Workspace()

    @property
    def merges_whole(self) -> bool:
        """Whether one merge makes the job's mean: one term, or terms that it combines."""
        return self.guidance is not None or len(self.terms) == 1

    @constant
    def weights(self, dtype: torch.dtype, device: torch.device) -> Weights:
        """Weight, coefficient and guidance in `dtype` on `device`, kept after the first call."""
        held = self._weights.get((dtype, device))
        if held is None:
            weight = self.factor.regions.weights(self.factor.weight, dtype=dtype, device=device)[self.group]
            if self.guidance is None and weight[0].ndim > 1 and weight[0].shape[0] > 1:
                weight = (weight[0].repeat(len(self.terms), *(1,) * (weight[0].ndim - 1)),)
            scale, guidance = (
                None if given is None else given.to(device=device, dtype=dtype)
                for given in (self.coefficient, self.guidance)
            )
            held = self._weights[dtype, device] = weight, scale, guidance
        return held

    def total(self) -> Tensor:
        """Sum of weights and coefficients on the canvas, `[*S]` float64."""
        weight, coefficient, _ = self.weights(torch.float64, torch.device("cpu"))
        return self.part.total(weight=weight, coefficient=coefficient)

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        name: str,
        normalize: bool,
        check: bool,
        update: Update | None = None,
    ) -> Tensor:
        """Merge what the denoiser says of every region, `[B, C, *S]` in the dtype of the sums.

        With an `update`, which only a job that is alone gets, return `a x + b D + c noise` instead.
        """
        trap = name if check else None
        # A subclass with a call of its own is not taken apart.
        own = type(self.leaf).__call__ is not Preconditioned.__call__
        if not isinstance(self.leaf, Preconditioned) or own or sigma.requires_grad:
            call = partial(self._network, self.leaf, sigma)
            # In its own scale a network's input needs nothing but the cast.
            dtype = self.leaf.dtype if isinstance(self.leaf, Native) else None
            if update is not None and _fusable(x):
                return self._merge(x, cond, call, trap, normalize=normalize, update=update._asdict())
            return updated(self._merge(x, cond, call, trap, normalize=normalize, dtype=dtype), x, update)
        net, dtype = self.leaf.net, self.leaf.dtype
        c_in, c_skip, c_out, time = self.leaf.precond(sigma)
        call = partial(self._network, net, time, bare=True)
        into = partial(self._merge, x, cond, call, trap, normalize=normalize, scale=c_in, dtype=dtype)
        if normalize and _fusable(x):
            whole = update or Update(0.0, 1.0, 0.0, None)
            a, b = whole.a + whole.b * c_skip, whole.b * c_out
            return into(update={"a": a, "b": b, "c": whole.c, "noise": whole.noise, "out": whole.out})
        merged = into()
        skipped = per_sample(c_skip, x) * x
        if not normalize:
            skipped = skipped * self._share(merged.dtype, x.device)[0]
        return updated(skipped + per_sample(c_out, x) * merged, x, update)

    def _merge(
        self,
        x: Tensor,
        cond: Cond,
        call: Callable[[Tensor, int, Cond], Tensor],
        trap: str | None,
        *,
        normalize: bool,
        scale: Tensor | None = None,
        dtype: torch.dtype | None = None,
        update: dict[str, Any] | None = None,
    ) -> Tensor:
        copies = None if self.guidance is None else len(self.terms)
        lead = (x.shape[0],) if copies is None else (x.shape[0], copies)
        shape = (*lead, self.part.num_regions, x.shape[1], *self.part.patch)
        with self._workspace.borrow(shape, x, dtype or x.dtype) as spare:
            cut = partial(self.part.extract, x, scale=scale, copies=copies, dtype=dtype)
            patches = cut(out=spare).flatten(0, len(lead))
            outputs: list[Tensor] = []
            before: Looked | None = None
            for start, stop, told in self.rows.batches(x.shape[0], cond, x.device, keep=reusable(x)):
                batch = patches.narrow(0, start, stop - start)
                out = call(batch, start, told)
                total = None if trap is None else out.detach().sum()
                exact = torch.promote_types(out.dtype, patches.dtype) == patches.dtype
                if spare is not None and exact and stop - start < len(patches):
                    out = batch.copy_(_unshared(out, patches))
                else:
                    outputs.append(out)
                if trap is not None and total is not None:
                    # One call late: a device with a queue has the next one to do while the host waits.
                    self._check_finite(trap, before, cut)
                    before = Looked(start, out.detach(), total)
            if trap is not None:
                self._check_finite(trap, before, cut)
            rows = patches if not outputs else outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            high = torch.float64 if x.dtype == torch.float64 else torch.float32
            rows = rows.to(high) if high == torch.float64 else rows
            weight, coefficient, guidance = self.weights(high, x.device)
            given = {} if update is None else {"x": x, **update}
            target = None if given.get("out") is not None else high
            return self.part.merge(
                rows.reshape(shape),
                weight=weight,
                normalize=normalize,
                coefficient=coefficient,
                guidance=guidance,
                dtype=target,
                **given,
            )

    def _network(
        self,
        network: Callable[..., Tensor],
        levels: Tensor,
        patches: Tensor,
        start: int,
        cond: Cond,
        *,
        bare: bool = False,
    ) -> Tensor:
        count = patches.shape[0]
        if levels.shape[0] == 1:
            levels = levels.repeat(count)
        else:
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
        return out if batch is patches else out.narrow(0, 0, count)

    @constant
    def _share(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
        """What this job adds to the total weight, `[*S]`."""
        held = self._shares.get((dtype, device))
        if held is None:
            held = self._shares[dtype, device] = (self.total().to(device=device, dtype=dtype),)
        return held

    def _check_finite(self, name: str, looked: Looked | None, cut: Callable[[], Tensor]) -> None:
        if looked is None or math.isfinite(looked.total.item()):
            return
        bad = ~torch.isfinite(looked.out).flatten(1).all(1)
        if not bool(bad.any()):
            return
        row = int(bad.nonzero()[0])
        sample, local = self.rows.locate(looked.start + row)
        region = int(self.rows.index[local])
        # The patches may have been written over; the canvas has not.
        patch = cut().flatten(0, -len(self.part.patch) - 2)[looked.start + row]
        clean = bool(torch.isfinite(patch).all())
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


def _per_region(coefficient: float | Tensor, factor: Factor) -> Tensor:
    scale = torch.as_tensor(coefficient, dtype=torch.float64, device="cpu").detach()
    return scale.expand(factor.layout.num_regions)


def _is_one(total: Tensor) -> bool:
    return bool(((total - 1).abs() <= 1e-12).all())


def _fusable(x: Tensor) -> bool:
    # With gradients recorded the separate steps serve every transform of autograd.
    return not torch.is_grad_enabled() and x.dtype in (torch.float32, torch.float64)


def updated(denoised: Tensor, x: Tensor, update: Update | None) -> Tensor:
    """`a x + b D + c noise` of an estimate D, in steps of their own; D itself without an update."""
    if update is None:
        return denoised
    value = torch.add(update.b * denoised, x, alpha=update.a)
    return value if update.noise is None else torch.add(value, update.noise, alpha=update.c)
