# SPDX-License-Identifier: Apache-2.0
"""Timesteps of a scheduler: by number, by value or by noise level."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from intarsia.layout._check import fail

__all__ = ["with_timesteps"]


def with_timesteps(
    scheduler: Any,
    num_inference_steps: int,
    device: torch.device | str,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    *,
    mu: float | None = None,
) -> Any:
    """Set a scheduler's timesteps by number, by value or by noise level, and return it.

    Args:
        scheduler: changed in place.
        num_inference_steps: how many steps, where neither list is given.
        device: where the timesteps live.
        timesteps: own timesteps, where the scheduler takes them.
        sigmas: own noise levels, where the scheduler takes them.
        mu: time shift of a flow-match scheduler.

    Returns:
        The scheduler.

    Raises:
        ValueError: both lists, or one that this scheduler does not take.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> with_timesteps(DDIMScheduler(), 4, "cpu").timesteps.tolist()
        [750, 500, 250, 0]
    """
    accepts = inspect.signature(scheduler.set_timesteps).parameters
    given = {"timesteps": timesteps, "sigmas": sigmas}
    if timesteps is not None and sigmas is not None:
        fail("Composer", "timesteps", "be None where sigmas are given", "both", "Pass one of the two.")
    for name, value in given.items():
        if value is not None and name not in accepts:
            kind = type(scheduler).__name__
            fail("Composer", name, f"be None for {kind}", f"{len(value)} values", "It makes its own.")
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if sigmas is not None and scheduler.config.get("use_flow_sigmas"):
        # Multistep schedulers of flows calculate with what they are given.
        own["sigmas"] = np.array(sigmas)
    if mu is not None:
        own["mu"] = mu
    # Own noise levels make the count redundant, but a shifted flow schedule may ask for both.
    if not own or (mu is not None and timesteps is None and sigmas is None):
        own["num_inference_steps"] = num_inference_steps
    scheduler.set_timesteps(device=device, **own)
    return scheduler
