# SPDX-License-Identifier: Apache-2.0
"""What happens around the steps of a run: the user's callback, and errors in the user's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from intarsia.adapters.diffusers.family import Family
from intarsia.adapters.diffusers.plan import Plan
from intarsia.compose import NonFiniteRegionError
from intarsia.layout._check import fail
from intarsia.types import Info, NonFiniteError, State


class OnStep:
    """A diffusers callback as one of ours.

    Args:
        composer: handed to it in the place of the pipeline.
        scheduler: has the timesteps of the run.
        callback: `f(composer, step, timestep, {"latents": ...})`.
        inputs: what it asks for.
    """

    def __init__(
        self, composer: Any, scheduler: Any, callback: Callable[..., Any] | None, inputs: tuple[str, ...]
    ) -> None:
        self.composer, self.timesteps, self.callback = composer, scheduler.timesteps, callback
        self.inputs = tuple(getattr(callback, "tensor_inputs", inputs))
        unknown = [name for name in self.inputs if name != "latents"]
        if callback is not None and unknown:
            remedy = "Conditions belong to regions here; the canvas is what a callback may change."
            name = "callback_on_step_end_tensor_inputs"
            fail("Composer", name, "be ['latents']", unknown, remedy)

    @property
    def callbacks(self) -> list[Callable[[int, State, Info], State | None]]:
        """Itself, or nothing where there is no callback."""
        return [] if self.callback is None else [self]

    def __call__(self, step: int, state: State, info: Info) -> State | None:
        """Return the state with the callback's latents, if it returned any."""
        assert self.callback is not None
        given: dict[str, Tensor] = {"latents": state.x} if self.inputs else {}
        answer = self.callback(self.composer, step, self.timesteps[step], given)
        latents = (answer or {}).get("latents")
        return None if latents is None or latents is state.x else replace(state, x=latents.to(state.x))


@contextmanager
def in_regions(family: Family, plan: Plan, bad: Tensor | None) -> Iterator[None]:
    """Name the user's region where the network's answer was not finite.

    Args:
        family: names places.
        plan: the patches.
        bad: [R], bool, the patches with such an answer, where nobody has looked yet.

    Raises:
        NonFiniteRegionError: in the place of an error that names a patch, or none.
    """
    try:
        yield
    except NonFiniteError as error:
        patch = error.region if isinstance(error, NonFiniteRegionError) else _first(bad)
        if patch is None:
            raise
        offset, extent = plan.layout.boxes()[patch]
        owner = int(plan.owner[patch])
        whose = "the call's prompt" if owner < 0 else f"regions[{owner}]"
        end = tuple(o + e for o, e in zip(offset, extent, strict=True))
        told = NonFiniteRegionError(
            f"Composer: the network must return finite values, got NaN or infinity in step {error.step}, "
            f"patch {family.describe(offset)} to {family.describe(end)} of {whose}. Run the network in "
            "bfloat16 or float32, or lower the guidance.",
            factor=0,
            region=owner,
        )
        told.step = error.step
        raise told from error


def _first(bad: Tensor | None) -> int | None:
    found = [] if bad is None else bad.nonzero().flatten().tolist()
    return found[0] if found else None
