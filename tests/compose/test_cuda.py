# SPDX-License-Identifier: Apache-2.0
"""Composites on CUDA: devices agree, nothing waits for the device, a call can be captured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from intarsia import denoisers, guidance, layout
from intarsia.compose import Composite, Factor, average
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def network(x: Tensor, time: Tensor, cond: dict[str, Tensor]) -> Tensor:
    assert x.device == time.device == cond["gain"].device == cond["style"].device
    return (x * cond["gain"].reshape(-1, 1, 1, 1)).tanh() + time.reshape(-1, 1, 1, 1).to(x.dtype)


def build() -> Composite:
    """Everything at once: guidance per region, boxes, several factors, conditions that live on the CPU."""
    plane = layout.grid((24, 40), (16, 16), (8, 8), (False, True))
    scale = torch.linspace(1, 5, plane.num_regions)
    cfg = guidance.CFG(denoisers.from_v(network), {"style": torch.zeros(1)}, scale)
    cond = {"gain": torch.linspace(0.5, 1.5, plane.num_regions), "style": torch.arange(plane.num_regions)}
    boxed = layout.boxes((24, 40), [((0, 0), (24, 40)), ((4, 8), (16, 16))])
    opaque = lambda x, sigma, cond: network(x, sigma, cond)  # noqa: E731
    own = {"gain": torch.tensor([1.0, 2.0]), "style": torch.arange(2)}
    return average(
        Factor(cfg, plane, layout.gaussian, cond={**cond, "style": cond["style"].float()}, max_batch=7),
        Factor(
            opaque,
            boxed,
            layout.quartic,
            coefficient=torch.tensor([0.5, 2.0]),
            cond=own,
            max_batch=1,
            pad=True,
        ),
    )


def test_every_tensor_moves_to_the_device_of_the_canvas() -> None:
    """On a make-believe device, which refuses to mix devices as a real one would."""
    composite = build()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        x = torch.empty(2, 3, 24, 40, device="cuda")
        out = composite(x, torch.ones(2, device="cuda"))
    assert out.device.type == "cuda" and out.shape == (2, 3, 24, 40)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@needs_cuda
def test_equal_to_the_cpu_without_waiting_and_in_a_graph(no_waiting: None) -> None:
    composite = build()
    x, sigma = torch.randn(2, 3, 24, 40), torch.tensor([0.5, 3.0])
    with torch.no_grad():
        expected = composite(x, sigma)
        near = x.cuda()
        level = sigma.cuda()
        composite = average(
            *(
                Factor(
                    f.denoiser,
                    f.layout,
                    f.weight,
                    coefficient=f.coefficients,
                    cond=_on_cuda(f.cond),
                    max_batch=f.max_batch,
                    pad=f.pad,
                )
                for f in composite.factors
            )
        )
        composite(near, level)
        torch.cuda.set_sync_debug_mode("error")
        got = composite(near, level)
        torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-5)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = composite(near, level)
        for _ in range(3):
            near.copy_(torch.randn_like(near))
            graph.replay()
            torch.testing.assert_close(captured, composite(near, level))


def _on_cuda(cond: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.cuda() for key, value in cond.items()}
