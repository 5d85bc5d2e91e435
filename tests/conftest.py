# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests, and what must be settled before any test module is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hypothesis
import hypothesis.database
import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    # Triton decides when it is imported whether it compiles or interprets.
    os.environ.setdefault("TRITON_INTERPRET", "1")

REQUIRED = [name for name in os.environ.get("INTARSIA_REQUIRE", "").replace(" ", "").split(",") if name]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Absolute, and relative to the expected value, against an oracle in float64.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-6, torch.float64: 1e-12}

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile(
    "explore",
    derandomize=False,
    deadline=None,
    database=hypothesis.database.DirectoryBasedExampleDatabase(".hypothesis/examples"),
    print_blob=True,
)
hypothesis.settings.load_profile("explore" if "INTARSIA_FUZZ_CASES" in os.environ else "ci")


@dataclass(frozen=True)
class Backend:
    """A backend under test and where its tensors live."""

    name: str
    device: torch.device

    @property
    def slow(self) -> bool:
        """Whether kernels are interpreted, so that tests keep to small cases."""
        return self.name == "triton" and self.device.type == "cpu"

    def keep_to(self, few: bool) -> None:
        """Skip where kernels are interpreted, but for a few cases; the kernels' own tests cover the rest."""
        if self.slow and not few:
            pytest.skip("interpreted")


@pytest.fixture(params=["reference", "cpu", "cuda", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn, in use; one that is missing skips, or fails where INTARSIA_REQUIRE names it."""
    from intarsia import ops

    name = request.param
    state = ops.backends()[name]
    if state != "available":
        (pytest.fail if name in REQUIRED else pytest.skip)(f"{name} backend: {state}")
    on_gpu = name == "cuda" or (name == "triton" and torch.cuda.is_available())
    with ops.use_backend(name):
        yield Backend(name, torch.device("cuda" if on_gpu else "cpu"))


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The processor, and a GPU where there is one or one is required; for tests of many drawn cases."""
    if request.param == "cuda" and not torch.cuda.is_available():
        (pytest.fail if "cuda" in REQUIRED else pytest.skip)("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(params=["cuda", "triton"])
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend that runs on a GPU, there; one that is missing skips, or fails where it is required."""
    from intarsia import ops

    name = request.param
    state = ops.backends()[name] if torch.cuda.is_available() else "no CUDA device"
    if state != "available":
        (pytest.fail if "cuda" in REQUIRED and name in REQUIRED else pytest.skip)(f"{name} backend: {state}")
    with ops.use_backend(name):
        yield Backend(name, torch.device("cuda"))


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each of the four dtypes."""
    return request.param


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers in every run and order of the tests."""
    torch.manual_seed(0)


@pytest.fixture
def poisoned_empty() -> Iterator[None]:
    """Memory from torch.empty holds NaN, so that an unwritten element cannot pass."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, and puts the old one back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def assert_near() -> Callable[[Tensor, Tensor, torch.dtype], None]:
    """Compare with a float64 oracle, within what is promised for a dtype."""

    def compare(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
        bound = TOLERANCE[dtype]
        torch.testing.assert_close(actual.cpu().double(), expected.double(), rtol=bound, atol=bound)

    return compare
