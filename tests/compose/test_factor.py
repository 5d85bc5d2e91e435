# SPDX-License-Identifier: Apache-2.0
"""Factor: rows, batches, conditions, guidance per region, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from intarsia import guidance, layout
from intarsia.compose import Factor, average
from intarsia.types import PerCanvas
from torch import Tensor

CHAIN = layout.chain(10, 4, 2)
REGIONS = CHAIN.num_regions


class Recorder:
    """Multiplies by `cond["gain"]`, and keeps what it was given."""

    sizes: tuple[tuple[int, ...], ...] | None = None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[tuple[Tensor, Tensor, object]] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        self.batches.append(len(x))
        self.seen.append((x.clone(), sigma.clone(), cond))
        return x if cond is None or "gain" not in cond else x * cond["gain"].reshape(-1, 1, 1).to(x)


def call(factor: Factor, *, batch: int = 1, cond: object = None) -> Tensor:
    x = torch.arange(batch * 10.0).reshape(batch, 1, 10) + 1
    with torch.no_grad():
        return average(factor)(x, torch.arange(1.0, batch + 1), cond)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (9, [8]), (None, [8])]
)
def test_every_row_goes_through_the_network_once_in_batches(most: int | None, expected: list[int]) -> None:
    net = Recorder()
    call(Factor(net, CHAIN, max_batch=most), batch=2)
    assert net.batches == expected
    rows = torch.cat([x for x, _, _ in net.seen])
    canvas = torch.arange(20.0).reshape(2, 1, 10) + 1
    assert torch.equal(rows, CHAIN.extract(canvas).flatten(0, 1)), "rows are ordered b*R + r"
    assert torch.cat([s for _, s, _ in net.seen]).tolist() == [1.0] * 4 + [2.0] * 4


def test_padding_gives_every_batch_one_shape_and_changes_nothing() -> None:
    plain, padded = Recorder(), Recorder()
    cond = {"gain": torch.tensor([1.0, 2, 3, 4])}
    one = call(Factor(plain, CHAIN, cond=cond, max_batch=3), batch=2)
    other = call(Factor(padded, CHAIN, cond=cond, max_batch=3, pad=True), batch=2)
    assert plain.batches == [3, 3, 2] and padded.batches == [3, 3, 3]
    assert torch.equal(one, other)


def test_conditions_of_run_and_factor_reach_their_rows() -> None:
    net = Recorder()
    own = {
        "gain": torch.tensor([1.0, 2, 3, 4]),
        "each": PerCanvas(torch.arange(8).reshape(2, 4)),
        "name": "sky",
    }
    call(Factor(net, CHAIN, cond=own, max_batch=3), batch=2, cond={"style": torch.tensor([7, 8])})
    told = [cond for _, _, cond in net.seen]
    assert torch.cat([c["gain"] for c in told]).tolist() == [1, 2, 3, 4] * 2
    assert torch.cat([c["each"] for c in told]).tolist() == list(range(8))
    assert torch.cat([c["style"] for c in told]).tolist() == [7] * 4 + [8] * 4
    assert all(c["name"] == "sky" for c in told)


def test_a_leading_axis_of_one_is_shared() -> None:
    net = Recorder()
    call(
        Factor(net, CHAIN, cond={"gain": torch.tensor([3.0])}),
        batch=2,
        cond={"style": torch.tensor([[1, 2]])},
    )
    (_, _, cond) = net.seen[0]
    assert cond["gain"].tolist() == [3.0] * 8 and cond["style"].shape == (8, 2)


def test_boxes_keep_their_own_order_of_conditions_and_coefficients() -> None:
    boxed = layout.boxes((6,), [((0,), (6,)), ((0,), (3,)), ((3,), (3,)), ((0,), (6,))])
    gain = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    coefficient = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = torch.ones(1, 1, 6)
    composite = average(Factor(Recorder(), boxed, cond={"gain": gain}, coefficient=coefficient))
    left, right = (1 + 20 + 4000) / 7, (1 + 300 + 4000) / 8
    torch.testing.assert_close(composite(x, torch.ones(1)).flatten(), torch.tensor([left] * 3 + [right] * 3))


def guided(scale: float | Tensor, net: Callable[..., Tensor]) -> guidance.CFG:
    return guidance.CFG(net, uncond={"gain": torch.zeros(1)}, scale=scale)


@pytest.mark.parametrize("most", [1, 2, 5, 7, None])
def test_guidance_goes_in_the_same_batches_with_a_scale_per_region(most: int | None) -> None:
    net = Recorder()
    scale = torch.tensor([0.0, 1.0, 2.0, 7.5])
    disjoint = layout.chain(8, 2, 2)
    cond = {"gain": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    x = torch.ones(3, 1, 8)
    with torch.no_grad():
        got = average(Factor(guided(scale, net), disjoint, cond=cond, max_batch=most))(x, torch.ones(3))
    expected = (scale * cond["gain"]).repeat_interleave(2).expand(3, 1, 8)
    torch.testing.assert_close(got, expected)
    total, full = 3 * 4 * 2, most or 24
    assert net.batches == [full] * (total // full) + ([total % full] if total % full else [])


def test_guided_rows_are_told_of_their_own_sample() -> None:
    net = Recorder()
    cfg = guidance.CFG(net, uncond={"other": torch.tensor([5.0])}, scale=2.0)
    run = {"gain": torch.tensor([1.0, 10.0, 100.0]), "other": torch.tensor([0.0])}
    got = call(Factor(cfg, CHAIN, max_batch=5), batch=3, cond=run)
    canvas = torch.arange(30.0).reshape(3, 10) + 1
    torch.testing.assert_close(got[:, 0], canvas * run["gain"][:, None])
    told = torch.cat([cond["other"] for _, _, cond in net.seen])
    assert told.reshape(3, 2, 4)[:, 0].eq(0).all() and told.reshape(3, 2, 4)[:, 1].eq(5).all()
    levels = torch.cat([sigma for _, sigma, _ in net.seen])
    assert levels.tolist() == [1.0] * 8 + [2.0] * 8 + [3.0] * 8


def test_guidance_inside_a_factor_equals_guidance_as_a_black_box() -> None:
    net = Recorder()
    cfg = guided(3.0, net)
    cond = {"gain": torch.tensor([1.0, 2, 3, 4])}
    inside = call(Factor(cfg, CHAIN, layout.gaussian, cond=cond, max_batch=3), batch=2)
    outside = call(Factor(lambda x, s, c: cfg(x, s, c), CHAIN, layout.gaussian, cond=cond), batch=2)
    torch.testing.assert_close(inside, outside)


def test_conditions_that_cannot_be_joined_go_in_batches_of_their_own() -> None:
    net = Recorder()
    cfg = guidance.CFG(net, uncond=None, scale=2.0)
    got = call(Factor(cfg, CHAIN, cond={"gain": torch.full((4,), 3.0)}, max_batch=6))
    assert net.batches == [4, 4]
    assert [cond is None for _, _, cond in net.seen] == [False, True]
    torch.testing.assert_close(got.flatten(), 5 * (torch.arange(10.0) + 1))


def test_terms_of_different_networks_are_batched_apart_and_merged_together() -> None:
    strong, weak = Recorder(), Recorder()

    class Autoguidance:
        terms = ((strong, {}, 3.0), (weak, {"gain": torch.tensor([0.5])}, -2.0))

        def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
            raise AssertionError("a Factor takes it apart")

    got = call(Factor(Autoguidance(), CHAIN, layout.gaussian, cond={"gain": torch.full((4,), 2.0)}))
    torch.testing.assert_close(got.flatten(), 5 * (torch.arange(10.0) + 1))
    assert strong.batches == weak.batches == [4]


class Knows(Recorder):
    sizes = ((4,), (8,))


def test_declared_sizes_are_respected_through_guidance_as_well() -> None:
    Factor(Knows(), CHAIN)
    for denoiser in (Knows(), guided(2.0, Knows())):
        message = r"Factor: layout must use patches .* trained on \(\(4,\), \(8,\)\), got \(5,\)"
        with pytest.raises(ValueError, match=message):
            Factor(denoiser, layout.chain(10, 5, 5))


class Unbalanced:
    terms = ((Recorder(), {}, 2.0), (Recorder(), {}, 0.5))

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch": 0}, r"Factor: max_batch must be at least 1, got 0"),
        ({"max_batch": -3}, r"Factor: max_batch must be at least 1, got -3"),
        ({"pad": True}, r"Factor: pad must come with max_batch, got None"),
        (
            {"coefficient": torch.ones(3)},
            r"Factor: coefficient must be a number or one per region \(\[4\]\), got shape \[3\]",
        ),
        (
            {"coefficient": torch.ones(4, 1)},
            r"Factor: coefficient must be a number or one per region .* \[4, 1\]",
        ),
        ({"coefficient": float("nan")}, r"Factor: coefficient must be finite"),
        ({"coefficient": torch.ones(4, requires_grad=True)}, r"Factor: coefficient must not require grad"),
        (
            {"cond": {"style": torch.zeros(3)}},
            r"Factor: cond\['style'\] must have a leading axis of 1 or 4, got \[3\]",
        ),
        (
            {"cond": [torch.zeros(4), torch.zeros(2, 4)]},
            r"Factor: cond\[1\] must have a leading axis of 1 or 4",
        ),
        ({"denoiser": "net"}, r"Factor: denoiser must be callable .* got str"),
        (
            {"denoiser": guided(torch.ones(3), Recorder())},
            r"guidance scale .* one per region \(\[4\]\), got shape \[3\]",
        ),
        (
            {"denoiser": Unbalanced()},
            r"Factor: denoiser must have terms whose coefficients sum to one, got 2.5",
        ),
        (
            {"layout": (10, 4, 2)},
            r"Factor: layout must be a Layout, a BoxSet or Regions of your own, got tuple",
        ),
        ({"weight": torch.ones(5)}, r"Layout: weight must be 1-D factors of sizes \(4,\)"),
    ],
)
def test_what_is_refused_and_how(arguments: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"denoiser": Recorder(), "layout": CHAIN, **arguments}
    with pytest.raises(ValueError, match=message):
        average(Factor(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "run", "message"),
    [
        ({"gain": torch.ones(4)}, {"gain": torch.ones(2)}, r"must not give a key twice, got gain"),
        (torch.ones(4), torch.ones(2), r"must be a dict on both sides"),
        (
            None,
            {"style": torch.ones(3)},
            r"average: cond\['style'\] must have a leading axis of 1 or 2, got \[3\]",
        ),
        (
            {"each": PerCanvas(torch.ones(3, 4))},
            None,
            r"average: cond\['each'\] must have shape \[2, 4, ...\] as PerCanvas",
        ),
        (
            {"each": PerCanvas(torch.ones(2, 3))},
            None,
            r"average: cond\['each'\] must have shape \[2, 4, ...\]",
        ),
        (None, {"each": PerCanvas(torch.ones(2, 4))}, r"average: cond\['each'\] must be a plain tensor here"),
    ],
)
def test_conditions_that_do_not_fit_a_call(own: object, run: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Factor(Recorder(), CHAIN, cond=own), batch=2, cond=run)
