# SPDX-License-Identifier: Apache-2.0
"""Bethe and Kikuchi composites: patches once, what they share taken away, every element counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from intarsia.compose.composite import Composite, OnNonFinite, weighted_sum
from intarsia.compose.factor import Factor
from intarsia.layout import BoxSet, CubeMap, Layout, Part, counting_numbers, legal_sizes, separators, uniform
from intarsia.layout._check import fail
from intarsia.layout.regions import Box
from intarsia.types import Cond, Denoiser, check_cond, sizes_of

__all__ = ["bethe", "factor_graph"]


def factor_graph(
    *factors: Factor, variables: Iterable[Factor] = (), on_nonfinite: OnNonFinite | None = None
) -> Composite:
    """Compose the factors of a graph, and take away what they share as often as it is counted too often.

    `D(x) = sum_a D_a(x_a) + sum_v c_v D_v(x_v)`, `c_v = 1 - degree(v)` for variables that hold no other, and
    in general `c_v = 1 - (factors that hold v) - sum of c_u over the variables u that hold v and more`.

    Args:
        *factors: cliques, each region of which counts once: its coefficient stays 1.
        variables: what the cliques share: denoisers of the marginals of their regions. Their coefficients are
            computed here, and replace 1.
        on_nonfinite: as in `average`.

    Returns:
        A denoiser of the canvas. In sigma space it is the score of the Bethe (Kikuchi) approximation of the
        joint density at this level, which is exact for trees of clean data and an approximation otherwise.

    Raises:
        ValueError: no factor, canvases that differ, weights that are not uniform, coefficients that were
            given, equal variables, or counting numbers that do not sum to one: the message names the place,
            and the regions that hold it.

    Source:
        Zhang et al. 2023, "DiffCollage", equations 4 and 5; Yedidia, Freeman and Weiss 2005, section V.

    Example:
        >>> from intarsia import layout
        >>> halve = lambda x, sigma, cond=None: x / 2
        >>> cliques = Factor(halve, layout.boxes((7,), [((0,), (4,)), ((3,), (4,))]))
        >>> shared = Factor(halve, layout.boxes((7,), [((3,), (1,))]))
        >>> factor_graph(cliques, variables=[shared])(torch.ones(1, 1, 7), torch.ones(1))[0, 0, 3]
        tensor(0.5000)
    """
    nodes = tuple(variables)
    _check_nodes(factors, nodes)
    first = factors[0].regions
    cliques = [box for factor in factors for box in factor.regions.boxes()]
    shared = [box for variable in nodes for box in variable.regions.boxes()]
    repeated = _repeated(shared, first)
    if repeated is not None:
        remedy = "Name each place once; its denoiser is that of its marginal."
        fail("factor_graph", "variables", "be different places", f"{_shown(repeated)} twice", remedy)
    counts = counting_numbers(cliques, shared, first.size, first.wrap)
    _check_counts(factors, nodes, counts, shared)
    parts, start = list(factors), 0
    for variable in nodes:
        own = counts[start : start + variable.layout.num_regions]
        start += variable.layout.num_regions
        parts.append(replace(variable, coefficient=own.double()))
    return weighted_sum(*parts, on_nonfinite=on_nonfinite)


def bethe(
    denoiser: Denoiser,
    layout: Layout | BoxSet | CubeMap,
    *,
    cond: Cond | Callable[[Part], Cond] = None,
    separator_denoiser: Denoiser | None = None,
    separator_cond: Cond = None,
    max_batch: int | None = None,
    on_nonfinite: OnNonFinite | None = None,
) -> Composite:
    """Compose the patches of a layout into a canvas whose joints are right, not blurred: DiffCollage.

    `D(x) = sum_r D(x_r) + sum_v c_v D_v(x_v)` over the regions r and their separators v
    (`layout.separators`): for chains and loops every seam is left + right - overlap, for `checkerboard` two
    patches less the quarter where their corners meet, for a dense grid patches - half overlaps + cells.

    Args:
        denoiser: of the patches.
        layout: of the canvas; a `layout.cubemap` for the sphere.
        cond: of the patches, leading axis R or 1. For a cube map: shared by all regions, or a function of a
            `layout.Part` of it, which knows directions and turns; it is asked for seams and faces, too.
        separator_denoiser: of the separators' marginals; None takes `denoiser` at their size.
        separator_cond: of the separators, leading axis their number or 1, as a rule the null condition. None
            takes `cond` where that is shared by all regions.
        max_batch: most rows the network sees at once.
        on_nonfinite: as in `average`.

    Returns:
        A denoiser of the canvas.

    Raises:
        ValueError: separators of a size that the denoiser was not trained on: the message names the nearest
            legal lengths of the canvas, or asks for a `separator_denoiser`; conditions that differ between
            patches without a `separator_cond`.

    Note:
        Exact for trees (chains) of clean data; at sigma > 0 the noised marginals are no longer Markov, and on
        cycles and grids it is an approximation at any level.

    Source:
        Zhang et al. 2023, "DiffCollage: Parallel generation of large content with diffusion models".

    Example:
        >>> from intarsia import layout
        >>> halve = lambda x, sigma, cond=None: x / 2
        >>> bethe(halve, layout.loop(12, 4, 2))(torch.ones(1, 1, 12), torch.ones(1)).unique()
        tensor([0.5000])
    """
    if isinstance(layout, CubeMap):
        if separator_denoiser is not None or separator_cond is not None:
            remedy = "One denoiser serves rings, seams and faces; tell them apart with a function as cond."
            fail("bethe", "separator_denoiser", "be None for a cube map", "one", remedy)
        return _on_cube(denoiser, layout, cond, max_batch, on_nonfinite)
    patches = Factor(denoiser, layout, cond=cond, max_batch=max_batch)
    between = separators(layout)
    if between is None:
        return weighted_sum(patches, on_nonfinite=on_nonfinite)
    if separator_cond is None and cond is not None:
        try:
            check_cond("bethe", cond, 1)
        except ValueError:
            fail(
                "bethe",
                "separator_cond",
                "be given where cond differs between patches",
                None,
                "Pass the null condition of the model, with a leading axis of 1.",
            )
        separator_cond = cond
    _check_sizes(denoiser, separator_denoiser, layout, between)
    joints = Factor(separator_denoiser or denoiser, between, cond=separator_cond, max_batch=max_batch)
    return factor_graph(patches, variables=[joints], on_nonfinite=on_nonfinite)


def _on_cube(
    denoiser: Denoiser,
    cube: CubeMap,
    cond: Cond | Callable[[Part], Cond],
    max_batch: int | None,
    on_nonfinite: OnNonFinite | None,
) -> Composite:
    factors = [
        Factor(
            denoiser,
            part.layout,
            coefficient=part.coefficient,
            cond=cond(part) if callable(cond) else cond,
            max_batch=max_batch,
        )
        for part in cube.parts
    ]
    return weighted_sum(*factors, on_nonfinite=on_nonfinite)


def _check_sizes(
    denoiser: Denoiser, separator_denoiser: Denoiser | None, layout: Layout | BoxSet, between: BoxSet
) -> None:
    known = sizes_of(separator_denoiser or denoiser)
    if known is None:
        return
    legal = {tuple(size) for size in known}
    wrong = sorted({part.patch for part, _ in between.groups} - legal)
    if not wrong:
        return
    shown = ", ".join(map(str, sorted(legal)))
    required = f"have separators of a size the denoiser was trained on ({shown})"
    remedy = "Pass separator_denoiser=, or a denoiser that was trained on this size, too."
    if isinstance(layout, Layout):
        for axis, length in enumerate(layout.size):
            below, above = legal_sizes(layout, axis)
            if not layout.wrap[axis] and below != length:
                remedy = f"The nearest legal lengths of axis {axis} are {below} and {above}; crop the result."
                break
    fail("bethe", "layout", required, ", ".join(map(str, wrong)), remedy)


def _check_nodes(factors: tuple[Factor, ...], variables: tuple[Factor, ...]) -> None:
    for name, nodes in (("factors", factors), ("variables", variables)):
        for number, node in enumerate(nodes):
            if not isinstance(cast(object, node), Factor):
                remedy = "Write Factor(denoiser, layout)."
                fail("factor_graph", name, "be Factors", f"{type(node).__name__} at {number}", remedy)
            if not isinstance(node.layout, (Layout, BoxSet)):
                remedy = "Counting numbers of other regions are yours to give: use weighted_sum."
                fail("factor_graph", name, "lie on boxes", f"{node.layout!r} at {number}", remedy)
            if node.weight is not uniform:
                remedy = "Counting numbers take the place of windows."
                fail("factor_graph", name, "have uniform weights", f"another at {number}", remedy)
            if not bool((node.coefficients == 1).all()):
                remedy = "Counting numbers are computed from the graph."
                fail("factor_graph", name, "have coefficients of 1", f"others at {number}", remedy)
    if not factors:
        fail("factor_graph", "factors", "be one or more Factor", "none", "Give the cliques of the graph.")
    places = {(node.regions.size, node.regions.wrap) for node in (*factors, *variables)}
    if len(places) > 1:
        got = " and ".join(f"{size} with wrap {wrap}" for size, wrap in sorted(places))
        fail("factor_graph", "factors", "share one canvas", got, "Build every layout for the same one.")


def _check_counts(
    factors: tuple[Factor, ...], variables: tuple[Factor, ...], counts: Tensor, shared: list[Box]
) -> None:
    total = torch.zeros((), dtype=torch.float64)
    for factor in factors:
        total = total + factor.regions.total()
    start = 0
    for variable in variables:
        own = counts[start : start + variable.layout.num_regions].double()
        start += variable.layout.num_regions
        total = total + variable.regions.total(coefficient=own)
    wrong = (total - 1).abs() > 1e-9
    if not bool(wrong.any()):
        return
    place = tuple(int(i) for i in wrong.nonzero()[0])
    layout = factors[0].regions
    holding = [
        f"factor {_shown(box)}"
        for factor in factors
        for box in factor.regions.boxes()
        if _covers(box, place, layout)
    ]
    holding += [
        f"variable {_shown(box)} with {int(count):+d}"
        for box, count in zip(shared, counts, strict=True)
        if _covers(box, place, layout)
    ]
    got = f"{float(total[place]):g} at {place}, held by {', '.join(holding) or 'nothing'}"
    remedy = "Add the variable that these factors share, or the factor that is missing there."
    fail("factor_graph", "counting numbers", "sum to one at every canvas element", got, remedy)


def _covers(box: Box, place: tuple[int, ...], layout: Layout | BoxSet) -> bool:
    return all(
        ((at - start) % length if closed else at - start) in range(extent)
        for at, start, extent, length, closed in zip(place, *box, layout.size, layout.wrap, strict=True)
    )


def _repeated(shared: list[Box], layout: Layout | BoxSet) -> Box | None:
    seen: set[Box] = set()
    for offset, extent in shared:
        box = (tuple(o % s for o, s in zip(offset, layout.size, strict=True)), extent)
        if box in seen:
            return box
        seen.add(box)
    return None


def _shown(box: Box) -> str:
    spans = [f"{start}..{start + extent}" for start, extent in zip(*box, strict=True)]
    return "[" + ", ".join(spans) + "]"
