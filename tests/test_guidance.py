# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from intarsia.guidance import CFG, Rescale, evaluate, flatten
from intarsia.types import per_sample
from torch import Tensor

X = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.5, 1.0, 2.0])
COND = {"gain": torch.tensor([1.0, 2.0, 3.0]), "place": torch.tensor([[0.1], [0.2], [0.3]])}
NULL = {"gain": torch.zeros(1)}


class Net:
    sizes = ((5,),)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.conds: list[object] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        self.batches.append(len(x))
        self.conds.append(cond)
        out = torch.tanh(x) / per_sample(1 + sigma, x)
        if not isinstance(cond, dict):
            return out
        gain = 0.0 if cond["gain"] is None else per_sample(cond["gain"], x)
        return out * (1 + gain) + per_sample(cond["place"][:, 0], x)


def by_hand(scale: float) -> Tensor:
    net = Net()
    null = {**COND, "gain": torch.zeros(3)}
    return scale * net(X, SIGMA, COND) + (1 - scale) * net(X, SIGMA, null)


@pytest.mark.parametrize("scale", [7.5, 0.5, -1.0, torch.tensor(2.0)])
def test_both_conditions_share_one_batch(scale: float | Tensor) -> None:
    net = Net()
    out = CFG(net, NULL, scale)(X, SIGMA, COND)
    torch.testing.assert_close(out, by_hand(float(scale)))
    assert net.batches == [6]
    assert torch.equal(net.conds[0]["place"], COND["place"].repeat(2, 1))


def test_trees_that_differ_take_two_calls() -> None:
    net = Net()
    out = CFG(net, {"gain": None}, 3.0)(X, SIGMA, COND)
    torch.testing.assert_close(out, by_hand(3.0))
    assert net.batches == [3, 3]
    plain = CFG(net, None, 3.0)(X, SIGMA, COND)
    torch.testing.assert_close(plain, 3 * Net()(X, SIGMA, COND) - 2 * Net()(X, SIGMA, None))


@pytest.mark.parametrize(("scale", "gain"), [(1.0, COND["gain"]), (0.0, torch.zeros(3))])
def test_scales_0_and_1_cost_one_evaluation(scale: float, gain: Tensor) -> None:
    net = Net()
    out = CFG(net, NULL, scale)(X, SIGMA, COND)
    assert net.batches == [3] and torch.equal(out, Net()(X, SIGMA, {**COND, "gain": gain}))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 7.5, torch.tensor([7.5, 1.0, 0.0])])
def test_coefficients_sum_to_one(scale: float | Tensor) -> None:
    D = CFG(Net(), NULL, scale)
    total = sum(coefficient for _, _, coefficient in D.terms)
    torch.testing.assert_close(torch.as_tensor(total), torch.ones_like(torch.as_tensor(total)))
    assert D.sizes == ((5,),) and all(term[0] is D.denoiser for term in D.terms)


def test_guiding_what_ignores_its_condition_changes_no_bit() -> None:
    deaf = lambda x, sigma, cond: torch.tanh(x)  # noqa: E731
    assert torch.equal(CFG(deaf, NULL, 7.5)(X, SIGMA, COND), torch.tanh(X))


def test_guidance_is_the_same_in_eps_and_in_x0() -> None:
    out = CFG(Net(), NULL, 4.0)(X, SIGMA, COND)
    s = per_sample(SIGMA, X)
    eps = CFG(lambda x, sigma, cond: (x - Net()(x, sigma, cond)) / per_sample(sigma, x), NULL, 4.0)
    torch.testing.assert_close(X - s * eps(X, SIGMA, COND), out, rtol=1e-5, atol=1e-5)


def test_nested_guidance_flattens_to_leaves_and_gives_the_same() -> None:
    net = Net()
    inner = CFG(net, NULL, 2.0)
    outer = CFG(inner, {"place": torch.zeros(1, 1)}, 3.0)
    terms = flatten(outer)
    assert [coefficient for _, _, coefficient in terms] == [6.0, -3.0, -4.0, 2.0]
    assert all(leaf is net for leaf, _, _ in terms)
    assert set(terms[3][1]) == {"gain", "place"} and terms[0][1] == {}
    placeless = {**COND, "place": torch.zeros(3, 1)}
    expected = 3 * inner(X, SIGMA, COND) - 2 * inner(X, SIGMA, placeless)
    net.batches.clear()
    torch.testing.assert_close(outer(X, SIGMA, COND), expected)
    assert net.batches == [12]


def test_a_term_that_drops_the_condition_is_not_looked_into() -> None:
    inner = CFG(lambda x, sigma, cond=None: x, {"a": 0}, 2.0)
    terms = flatten(CFG(inner, None, 3.0))
    assert [term[0] is inner for term in terms] == [False, False, True] and terms[2][1:] == (None, -2.0)


def test_regional_scales_multiply_when_nested() -> None:
    terms = flatten(CFG(CFG(Net(), NULL, torch.tensor([1.0, 2.0])), NULL, 3.0))
    assert terms[0][2].tolist() == [3.0, 6.0] and terms[3][2].tolist() == [-0.0, 2.0]


def test_a_denoiser_without_terms_is_its_own_term() -> None:
    net = Net()
    assert flatten(net) == ((net, {}, 1.0),)


def test_evaluate_keeps_the_order_of_terms() -> None:
    one, two = (lambda x, sigma, cond: x + 1), (lambda x, sigma, cond: x + 2)
    terms = ((one, {}, 1.0), (two, {}, 1.0), (one, {}, 1.0))
    assert [p[0, 0, 0].item() for p in evaluate(terms, X * 0, SIGMA, None)] == [1, 2, 1]


def test_rescale_matches_the_contrast_of_the_conditional_estimate() -> None:
    net = Net()
    cfg = CFG(net, NULL, 5.0)
    out = Rescale(cfg, phi=1.0)(X, SIGMA, COND)
    torch.testing.assert_close(out.std((1, 2)), Net()(X, SIGMA, COND).std((1, 2)))
    assert net.batches == [6] and not hasattr(Rescale(cfg), "terms")
    torch.testing.assert_close(Rescale(cfg, phi=0.0)(X, SIGMA, COND), cfg(X, SIGMA, COND))
    halfway = Rescale(cfg, phi=0.5)(X, SIGMA, COND)
    torch.testing.assert_close(halfway, (out + cfg(X, SIGMA, COND)) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: CFG(Net(), NULL, torch.ones(4))(X, SIGMA, COND),
            r"CFG: scale must be a number outside a Factor, got 4",
        ),
        (lambda: CFG(Net(), NULL, torch.ones(1))(X, SIGMA, COND), r"number outside a Factor, got 1 regional"),
        (
            lambda: CFG(Net(), NULL, torch.ones(2, 2)),
            r"CFG: scale must be a number or have shape \[R\], got \[2, 2\]",
        ),
        (lambda: CFG(Net(), NULL, torch.ones(0)), r"CFG: scale must .* got \[0\]"),
        (lambda: CFG(Net(), NULL, float("nan")), r"CFG: scale must be finite, got nan"),
        (lambda: Rescale(CFG(Net(), NULL, 2.0), phi=1.5), r"Rescale: phi must be within 0 and 1, got 1\.5"),
        (lambda: Rescale(CFG(Net(), NULL, torch.ones(3))), r"scale must be a number outside a Factor, got 3"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
