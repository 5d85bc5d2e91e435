# SPDX-License-Identifier: Apache-2.0
"""Load a diffusers pipeline from a folder or a pinned commit of a hub, without running anybody's code."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from intarsia.adapters.folder import FolderError, check_folder

__all__ = ["fetch", "load_pipeline", "with_solver"]

_SOLVERS = {
    "dpmpp2m": ("DPMSolverMultistepScheduler", None),
    "heun": ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    "euler": ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
    "ddim": ("DDIMScheduler", None),
    "ancestral": ("EulerAncestralDiscreteScheduler", None),
}
_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
_REVISION = re.compile(r"[0-9a-f]{40}")


def fetch(repository: str, revision: str) -> Path:
    """Bring one commit of a hub's repository here: JSON, text and safetensors, nothing else.

    Args:
        repository: OWNER/NAME.
        revision: the 40 hexadecimal digits of a commit; names of branches move.

    Returns:
        The folder in the hub's cache.

    Raises:
        FolderError: no such commit, or no way to get it.

    Example:
        >>> fetch("owner/name", "main")
        Traceback (most recent call last):
        intarsia.adapters.folder.FolderError: fetch: revision must be the 40 ..., got 'main'. ...
    """
    if not _REVISION.fullmatch(revision):
        raise FolderError(
            f"fetch: revision must be the 40 hexadecimal digits of a commit, got {ascii(revision)[:64]}. "
            "Names of branches move; look up the commit on the model's page."
        )
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise FolderError(
            f"fetch: repository must be one that can be reached, got {ascii(repository)} ({reason}). "
            "Or save the pipeline to a folder, and name that."
        ) from error


def load_pipeline(path: str | os.PathLike[str], *, device: str | torch.device, dtype: torch.dtype) -> Any:
    """Load a pipeline from a folder that `check_folder` has nothing against.

    The check stands here, beside the loading, so that no way leads around it.

    Args:
        path: a diffusers folder.
        device: where its networks go.
        dtype: of its networks.

    Returns:
        The pipeline.

    Raises:
        FolderError: the folder, or what diffusers says of it.
    """
    folder = check_folder(path)
    import diffusers

    # Its name changed; the old one warns.
    release = tuple(int(part) for part in re.findall(r"\d+", diffusers.__version__)[:2])
    named: dict[str, Any] = {"dtype" if release >= (0, 42) else "torch_dtype": dtype}
    try:
        with _quiet():
            pipe = getattr(diffusers, folder.pipeline).from_pretrained(
                os.fspath(folder.path.resolve()),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
                **named,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise FolderError(
            f"load_pipeline: path must hold a whole pipeline, got {ascii(os.fspath(path))} ({reason}). "
            "Save it again with pipe.save_pretrained(path)."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice from the libraries while they load; their settings come back."""
    from diffusers.utils import logging as one
    from transformers.utils import logging as other

    before = [
        (library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in (one, other)
    ]
    for library, _, _ in before:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bars in before:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def with_solver(pipe: Any, name: str) -> Any:
    """Give a pipeline another scheduler, of the same noise levels and prediction type as its own.

    Args:
        pipe: changed in place.
        name: dpmpp2m, heun, euler, ddim or ancestral.

    Returns:
        The pipeline.

    Raises:
        ValueError: a solver that models of its kind have not.
    """
    import diffusers

    flow = "FlowMatch" in type(pipe.scheduler).__name__
    chosen = _SOLVERS[name][1 if flow else 0]
    if chosen is None:
        legal = ", ".join(solver for solver, kinds in _SOLVERS.items() if kinds[1])
        raise ValueError(f"with_solver: name must be one of {legal} for a flow-matching model, got {name!r}.")
    pipe.scheduler = getattr(diffusers, chosen).from_config(pipe.scheduler.config)
    return pipe
