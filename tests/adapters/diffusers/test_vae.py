# SPDX-License-Identifier: Apache-2.0
"""Canvases of any size through a VAE in overlapping pieces."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from intarsia import layout
from intarsia.adapters.diffusers.vae import NonFinitePieceError, decode, encode, unit_of
from intarsia.types import StopSampling
from torch import Tensor, nn
from vaes import distilled, kl, noise

RING = {"patch": 12, "overlap": 4, "wrap": (False, True)}


def state(vae: nn.Module) -> list[tuple[int, int, torch.dtype]]:
    """Which tensors a module holds, and where."""
    tensors = [*vae.parameters(), *vae.buffers()]
    return [(id(t), t.data_ptr(), t.dtype) for t in tensors]


@pytest.mark.parametrize("make", [kl, distilled])
def test_a_canvas_no_larger_than_a_piece_is_the_plain_vae(make: Any) -> None:
    vae, z = make(), noise(2, 4, 8, 12)
    image = decode(vae, z, patch=12, overlap=4)
    assert torch.equal(image, torch.cat([vae.decode(one).sample for one in z.split(1)]))
    again = decode(vae, z, patch=12, overlap=4, max_batch=2)
    torch.testing.assert_close(again, image)
    answer = vae.encode(image)
    whole = answer.latent_dist.mean if hasattr(answer, "latent_dist") else answer.latents
    torch.testing.assert_close(encode(vae, image, patch=12, overlap=4, max_batch=2), whole)


@pytest.mark.parametrize("make", [kl, distilled])
@pytest.mark.parametrize("window", [layout.uniform, layout.triangle, layout.gaussian])
def test_a_loop_stays_closed(make: Any, window: Any) -> None:
    vae, z = make(), noise(1, 4, 14, 32)
    unit = unit_of(vae)
    image = decode(vae, z, window=window, **RING)
    assert image.shape == (1, 3, 14 * unit, 32 * unit)
    rolled = decode(vae, z.roll(8, 3), window=window, **RING)
    torch.testing.assert_close(rolled, image.roll(8 * unit, 3), rtol=1e-5, atol=1e-5)
    back = encode(vae, image, window=window, **RING)
    assert back.shape == z.shape
    rolled = encode(vae, image.roll(8 * unit, 3), window=window, **RING)
    torch.testing.assert_close(rolled, back.roll(8, 3), rtol=1e-5, atol=1e-5)


def test_the_seam_is_a_place_like_any_other() -> None:
    vae, motif = kl(), noise(1, 4, 12, 8)
    z = motif.repeat(1, 1, 1, 4)
    closed = decode(vae, z, **RING)
    seam = torch.cat([closed[..., -16:], closed[..., :16]], 3)
    torch.testing.assert_close(seam, closed[..., 16:48], rtol=1e-5, atol=1e-5)
    steps = (closed - closed.roll(1, 3)).abs().mean((0, 1, 2))
    assert steps[0] <= steps[1:].max() * (1 + 1e-5)
    opened = decode(vae, z, patch=12, overlap=4)
    jump = (opened[..., 0] - opened[..., -1]).abs().mean()
    assert jump > 1.2 * steps[0]


def test_both_axes_close_and_any_length_fits() -> None:
    vae, z = kl(), noise(1, 4, 17, 23)
    options: dict[str, Any] = {"patch": (8, 10), "overlap": (4, 2), "wrap": (True, True)}
    image = decode(vae, z, **options)
    assert image.shape == (1, 3, 68, 92)
    small = decode(vae, noise(1, 4, 4, 6), **options)
    rolled = decode(vae, noise(1, 4, 4, 6).roll((2, 3), (2, 3)), **options)
    torch.testing.assert_close(rolled, small.roll((8, 12), (2, 3)), rtol=1e-5, atol=1e-5)


def test_pieces_come_close_to_the_whole_and_closer_with_more_overlap() -> None:
    vae, z = kl(), noise(1, 4, 24, 40)
    whole = vae.decode(z).sample

    def error(**options: Any) -> float:
        return float((decode(vae, z, **options) - whole).square().mean().sqrt() / whole.std())

    errors = [error(patch=16, overlap=2), error(patch=16, overlap=8), error(patch=(24, 32), overlap=16)]
    assert errors[0] > errors[1] > errors[2] and errors[0] < 0.5
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor = 16, 64, 0.25
    theirs = float((vae.decode(z).sample - whole).square().mean().sqrt() / whole.std())
    assert error(patch=16, overlap=4) < theirs


def test_batches_storage_and_switches_do_not_matter() -> None:
    vae, z = kl(), noise(2, 4, 12, 32)
    image = decode(vae, z, **RING)
    vae.enable_tiling()
    vae.enable_slicing()
    vae.tile_latent_min_size = 4
    other = decode(vae, z.double(), max_batch=3, storage="cpu", offload="cpu", **RING)
    assert other.dtype == torch.float32 and vae.use_tiling and vae.use_slicing
    torch.testing.assert_close(other, image, rtol=1e-5, atol=1e-5)
    one = decode(vae, z[1:], **RING)
    torch.testing.assert_close(one, image[1:], rtol=1e-5, atol=1e-5)
    assert decode(kl().double(), z, **RING).dtype == torch.float64


def test_a_sample_of_the_posterior_draws_once_for_the_canvas() -> None:
    vae, image = kl(), noise(2, 3, 48, 64).tanh()
    posterior = vae.encode(image).latent_dist

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    whole = encode(vae, image, sample=True, generator=seeded(), max_batch=2)
    torch.testing.assert_close(whole, posterior.sample(seeded()), rtol=1e-5, atol=1e-5)
    pieces = [encode(vae, image, sample=s, generator=seeded(), patch=8, overlap=4) for s in (True, False)]
    drawn = posterior.sample(seeded()) - posterior.mean
    assert torch.corrcoef(torch.stack([(pieces[0] - pieces[1]).flatten(), drawn.flatten()]))[0, 1] > 0.99
    several = [torch.Generator().manual_seed(s) for s in (1, 2)]
    batch = encode(vae, image, sample=True, generator=several)
    alone = encode(vae, image[1:], sample=True, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(batch[1:], alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="encode: vae must have a posterior to sample from, got Auto"):
        encode(distilled(), image, sample=True)


def spoiled() -> Any:
    """A VAE in float16 whose first features pass 65504 where latents are large."""
    vae = kl()
    vae.decoder.conv_in.weight *= 8000
    return vae.half()


def loud(z: Tensor) -> Tensor:
    """Latents that are large in columns 14 to 18, which only the second piece of three sees."""
    z = z.clone()
    z[..., 14:18] *= 100
    return z


def test_a_piece_that_overflows_is_decoded_again_in_float32() -> None:
    vae, z = spoiled(), loud(noise(1, 4, 12, 32))
    before = state(vae)
    assert not torch.isfinite(vae.decode(z.half()).sample).all()
    with pytest.warns(
        RuntimeWarning, match=r"decode: piece 1 of 3 \(pixels \(40, 0, 88, 48\)\) of sample 0 ca"
    ):
        image = decode(vae, z, patch=12, overlap=2)
    assert torch.isfinite(image).all() and state(vae) == before
    ignored = decode(vae, z, patch=12, overlap=2, on_nonfinite="ignore")
    assert torch.equal(image[..., :40], ignored[..., :40])
    exact = decode(vae, z, patch=12, overlap=2, upcast=True)
    torch.testing.assert_close(image[..., 48:80], exact[..., 48:80], rtol=1e-5, atol=1e-5)
    with pytest.raises(NonFinitePieceError, match=r"finite input, in float16. Let it be done again"):
        decode(vae, z, patch=12, overlap=2, on_nonfinite="raise")


def test_bfloat16_is_caught_as_well_and_only_once_per_call() -> None:
    vae, z = kl().bfloat16(), noise(1, 4, 12, 32)

    def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * float("nan") if output.dtype == torch.bfloat16 else output

    vae.decoder.conv_out.register_forward_hook(spoil)
    with pytest.warns(RuntimeWarning, match=r"piece 0 of 3 .* and 2 more came out") as caught:
        image = decode(vae, z, patch=12, overlap=2)
    assert len(caught) == 1 and torch.isfinite(image).all()


def test_what_stays_not_finite_is_an_error_that_names_its_place() -> None:
    vae, z = spoiled(), noise(2, 4, 12, 32)
    z[1, 0, 5, 30] = float("nan")
    with pytest.raises(NonFinitePieceError, match="input that already had some. Look at what made") as caught:
        decode(vae, z, patch=12, overlap=2)
    assert (caught.value.sample, caught.value.piece, caught.value.box) == (1, 2, (80, 0, 128, 48))
    vae = kl()
    vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(
        NonFinitePieceError, match=r"of sample 0, from finite input, in float32. Look at the V"
    ):
        decode(vae, noise(1, 4, 8, 8))
    vae.encoder.conv_out.bias[0] = float("inf")
    with pytest.raises(
        NonFinitePieceError, match=r"encode: vae must return finite .* piece 1 of 3 \(pixels \(4"
    ):
        image = noise(1, 3, 48, 128)
        vae.encoder.conv_out.bias[0] = 0.0
        encode(vae, image.index_fill(3, torch.tensor([60]), float("nan")), patch=12, overlap=2)


def test_a_vae_that_asks_for_float32_gets_it() -> None:
    vae, z = kl(force_upcast=True).half(), noise(1, 4, 8, 20)
    full = decode(kl().half().float(), z, patch=12, overlap=4)
    assert torch.equal(decode(vae, z, patch=12, overlap=4), full)
    half = decode(vae, z, patch=12, overlap=4, upcast=False)
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    assert vae.dtype == torch.float16


def test_a_call_that_is_stopped_leaves_the_vae_as_it_was() -> None:
    vae, told = kl().half(), []
    vae.enable_tiling()
    before = state(vae)

    def stop(done: int, total: int) -> None:
        told.append((done, total, vae.dtype, vae.use_tiling))
        if done == 2:
            raise StopSampling

    with pytest.raises(StopSampling):
        decode(vae, noise(1, 4, 12, 32), upcast=True, callback=stop, **RING)
    assert told == [(1, 4, torch.float32, False), (2, 4, torch.float32, False)]
    assert state(vae) == before and vae.use_tiling


def test_offloading_brings_the_same_tensors_back_even_if_it_raises() -> None:
    vae = kl()
    before, seen = state(vae), set()
    vae.decoder.conv_in.register_forward_pre_hook(
        lambda m, x: seen.add((m.weight.device.type, x[0].device.type))
    )
    with pytest.raises(Exception, match="meta"):
        decode(vae, noise(1, 4, 12, 32), offload="meta", **RING)
    assert seen == {("meta", "meta")} and state(vae) == before
    vae._hf_hook = object()
    with pytest.raises(ValueError, match="decode: offload must be None for a VAE that a pipeline offloads"):
        decode(vae, noise(1, 4, 12, 32), offload="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 0}, r"decode: patch must be one or two integers of at least 1, got 0"),
        ({"overlap": 12}, r"decode: overlap must be below the patch \(12, 12\), got \(12, 12\)"),
        ({"wrap": (True,)}, r"decode: wrap must have one entry per axis \(2\), got 1"),
        ({"max_batch": 0}, r"decode: max_batch must be at least 1, got 0"),
        ({"on_nonfinite": "mask"}, r"decode: on_nonfinite must be 'upcast', 'raise' or 'ignore', got 'mask'"),
        ({"storage": "disk"}, r"decode: storage must be 'device' or 'cpu', got 'disk'"),
        ({"vae": None}, r"decode: vae must be a VAE of diffusers, got NoneType. Pass pipe.vae"),
        (
            {"latents": torch.zeros(4, 8, 8)},
            r"decode: latents must be a floating tensor \[B, C, height, width\]",
        ),
        ({"latents": torch.zeros(0, 4, 8, 8)}, r"with elements, got torch.float32 \[0, 4, 8, 8\]"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "vae": kl(),
        "latents": noise(1, 4, 8, 8),
        "patch": 12,
        "overlap": 4,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        decode(**arguments)


def test_sizes_that_do_not_fit_name_the_nearest() -> None:
    message = "multiples of 4 pixels, got 50 x 64. The nearest legal heights are 48 or 52, widths 64"
    with pytest.raises(ValueError, match=re.escape(message)):
        encode(kl(), noise(1, 3, 50, 64))


class Hook:
    """What a pipeline's offloading leaves on a model."""

    execution_device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: nn.Module) -> None:
        self.calls += 1


@pytest.mark.parametrize("exact", [False, True])
def test_a_pipeline_that_offloads_its_vae_is_let_to(exact: bool) -> None:
    vae, z = kl(), noise(1, 4, 8, 20)
    before = decode(vae, z, exact=exact, patch=12, overlap=4)
    vae._hf_hook = Hook()
    assert torch.equal(decode(vae, z, exact=exact, patch=12, overlap=4), before)
    assert vae._hf_hook.calls or not exact


def test_weights_that_hooks_load_bit_by_bit_are_neither_cast_nor_moved() -> None:
    vae, z = kl(force_upcast=True).half(), noise(1, 4, 8, 8)
    vae.decoder.conv_in.to("meta")
    with pytest.raises(ValueError, match="decode: vae must hold its weights itself to be cast or moved"):
        decode(vae, z)
    vae = kl(force_upcast=True).half()
    vae.decoder.conv_in._diffusers_hook = SimpleNamespace(hooks={"group_offloading": None})
    with pytest.raises(ValueError, match="got weights that hooks load bit by bit. Load the VAE in float32"):
        decode(vae, z)
    assert torch.isfinite(decode(vae, z, upcast=False)).all()


def test_parts_kept_in_another_dtype_stay_in_it() -> None:
    vae, z = kl().bfloat16(), noise(1, 4, 8, 8)
    vae.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    before = state(vae)
    image = decode(vae, z)
    assert {dtype for *_, dtype in before} == {torch.bfloat16, torch.float8_e4m3fn}
    assert [dtype for *_, dtype in state(vae)] == [dtype for *_, dtype in before]
    assert (image - decode(kl(), z)).abs().mean() < 0.1
