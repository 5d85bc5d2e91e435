# SPDX-License-Identifier: Apache-2.0
"""Stripe by stripe a VAE gives what it gives as a whole, on closed canvases too, within its memory bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from intarsia.adapters.diffusers import _exact
from intarsia.adapters.diffusers.vae import NonFinitePieceError, decode, encode
from intarsia.types import StopSampling
from torch import Tensor, nn
from vaes import Live, distilled, kl, noise

SMALL: dict[str, Any] = {"exact": True, "patch": 6, "overlap": 0}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd": {},
    "flux": {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16, "levels": 4},
    "no attention": {"mid_block_add_attention": False, "layers_per_block": 1},
    "four levels": {"levels": 4},
    "another activation": {"act_fn": "gelu", "levels": 2},
    "one group": {"norm_num_groups": 1},
}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("patch", [64, 6, (3, 4)])
def test_equal_to_the_whole(config: dict[str, Any], patch: Any) -> None:
    vae = kl(**config)
    z = noise(2, vae.config.latent_channels, 7, 9)
    whole = vae.decode(z).sample
    image = decode(vae, z, exact=True, patch=patch, overlap=0)
    assert relative(image, whole) < 1e-5
    latents = vae.encode(whole).latent_dist.mean
    assert relative(encode(vae, whole, exact=True, patch=patch, overlap=0), latents) < 1e-5


def test_equal_to_rounding_in_double_precision() -> None:
    vae, z = kl(4).double(), noise(1, 4, 11, 6, dtype=torch.float64)
    whole = vae.decode(z).sample
    assert relative(decode(vae, z, **SMALL), whole) < 1e-12
    assert relative(encode(vae, whole, **SMALL), vae.encode(whole).latent_dist.mean) < 1e-12
    vae.set_attn_processor(AttnProcessor())
    assert relative(decode(vae, z, **SMALL), whole) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_the_whole_decode(dtype: torch.dtype) -> None:
    vae, z = kl().to(dtype), noise(1, 4, 8, 9)
    truth = kl().to(dtype).double().decode(z.to(dtype).double()).sample
    theirs = (vae.decode(z.to(dtype)).sample - truth).square().mean()
    ours = (decode(vae, z, **SMALL) - truth).square().mean()
    assert ours < 4 * theirs


def test_a_sample_of_the_posterior_is_the_same() -> None:
    vae, image = kl(), noise(1, 3, 32, 24)
    drawn = encode(vae, image, sample=True, generator=torch.Generator().manual_seed(1), **SMALL)
    theirs = vae.encode(image).latent_dist.sample(torch.Generator().manual_seed(1))
    assert relative(drawn, theirs) < 1e-5


@pytest.mark.parametrize("wrap", [(False, True), (True, False), (True, True)])
def test_a_closed_canvas_has_no_beginning(wrap: tuple[bool, bool]) -> None:
    vae, z = kl(), noise(1, 4, 7, 10)
    shift = [axis * step for axis, step in zip(wrap, (3, 1), strict=True)]
    pixels = [4 * step for step in shift]
    image = decode(vae, z, wrap=wrap, **SMALL)
    rolled = decode(vae, z.roll(shift, (2, 3)), wrap=wrap, **SMALL)
    assert relative(rolled, image.roll(pixels, (2, 3))) < 1e-5
    assert relative(vae.decode(z).sample, image) > 0.05
    latents = encode(vae, image, wrap=wrap, **SMALL)
    again = encode(vae, image.roll(pixels, (2, 3)), wrap=wrap, **SMALL)
    assert relative(again, latents.roll(shift, (2, 3))) < 1e-5


def test_a_closed_canvas_is_what_circular_padding_makes_of_it() -> None:
    vae, z = kl(), noise(1, 4, 7, 10)
    image = decode(vae, z, wrap=(True, True), **SMALL)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    assert relative(image, vae.decode(z).sample) < 1e-5
    one = decode(kl(), z[:, :, :1, :1], wrap=(True, True), **SMALL)
    assert relative(one, vae.decode(z[:, :, :1, :1]).sample) < 1e-5


def measured(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Live:
    live, put = Live(), _exact.Engine._put

    def marked(self: Any, x: Tensor) -> Tensor:
        stored = put(self, x)
        live.see(stored, "stored")
        return stored

    monkeypatch.setattr(_exact.Engine, "_put", marked)
    with live:
        call()
    monkeypatch.undo()
    return live


def test_memory_keeps_to_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, unit, area, width = 4, 8, 64, 16
    vae, (c0, c1, cm) = kl(levels), (8, 8, 16)
    rows = unit * (area // width)
    work = 2 * 4 * c1 * unit**2 * area * (1 + 2 / rows) * (1 + 2 / (unit * width))
    found = {}
    for height in (16, 32, 64):
        z = noise(1, 4, height, width)
        live = measured(lambda z=z: decode(vae, z, exact=True, patch=8, overlap=0), monkeypatch)
        pixels = height * width * unit**2
        attention, result = 2 * 4 * cm * (height * width + 4 * area), 12 * pixels
        assert live.most_work - result < 1.05 * max(work, attention)
        stored = 4 * pixels * max(c1, 2 * c0) * (1 + 2 / rows)
        assert 0.9 * stored < live.most_stored < 1.05 * stored
        found[height] = live.most_work - result
    assert found[64] < 1.05 * found[16]
    with torch.no_grad():
        whole = measured(lambda: vae.decode(z), monkeypatch)
    assert whole.most_work > 2 * (live.most_work + live.most_stored - result)


def test_overflow_is_met_after_the_layer_and_done_again_in_float32() -> None:
    vae, z = kl(), noise(2, 4, 9, 8)
    vae.decoder.conv_in.weight *= 8000
    vae = vae.half()
    z[1, :, 5] *= 100
    told: list[tuple[int, int]] = []
    with pytest.warns(RuntimeWarning, match=r"sample 1 \(first after decoder.conv_in\) came out") as met:
        image = decode(vae, z, callback=lambda *parts: told.append(parts), **SMALL)
    assert len(met) == 1 and vae.dtype == torch.float16
    assert relative(image[1:], decode(vae, z[1:], upcast=True, **SMALL)) < 1e-5
    assert told[-1][0] < told[-1][1] == told[0][1] * 3 // 2
    message = r"stripe 1 \(pixels \(0, 16, 32, 32\)\) of sample 1 after decoder.conv_in, from finite"
    with pytest.raises(NonFinitePieceError, match=message) as caught:
        decode(vae, z, on_nonfinite="raise", **SMALL)
    assert (caught.value.sample, caught.value.piece, caught.value.box) == (1, 1, (0, 16, 32, 32))
    assert not torch.isfinite(decode(vae, z, on_nonfinite="ignore", **SMALL)).all()
    z[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFinitePieceError, match="sample 0 after post_quant_conv, from input that a"):
        decode(vae, z, **SMALL)


def test_a_call_that_is_stopped_leaves_the_vae_as_it_was() -> None:
    vae = kl().half()
    held = [id(p) for p in vae.parameters()]

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise StopSampling

    with pytest.raises(StopSampling):
        decode(vae, noise(1, 4, 9, 8), upcast=True, callback=stop, **SMALL)
    assert [id(p) for p in vae.parameters()] == held and vae.dtype == torch.float16


def hooked(vae: Any) -> None:
    vae.decoder.conv_in.register_forward_hook(lambda module, given, out: out)


def patched(vae: Any) -> None:
    vae.decoder.mid_block.forward = lambda x, *rest: x


def replaced(vae: Any) -> None:
    class Sharper(nn.Conv2d):
        pass

    vae.decoder.conv_out = Sharper(8, 3, 3, padding=1)


def extended(vae: Any) -> None:
    vae.decoder.mid_block.extra = nn.Identity()


def strided(vae: Any) -> None:
    vae.decoder.conv_in.dilation = (2, 2)


def fused(vae: Any) -> None:
    vae.fuse_qkv_projections()


def normed(vae: Any) -> None:
    vae.decoder.conv_norm_out = nn.BatchNorm2d(8)


def dropping(vae: Any) -> None:
    vae.train().decoder.mid_block.resnets[0].dropout.p = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            hooked,
            "be False for a VAE with hooks on its layers, got True and decoder.conv_in. Pass",
        ),
        (patched, "hooks on its layers, got True and decoder.mid_block"),
        (replaced, r"a VAE with a .*Sharper, got True and decoder.conv_out"),
        (extended, r"layers \['extra'\], got True and decoder.mid_block"),
        (strided, "convolutions of an unusual kind, got True and decoder.conv_in"),
        (fused, "(attention by Fused|layers ..to_qkv)"),
        (normed, "a torch.nn.modules.batchnorm.BatchNorm2d, got True and decoder.conv_out"),
        (dropping, r"dropout \(call vae.eval\(\)\), got True and decoder.mid_block.resnets.0"),
    ],
)
def test_what_is_not_known_to_the_letter_is_refused(change: Callable[[Any], None], message: str) -> None:
    vae = kl()
    change(vae)
    with pytest.raises(ValueError, match=message):
        decode(vae, noise(1, 4, 8, 8), **SMALL)


def test_other_vaes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an unknown plan \(AutoencoderTiny\), got True and the VAE"):
        decode(distilled(), noise(1, 4, 8, 8), **SMALL)
    blocks = {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D")}
    with pytest.raises(ValueError, match="a diffusers.*AttnUpDecoderBlock2D, got True and decoder.up"):
        decode(kl(**blocks), noise(1, 4, 8, 8), **SMALL)
