# SPDX-License-Identifier: Apache-2.0
"""Composite: a weighted sum of denoisers, lifted from regions to the canvas, that is itself a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from intarsia.compose._constant import constant
from intarsia.compose._energy import summed, why_no_energy
from intarsia.compose._job import Update, jobs_of, updated
from intarsia.compose.factor import Factor
from intarsia.guidance import native, process_of
from intarsia.layout import check_cover
from intarsia.layout._check import fail
from intarsia.types import Cond, check_canvas, check_cond

__all__ = ["Composite", "average", "weighted_sum"]

_TOLERANCE = 1e-6
_SIGNED = "Signed sums are made by weighted_sum."
OnNonFinite = Literal["raise", "ignore"]


class Composite:
    """A sum of factors, divided by its total weight or not. Made by `average` and `weighted_sum`.

    `D(x, sigma) = sum_f sum_r coef_fr A_fr^T [w_f D_f(A_fr x, sigma, c_fr)]`, divided by the same sum of the
    weights alone where `normalize` is set.

    Called like any denoiser, so it can stand inside another Factor, a guide, or a sampler.

    Attributes:
        factors: what is summed, in the order given.
        size: `(S_1..S_n)`, the only canvas it accepts.
        normalize: whether the sum is divided by the total weight.

    Note:
        Summed in float32 (float64 on float64 canvases) whatever the networks' dtype. The result does not
        depend on `max_batch`, nor on the order of regions with distinct offsets, bit for bit where the
        networks' rows do not. Differentiable in `x` and in whatever the denoisers are. Patch buffers and
        small conditions are kept between calls with grad mode off, so a network must neither hold on to its
        input nor write into its condition; results are always fresh memory. Safe to call from several
        threads and from inside its own denoisers.
    """

    def __init__(
        self,
        name: str,
        factors: tuple[Factor, ...],
        *,
        normalize: bool,
        on_nonfinite: OnNonFinite | None = None,
    ) -> None:
        """Check that the factors fit together; `average` and `weighted_sum` call this."""
        if not factors or not all(isinstance(factor, Factor) for factor in factors):
            kinds = [type(factor).__name__ for factor in factors]
            fail(name, "factors", "be one or more Factor", kinds, f"Write {name}(Factor(denoiser, layout)).")
        if on_nonfinite not in (None, "raise", "ignore"):
            remedy = "None raises on the CPU, where looking is cheap."
            fail(name, "on_nonfinite", "be 'raise', 'ignore' or None", repr(on_nonfinite), remedy)
        sizes = sorted({factor.layout.size for factor in factors})
        if len(sizes) > 1:
            got = " and ".join(map(str, sizes))
            fail(name, "factors", "share one canvas", got, "Build every layout with the same size.")
        self.name, self.factors, self.size, self.normalize = name, factors, sizes[0], normalize
        self.on_nonfinite = on_nonfinite
        self._jobs = [job for number, factor in enumerate(factors) for job in jobs_of(factor, number)]
        self._check_weights()
        total = sum((job.total() for job in self._jobs), torch.zeros((), dtype=torch.float64))
        if normalize:
            check_cover(name, total)
        else:
            _check_one(name, total)
        self._fused = normalize and len(self._jobs) == 1 and self._jobs[0].merges_whole
        self._total = total if normalize and not self._fused else None
        self._native: Composite | None = None
        self._totals: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    writes_out = True

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The one spatial size it accepts, as denoisers declare theirs."""
        return (self.size,)

    @property
    def rows(self) -> int:
        """Network rows evaluated per sample and call, guidance included."""
        return sum(job.rows.per_sample for job in self._jobs)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Denoise a canvas.

        Args:
            x: `[B, C, *S]`, any floating dtype; keep it float32 or float64.
            sigma: `[B]` noise levels.
            cond: tree shared by all regions, tensors with leading axis B or 1.

        Returns:
            `[B, C, *S]` in the dtype of `x`, never memory that is used again.

        Raises:
            NonFiniteRegionError: a network returned NaN or infinity, unless that is ignored.
            ValueError: a canvas of another size, a sigma that is not `[B]`, a cond that does not fit.
        """
        return self._evaluate(x, sigma, cond, None)

    @property
    def native(self) -> Composite:
        """The same sum of the networks' own outputs, `f(x, t [B], cond)`, for schedulers that step those.

        Its weights sum to one, so it needs no conversion. A leaf without `native`, or leaves of different
        processes or prediction types, make it an AttributeError, as if it were not there.
        """
        if self._native is None:
            factors = tuple(replace(factor, denoiser=native(factor.denoiser)) for factor in self.factors)
            kinds = {process_of(leaf) for factor in factors for leaf, _, _ in factor.terms}
            if len(kinds) > 1:
                got = " and ".join(map(str, kinds))
                raise AttributeError(
                    f"{self.name}: denoisers must share one process and prediction type for native, got "
                    f"{got}. Use a solver of intarsia.samplers, which converts them."
                )
            self._native = Composite(
                self.name, factors, normalize=self.normalize, on_nonfinite=self.on_nonfinite
            )
        return self._native

    @property
    def process(self) -> Hashable:
        """What its networks predict of which process, where they share one and say so."""
        kinds = {process_of(leaf) for factor in self.factors for leaf, _, _ in factor.terms}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def energy(self) -> Callable[..., Tensor]:
        """`energy(x [B, C, *S], sigma [B], cond) -> [B]`: the factors' energies, summed over their regions.

        An AttributeError where there is none: an average, weights that vary, or a leaf without an energy.
        """
        reason = why_no_energy(self.name, self.factors, normalize=self.normalize)
        if reason is not None:
            raise AttributeError(reason)
        return lambda x, sigma, cond=None: summed(self.factors, x, sigma, cond)[0].to(x.dtype)

    @property
    def with_energy(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Energy [B] and estimate [B, C, *S] in one go; an AttributeError where there is no energy."""
        _ = self.energy

        def both(x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
            return summed(self.factors, x, sigma, cond)

        return both

    def affine(
        self,
        x: Tensor,
        sigma: Tensor,
        cond: Cond = None,
        *,
        a: float,
        b: float,
        c: float = 0.0,
        noise: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return `a*x + b*D(x, sigma, cond) + c*noise`, one factor's in the pass that merges its regions.

        Args:
            x: `[B, C, *S]`, any floating dtype.
            sigma: `[B]` noise levels.
            cond: as in a call.
            a: factor of the canvas.
            b: factor of the estimate.
            c: factor of `noise`.
            noise: `[B, C, *S]` in the dtype of `x`.
            out: `[B, C, *S]` like `x` and apart from it, which may be written to and returned, or not.

        Returns:
            `[B, C, *S]` in the dtype of `x`, `out` or memory that is not used again. It equals the separate
            steps to the rounding of float32 (float64 on float64 canvases).

        Raises:
            NonFiniteRegionError: a network returned NaN or infinity, unless that is ignored.
            ValueError: as in a call.
        """
        return self._evaluate(x, sigma, cond, Update(a, b, c, noise if c else None, out))

    def _evaluate(self, x: Tensor, sigma: Tensor, cond: Cond, update: Update | None) -> Tensor:
        check_canvas(self.name, x)
        if tuple(x.shape[2:]) != self.size:
            got = f"{tuple(x.shape[2:])} (shape {list(x.shape)})"
            remedy = "Draw the noise with that size, or build the layouts for this one."
            fail(self.name, "x", f"have the canvas {self.size} of its layouts", got, remedy)
        if tuple(sigma.shape) != (x.shape[0],):
            required = f"have shape [{x.shape[0]}], one level per sample"
            fail(self.name, "sigma", required, list(sigma.shape), "Use types.level(sigma, x) for one number.")
        check_cond(self.name, cond, x.shape[0])
        for factor in self.factors:
            check_cond(self.name, factor.cond, factor.layout.num_regions, per_canvas=x.shape[0])
        high = torch.float64 if x.dtype == torch.float64 else torch.float32
        check = self._looks_for_nonfinite(x)
        merged: Tensor | None = None
        if len(self._jobs) == 1 and self._total is None:
            (job,) = self._jobs
            normalize = self._fused
            return job(x, sigma, cond, name=self.name, normalize=normalize, check=check, update=update).to(
                x.dtype
            )
        for job in self._jobs:
            part = job(x, sigma, cond, name=self.name, normalize=self._fused, check=check)
            merged = part if merged is None else merged + part
        assert merged is not None
        if self._total is not None:
            merged = merged / self._total_on(high, x.device)
        return updated(merged.to(x.dtype), x, update)

    def _looks_for_nonfinite(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling():
            return False
        return self.on_nonfinite == "raise" or (self.on_nonfinite is None and x.device.type == "cpu")

    @constant
    def _total_on(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        held = self._totals.get((dtype, device))
        if held is None:
            assert self._total is not None
            held = self._totals[dtype, device] = self._total.to(device=device, dtype=dtype)
        return held

    def _check_weights(self) -> None:
        for job in self._jobs:
            weight, *_ = job.weights(torch.float64, torch.device("cpu"))
            what = f"weight of factor {job.number}"
            for factor in weight:
                bad = int((~torch.isfinite(factor)).sum())
                if bad:
                    got = f"{bad} NaN or infinite values of {factor.numel()}"
                    fail(self.name, what, "be finite", got, "Check the window's parameters or its map.")
                if self.normalize and bool((factor < 0).any()):
                    fail(self.name, what, "not be negative", f"{float(factor.min()):.3g}", _SIGNED)
            least = float(job.factor.coefficients.min())
            if self.normalize and least < 0:
                fail(self.name, f"coefficient of factor {job.number}", "not be negative", least, _SIGNED)

    def __repr__(self) -> str:
        counts = sum((f.regions.total() for f in self.factors), torch.zeros((), dtype=torch.float64))
        regions = sum(factor.layout.num_regions for factor in self.factors)
        head = f"{self.name}: canvas {self.size}, {regions} regions, each element in "
        head += f"{int(counts.min())} to {int(counts.max())} of them, {self.rows} rows per sample"
        return "\n".join([head, *(f"  {factor!r}" for factor in self.factors)])


def _check_one(name: str, total: Tensor) -> None:
    off = (total - 1).abs()
    bad = ~(off <= _TOLERANCE)
    if bool(bad.any()):
        index = off.nan_to_num(nan=torch.inf).argmax()
        worst = tuple(int(i) for i in torch.unravel_index(index, total.shape))
        got = f"{float(total[worst]):.6g} at {worst} ({int(bad.sum())} of {total.numel()} elements differ)"
        remedy = "Use average, which divides by the sum, or add a factor for the remainder."
        fail(name, "weights", "sum to one at every canvas element", got, remedy)


def average(*factors: Factor, on_nonfinite: OnNonFinite | None = None) -> Composite:
    """The weighted mean of all factors' regions.

    `D(x) = sum w D_f(A x) / sum w`, the sums over every region of every factor: MultiDiffusion with
    uniform weights, Mixture of Diffusers with Gaussian ones.

    Args:
        *factors: denoisers with their layouts on one canvas.
        on_nonfinite: `"raise"` looks at every network output, which costs one read of it and on CUDA a wait
            for the device; `"ignore"` lets NaN reach the elements its region covers, and no others. None:
            raise on the CPU only. Inside `torch.compile` nobody looks.

    Returns:
        A denoiser of the canvas.

    Raises:
        CoverageError: some element has no weight (below 1e-30 float32 cannot divide by it).
        ValueError: no factor, canvases that differ, weights that are negative or not finite.

    Source:
        Bar-Tal et al. 2023, MultiDiffusion, equation 5; Jimenez 2023, Mixture of Diffusers, algorithm 1.

    Example:
        >>> from intarsia import layout
        >>> shrink = lambda x, sigma, cond=None: x / (1 + sigma.reshape(-1, 1, 1) ** 2)
        >>> wide = average(Factor(shrink, layout.chain(10, 4, 3), layout.gaussian))
        >>> wide(torch.ones(1, 1, 10), torch.ones(1))[0, 0, :3]
        tensor([0.5000, 0.5000, 0.5000])
    """
    return Composite("average", factors, normalize=True, on_nonfinite=on_nonfinite)


def weighted_sum(*factors: Factor, on_nonfinite: OnNonFinite | None = None) -> Composite:
    """The signed sum of all factors' regions, with weights that sum to one by themselves.

    `D(x) = sum coef w D_f(A x)`. Coefficients may be negative: one factor can take away what two others
    count twice.

    Args:
        *factors: denoisers with their layouts on one canvas.
        on_nonfinite: as in `average`.

    Returns:
        A denoiser of the canvas.

    Raises:
        ValueError: the weights times coefficients differ from one by more than 1e-6 (in float64) somewhere;
            no factor, canvases that differ, weights that are not finite.

    Note:
        The sum must be one because only then does the mixture mean the same in every parametrisation
        (x0, eps, v, score).

    Example:
        >>> from intarsia import layout
        >>> identity = lambda x, sigma, cond=None: x
        >>> ring = layout.loop(8, 4, 2)
        >>> weighted_sum(Factor(identity, ring, layout.triangle)).rows
        4
    """
    return Composite("weighted_sum", factors, normalize=False, on_nonfinite=on_nonfinite)
