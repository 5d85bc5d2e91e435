# SPDX-License-Identifier: Apache-2.0
"""Conditions that are kept between calls: nobody can tell, but for the time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from intarsia import compose, guidance, layout
from intarsia.compose import Factor, average
from intarsia.types import PerCanvas
from torch import Tensor

CHAIN = layout.chain(10, 4, 3)
X, LEVEL = torch.zeros(1, 1, 10), torch.ones(1)


def styles(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
    """Paint the style, and leave nothing of the dict."""
    style = cond.pop("style")
    cond.clear()
    return x + style.reshape(-1, 1, 1)


def composite(cond: Any, **rest: Any) -> Any:
    guided = guidance.CFG(styles, uncond={"style": torch.tensor([10.0])}, scale=2.0)
    return average(Factor(guided, CHAIN, cond=cond, max_batch=2, **rest))


def fresh(cond: Any, x: Tensor = X, **rest: Any) -> Tensor:
    with torch.no_grad():
        return composite(cond, **rest)(x, torch.ones(len(x)))


@torch.no_grad()
def test_a_network_may_take_its_dict_apart() -> None:
    made = composite({"style": torch.tensor([1.0, 2.0, 3.0])})
    first, second = made(X, LEVEL), made(X, LEVEL)
    assert torch.equal(first, second) and first.flatten()[[0, 5, 9]].tolist() == [-8.0, -6.0, -4.0]
    assert torch.equal(copy.deepcopy(made)(X, LEVEL), first)


@torch.no_grad()
def test_what_changes_between_calls_is_seen() -> None:
    cond = {"style": torch.tensor([1.0, 2.0, 3.0])}
    made = composite(cond)
    made(X, LEVEL)
    cond["style"][1] = 7.0
    assert torch.equal(made(X, LEVEL), fresh(cond))
    cond["style"] = torch.tensor([4.0, 5.0, 6.0])
    assert torch.equal(made(X, LEVEL), fresh(cond))
    two = X.expand(2, 1, 10).contiguous()
    assert torch.equal(made(two, torch.ones(2)), fresh(cond, two))
    each = {"style": PerCanvas(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))}
    made = composite(each)
    made(two, torch.ones(2))
    each["style"].value[1, 2] = -1.0
    assert torch.equal(made(two, torch.ones(2)), fresh(each, two))


def test_what_the_run_brings_is_never_kept() -> None:
    made = average(Factor(styles, CHAIN, max_batch=2))
    with torch.no_grad():
        for style in (1.0, 2.0):
            assert made(X, LEVEL, {"style": torch.tensor([style])}).unique().tolist() == [style]


def test_gradients_reach_a_condition_in_every_call() -> None:
    style = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    made = composite({"style": style})
    with torch.no_grad():
        made(X, LEVEL)
    for _ in range(2):
        style.grad = None
        made(X, LEVEL).sum().backward()
        assert style.grad is not None and style.grad.tolist() == [7.0, 6.0, 7.0]


@torch.no_grad()
@pytest.mark.parametrize(("wide", "kept"), [(4, True), (1 << 17, False)])
def test_only_small_conditions_are_kept(wide: int, kept: bool) -> None:
    seen: list[int] = []

    def network(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        seen.append(cond["text"].data_ptr())
        return x

    made = average(Factor(network, CHAIN, cond={"text": torch.zeros(3, wide)}, max_batch=2))
    made(X, LEVEL), made(X, LEVEL)
    (job,) = made._jobs
    assert (job.rows._held is not None) is kept
    assert (seen[0] == seen[2]) or not kept


def test_inference_tensors_have_no_version_and_are_not_kept() -> None:
    with torch.inference_mode():
        cond = {"style": torch.tensor([1.0, 2.0, 3.0])}
        made = composite(cond)
        made(X, LEVEL)
        cond["style"][0] = 9.0
        assert torch.equal(made(X, LEVEL), fresh(cond))


def test_a_network_may_write_into_what_it_is_told() -> None:
    seen: list[list[float]] = []

    def net(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        seen.append(cond["gain"].tolist())
        cond["gain"].add_(1)
        return x

    made = compose.average(Factor(net, layout.chain(8, 4, 4), cond={"gain": torch.tensor([1.0, 2.0])}))
    with torch.no_grad():
        for _ in range(3):
            made(torch.zeros(1, 1, 8), torch.ones(1))
    assert seen == [[1.0, 2.0]] * 3


def test_a_bad_region_of_any_kind_is_named() -> None:
    """Regions of another rank than the canvas, in batches: the look comes one call late."""

    def net(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        return torch.where(cond["bad"].reshape(-1, 1, 1, 1), torch.nan, x)

    faces = layout.cubemap(4).faces
    bad = torch.zeros(6, dtype=torch.bool)
    bad[3] = True
    made = compose.average(Factor(net, faces, cond={"bad": bad}, max_batch=2))
    with torch.no_grad(), pytest.raises(compose.NonFiniteRegionError, match="from a finite input") as caught:
        made(torch.zeros(1, 2, 6, 4, 4), torch.ones(1))
    assert caught.value.region == 3
