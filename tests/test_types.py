# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
import torch
from intarsia import samplers
from intarsia.types import (
    Denoiser,
    PerCanvas,
    Sampler,
    State,
    affine,
    broadcast_cond,
    cat_cond,
    check_canvas,
    check_cond,
    denoise,
    index_cond,
    level,
    merge_cond,
    override_cond,
    per_sample,
    same_structure,
    sizes_of,
)
from torch import Tensor


def double(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
    return 2 * x


class Fused:
    sizes = ((8,),)

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        raise AssertionError("the fused update should be taken")

    def affine(self, x: Tensor, sigma: Tensor, cond: object, *, a, b, c=0.0, noise=None) -> Tensor:
        self.seen = (sigma, cond, a, b, c, noise)
        return x + 1


def test_the_protocols_are_structural() -> None:
    assert isinstance(double, Denoiser)
    assert isinstance(samplers.Heun(), Sampler) and not isinstance(double, Sampler)
    assert sizes_of(Fused()) == ((8,),) and sizes_of(double) is None


def test_affine_is_the_sum_it_says() -> None:
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(
        affine(double, x, 1.0, a=0.5, b=-3, c=2, noise=noise), 0.5 * x - 6 * x + 2 * noise
    )


def test_affine_with_0_and_1_is_the_estimate_itself() -> None:
    x = torch.full((1, 1, 2), float("inf"))
    out = affine(lambda x, sigma, cond=None: torch.ones_like(x), x, 1.0, a=0, b=1)
    assert torch.equal(out, torch.ones(1, 1, 2))


def test_affine_hands_everything_to_a_fused_update() -> None:
    D, x, noise = Fused(), torch.zeros(2, 1, 3), torch.ones(2, 1, 3)
    out = affine(D, x, 0.5, "cond", a=1.0, b=2.0, c=3.0, noise=noise)
    sigma, *rest = D.seen
    assert torch.equal(out, x + 1) and torch.equal(sigma, torch.tensor([0.5, 0.5]))
    assert rest[:4] == ["cond", 1.0, 2.0, 3.0] and rest[4] is noise


def test_affine_is_differentiable_and_never_writes_to_its_arguments() -> None:
    x = torch.randn(1, 1, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(1, 1, 3, dtype=torch.float64, requires_grad=True)
    identity = lambda x, sigma, cond=None: x  # noqa: E731
    assert torch.autograd.gradcheck(
        lambda x, n: affine(identity, x, 1.0, a=0.25, b=0.5, c=2.0, noise=n), (x, noise)
    )
    before = x.detach().clone()
    affine(identity, x.detach(), 1.0, a=0.25, b=0.5, c=2.0, noise=noise.detach())
    assert torch.equal(x, before)


def test_the_estimate_takes_the_dtype_of_the_canvas() -> None:
    half = lambda x, sigma, cond=None: x.half()  # noqa: E731
    assert denoise(half, torch.ones(1, 1, 2), 1.0).dtype == torch.float32
    assert affine(half, torch.ones(1, 1, 2), 1.0, a=0, b=1).dtype == torch.float32


def test_level_and_per_sample() -> None:
    x = torch.zeros(3, 2, 4, 5)
    assert level(0.1, x).tolist() == torch.full((3,), 0.1).tolist() and level(0.1, x).dtype == torch.float32
    assert level(0.1, x.double())[0].item() == 0.1
    assert level(0.1, x.half()).dtype == torch.float32
    assert per_sample(torch.ones(3), x).shape == (3, 1, 1, 1)


def test_state_advances_without_being_changed() -> None:
    state = State(torch.zeros(1, 1, 1), 2.0, step=3, num_steps=9, history=(1,))
    after = state.advance(torch.ones(1, 1, 1), 1.0)
    assert (after.step, after.sigma, after.num_steps, after.history) == (4, 1.0, 9, ())
    assert state.step == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 5


def test_index_cond_selects_expands_and_looks_up_per_canvas() -> None:
    cond = {
        "style": torch.tensor([10, 11, 12]),
        "shared": torch.tensor([[7.0, 8.0]]),
        "each": PerCanvas(torch.arange(6).reshape(2, 3)),
        "all": PerCanvas(torch.arange(3).reshape(1, 3)),
        "plain": ["text", None, 3, torch.tensor(5)],
    }
    rows, canvas = torch.tensor([2, 0, 1, 2]), torch.tensor([0, 0, 1, 1])
    out = index_cond(cond, rows, canvas=canvas)
    assert out["style"].tolist() == [12, 10, 11, 12]
    assert out["shared"].tolist() == [[7.0, 8.0]] * 4
    assert out["each"].tolist() == [2, 0, 4, 5]
    assert out["all"].tolist() == [2, 0, 1, 2]
    assert out["plain"][:3] == ["text", None, 3] and out["plain"][3].item() == 5


def test_broadcast_expands_views() -> None:
    one = torch.randn(1, 5)
    out = broadcast_cond((one, {"two": torch.ones(4, 2)}), 4)
    assert out[0].shape == (4, 5) and out[0].data_ptr() == one.data_ptr() and out[1]["two"].shape == (4, 2)


def test_merge_and_override() -> None:
    assert merge_cond(None, {"a": 1}) == {"a": 1} and merge_cond("prompt", None) == "prompt"
    assert merge_cond({"a": 1}, {"b": None}) == {"a": 1, "b": None}
    assert override_cond({"a": 1, "b": 2}, {"a": None}) == {"a": None, "b": 2}
    assert override_cond({"a": 1}, {}) == {"a": 1} and override_cond("prompt", {}) == "prompt"
    assert override_cond({"a": 1}, None) is None and override_cond(None, {"a": 1}) == {"a": 1}


def test_cat_joins_rows_of_equal_trees_only() -> None:
    first = {"a": torch.ones(1, 2), "b": (None, "text")}
    second = {"a": torch.zeros(3, 2), "b": (None, "text")}
    assert cat_cond([first, second])["a"].shape == (4, 2) and cat_cond([first, second])["b"] == (None, "text")
    assert cat_cond([None, None]) is None
    for other in (
        {"a": torch.ones(1, 2)},
        {"a": torch.ones(1, 3), "b": (None, "text")},
        {"a": torch.ones(1, 2).double(), "b": (None, "text")},
        {"a": None, "b": (None, "text")},
        {"a": torch.ones(1, 2), "b": (None, "other")},
        {"a": torch.ones(1, 2), "b": [None, "text"]},
        None,
    ):
        assert not same_structure(first, other) and not same_structure(other, first)
        with pytest.raises(ValueError, match="cat_cond: conds must have the same keys"):
            cat_cond([first, other])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_canvas("f", "x"), r"f: x must be a tensor, got str\."),
        (lambda: check_canvas("f", torch.zeros(3, 4)), r"f: x must have shape \[B, C, \*S\].*got \[3, 4\]"),
        (lambda: check_canvas("f", torch.zeros((1,) * 6)), r"1 to 3 spatial axes, got \[1, 1, 1, 1, 1, 1\]"),
        (
            lambda: check_canvas("f", torch.zeros(1, 1, 1).int()),
            r"floating dtype, got torch\.int32\. .*float",
        ),
        (lambda: check_canvas("f", torch.zeros(1, 1, 1).cfloat()), r"floating dtype, got torch\.complex64"),
        (lambda: affine(double, torch.ones(1, 1, 1), 1.0, a=1, b=0, c=1), r"affine: noise must be given"),
        (
            lambda: denoise(lambda *_: torch.ones(1, 2, 1), torch.ones(1, 1, 1), 1.0),
            r"\[1, 1, 1\], got \[1, 2, 1",
        ),
        (
            lambda: denoise(lambda *_: None, torch.ones(1, 1, 1), 1.0),
            r"must return the shape .* got NoneType",
        ),
        (
            lambda: check_cond("f", {"a": [torch.ones(3)]}, 2),
            r"f: cond\['a'\]\[0\] must .* 1 or 2, got \[3\]",
        ),
        (lambda: check_cond("f", PerCanvas(torch.ones(2, 3)), 3), r"f: cond must be a plain tensor here"),
        (
            lambda: check_cond("f", PerCanvas(torch.ones(2, 4)), 3, per_canvas=2),
            r"shape \[2, 3, \.\.\.\] as PerCanvas, got \[2, 4\]",
        ),
        (
            lambda: index_cond(PerCanvas(torch.ones(2, 3)), torch.tensor([0])),
            r"index_cond: canvas must be given",
        ),
        (
            lambda: merge_cond({"a": 1, "b": 2}, {"b": 3, "a": 4}),
            r"must not give a key twice, got a, b on both",
        ),
        (lambda: merge_cond("text", {"a": 1}), r"must be a dict on both sides .* got str and dict"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
