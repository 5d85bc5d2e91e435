# SPDX-License-Identifier: Apache-2.0
"""What diffusers tests of every pipeline, asked of every composer; and that it leaves the pipeline alone."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from intarsia.adapters.diffusers import Composer, Region
from intarsia.compose import NonFiniteRegionError
from pipelines import CASES, Case, array, compose, every, generator


def halves(case: Case, *prompts: str, **kwargs: Any) -> list[Region]:
    return [Region(box, prompt=prompt, **kwargs) for box, prompt in zip(case.boxes, prompts, strict=True)]


@every
def test_an_image_is_the_same_alone_and_in_a_batch(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    regions = halves(case, "the sea", "a wood")
    prompts, generators = ["a cat", "a dog", "a bird"], [generator(seed) for seed in range(3)]
    batch = array(compose(pipe, case, prompts, regions=regions[:1], generator=generators), case)
    assert len(batch) == 3 and np.isfinite(batch).all()
    for index, prompt in enumerate(prompts):
        one = array(compose(pipe, case, prompt, regions=regions[:1], generator=generator(index)), case)
        np.testing.assert_allclose(batch[index], one[0], atol=1e-4, rtol=0)
    assert np.abs(batch[0] - batch[1]).max() > 1e-3


@every
def test_the_picture_does_not_depend_on_the_batches(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    regions = halves(case, "the sea", "a wood", weight=0.5)
    one = array(compose(pipe, case, regions=regions, max_batch=1), case)
    for call in ({"max_batch": 3}, {"max_batch": None}, {"max_batch": 3, "pad": True}):
        np.testing.assert_allclose(array(compose(pipe, case, regions=regions, **call), case), one, atol=1e-4)


@every
def test_images_per_prompt(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    for prompt, images in (("a cat", 1), ("a cat", 2), (["a cat", "a dog"], 2)):
        count = images * (2 if isinstance(prompt, list) else 1)
        made = array(compose(pipe, case, prompt, num_images_per_prompt=images), case)
        assert len(made) == count


@every
def test_the_tuple_holds_what_the_object_has(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    whole = compose(pipe, case)
    parts = compose(pipe, case, return_dict=False)
    assert type(whole).__name__.endswith("Output") and isinstance(parts, tuple)
    np.testing.assert_array_equal(np.asarray(parts[0]), array(whole, case))


@every
def test_callbacks_see_every_step_and_may_replace_latents(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    seen: list[tuple[int, float]] = []

    def look(composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert isinstance(composer, Composer) and list(given) == ["latents"]
        seen.append((step, float(timestep)))
        return {}

    plain = array(compose(pipe, case, output_type="latent"), case)
    watched = array(compose(pipe, case, output_type="latent", callback_on_step_end=look), case)
    np.testing.assert_array_equal(watched, plain)
    assert [step for step, _ in seen] == list(range(len(seen))) and len(seen) >= case.steps
    assert seen == sorted(seen, key=lambda pair: -pair[1])

    def erase(composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(given["latents"])} if step == len(seen) - 1 else given

    erased = array(compose(pipe, case, output_type="latent", callback_on_step_end=erase), case)
    assert (erased == 0).all()
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs must be"):
        compose(pipe, case, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    pipe = case.build().to(dtype)
    half = array(compose(pipe, case, latents=_start(pipe, case)), case).ravel()
    whole = array(compose(case.build(), case, latents=_start(pipe, case)), case).ravel()
    assert np.isfinite(half).all()
    distance = 1 - half @ whole / np.linalg.norm(half) / np.linalg.norm(whole)
    assert distance < 5e-2


def _start(pipe: Any, case: Case) -> torch.Tensor:
    composer = Composer.from_pipe(pipe)
    size = composer.plan(**case.wide).size
    return torch.randn(1, composer.family.channels, *size, generator=generator(5))


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything a pipeline holds, deeply, weights included."""
    held = {key: value for key, value in vars(pipe).items() if key != "_internal_dict"}
    modules = {key: value for key, value in held.items() if isinstance(value, torch.nn.Module)}
    return {
        "names": sorted(held),
        "config": dict(pipe.config),
        "scheduler": copy.deepcopy(vars(pipe.scheduler)),
        "weights": {key: {n: t.clone() for n, t in m.state_dict().items()} for key, m in modules.items()},
        "modes": {key: [part.training for part in m.modules()] for key, m in modules.items()},
        # transformers hooks its own encoders when it is first asked for hidden states; nobody else may.
        "forward": {key: ["forward" in vars(part) for part in m.modules()] for key, m in modules.items()},
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, (torch.Tensor, np.ndarray)):
        return bool((torch.as_tensor(first) == torch.as_tensor(second)).all())
    return bool(first == second)


@every
def test_the_pipeline_is_left_as_it_was(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    before = snapshot(pipe)
    compose(pipe, case, regions=halves(case, "the sea", "a wood"))
    assert same(before, snapshot(pipe))

    def fail(composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> None:
        raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        compose(pipe, case, callback_on_step_end=fail)
    assert same(before, snapshot(pipe))
    assert not same(before, snapshot(case.build().to(torch.bfloat16)))


@every
def test_an_interrupted_run_returns_the_canvas_so_far(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    before, canvases = snapshot(pipe), []

    def stop(composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> None:
        canvases.append(given["latents"])
        if step == 0:
            composer.interrupt()

    latents = compose(pipe, case, callback_on_step_end=stop, output_type="latent")
    assert len(canvases) == 1
    np.testing.assert_array_equal(array(latents, case), canvases[0].numpy())
    assert same(before, snapshot(pipe))
    again = array(compose(pipe, case), case)
    np.testing.assert_array_equal(again, array(compose(case.build(), case), case))


@pytest.mark.parametrize("name", ["stable_diffusion"])
def test_eight_threads_with_a_pipeline_each(name: str) -> None:
    case = CASES[name]
    pipes = [case.build() for _ in range(8)]
    alone = [array(compose(pipe, case, generator=generator(n)), case) for n, pipe in enumerate(pipes)]
    found: list[Any] = [None] * 8

    def work(n: int) -> None:
        for _ in range(2):
            found[n] = array(compose(pipes[n], case, generator=generator(n)), case)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(other, one)


@every
def test_a_closed_canvas_does_not_know_where_it_was_cut(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    start = _start(pipe, case)
    whole = Composer.from_pipe(pipe).plan(**case.wide, wrap=True)
    step = whole.layout.boxes()[1][0][-1]
    call = {"wrap": True, "output_type": "latent", "window": "uniform"}
    one = array(compose(pipe, case, latents=start, **call), case)
    rolled = array(compose(pipe, case, latents=start.roll(step, -1), **call), case)
    np.testing.assert_allclose(rolled, np.roll(one, step, -1), atol=1e-4 * np.abs(one).max())
    still = array(compose(pipe, case, latents=start, **{**call, "wrap": False}), case)
    assert np.abs(still - one).max() > 1e-3


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["stable_diffusion"])
def test_what_is_not_finite_names_step_and_region(
    name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    if late:  # as on a GPU, where looking after each call would wait for it
        looks = lambda plan, device: torch.zeros(plan.num_patches, dtype=torch.bool)  # noqa: E731
        monkeypatch.setattr("intarsia.adapters.diffusers.composer.watch", looks)
    pipe = case.build()
    regions = halves(case, "the sea", "a wood")
    bad = pipe.encode_prompt(["a wood"], "cpu", 1, False)[0] * float("nan")
    regions[1] = Region(case.boxes[1], prompt_embeds=bad)
    with pytest.raises(
        NonFiniteRegionError, match=r"step 0, patch \(64, 0\) to \(128, 64\) of regions\[1\]"
    ) as e:
        compose(pipe, case, regions=regions)
    assert (e.value.step, e.value.region) == (0, 1)
    assert np.isfinite(array(compose(pipe, case, regions=regions[:1]), case)).all()

    def poison(
        composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        next(composer.pipe.unet.parameters()).data.fill_(float("nan"))
        return {}

    with pytest.raises(NonFiniteRegionError, match=r"step 1, patch .* of the call's prompt") as error:
        compose(pipe, case, callback_on_step_end=poison)
    assert (error.value.step, error.value.region) == (1, -1)
