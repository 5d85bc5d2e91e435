# SPDX-License-Identifier: Apache-2.0
"""What a VAE computes, as steps over stripes; what it is not known to compute is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from intarsia.layout._check import fail


@dataclass(frozen=True, eq=False)
class Convolve:
    """`conv(act(norm(x)))` with the halo it needs; `fine` doubles the map first, each element four times.

    Attributes:
        name: where it stands in the VAE.
        conv: kernel 1 or 3.
        norm: statistics over the whole map; None: none.
        act: acts on each element; None: none.
        fine: 2 to enlarge the map before the convolution, else 1.
        pads: rows above, rows below, columns left, columns right that the kernel sees beyond the map.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.GroupNorm | None = None
    act: nn.Module | None = None
    fine: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Residual:
    """`(shortcut(x) + second(first(x))) / scale`; without a shortcut x itself is added."""

    first: Convolve
    second: Convolve
    shortcut: Convolve | None
    scale: float


@dataclass(frozen=True, eq=False)
class Attend:
    """Attention of every element to every other, `(x + out(attention(norm(x)))) / scale`."""

    name: str
    norm: nn.GroupNorm
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    heads: int
    residual: bool
    scale: float


Step = Convolve | Residual | Attend

_POINTWISE = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish)
_KNOWN = ("AutoencoderKL", "AutoencoderKLFlux2")
_CHILDREN = {
    "Decoder": {"conv_in", "mid_block", "up_blocks", "conv_norm_out", "conv_act", "conv_out"},
    "Encoder": {"conv_in", "mid_block", "down_blocks", "conv_norm_out", "conv_act", "conv_out"},
    "UNetMidBlock2D": {"attentions", "resnets"},
    "UpDecoderBlock2D": {"resnets", "upsamplers"},
    "DownEncoderBlock2D": {"resnets", "downsamplers"},
    "ResnetBlock2D": {"norm1", "conv1", "norm2", "dropout", "conv2", "nonlinearity", "conv_shortcut"},
    "Attention": {"group_norm", "to_q", "to_k", "to_v", "to_out"},
    "Upsample2D": {"conv"},
    "Downsample2D": {"conv", "Conv2d_0"},
}
_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor")


def steps_of(name: str, vae: Any) -> list[Step]:
    """The steps of `vae.decode` or `vae.encode`, whichever `name` says, in order.

    Raises:
        ValueError: a part of the VAE is none that is known to the letter.
    """
    return list(_Reader(name).read(vae))


def passes_of(steps: Sequence[Step]) -> int:
    """How often all stripes are gone through."""
    return sum(1 if isinstance(step, Convolve) else 2 for step in steps)


def channels_of(steps: Sequence[Step]) -> int:
    """Channels of the last map, which a convolution makes."""
    last = steps[-1]
    assert isinstance(last, Convolve)
    return last.conv.out_channels


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name

    def refuse(self, where: str, what: str) -> NoReturn:
        remedy = "Pass exact=False: overlapping pieces take any VAE."
        fail(self.name, "exact", f"be False for a VAE with {what}", f"True and {where or 'the VAE'}", remedy)

    def known(self, module: nn.Module, where: str, *kinds: str) -> None:
        kind = type(module)
        ours = kind.__module__.split(".")[0] in ("diffusers", "torch")
        if not ours or kind.__name__ not in kinds:
            self.refuse(where, f"a {kind.__module__}.{kind.__qualname__}")
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            self.refuse(where, "hooks on its layers")
        children = {key for key, child in module.named_children() if child is not None}
        if kind.__name__ in _CHILDREN and not children <= _CHILDREN[kind.__name__]:
            self.refuse(where, f"layers {sorted(children - _CHILDREN[kind.__name__])}")

    def read(self, vae: Any) -> Iterator[Step]:
        kind = type(vae)
        if not kind.__module__.startswith("diffusers.") or kind.__name__ not in _KNOWN:
            self.refuse("", f"an unknown plan ({kind.__name__})")
        decoding = self.name == "decode"
        if decoding and vae.post_quant_conv is not None:
            yield self.conv(vae.post_quant_conv, "post_quant_conv")
        part, where = (vae.decoder, "decoder") if decoding else (vae.encoder, "encoder")
        self.known(part, where, "Decoder" if decoding else "Encoder")
        yield self.conv(part.conv_in, f"{where}.conv_in")
        if decoding:
            yield from self.middle(part.mid_block, f"{where}.mid_block")
            for i, block in enumerate(part.up_blocks):
                yield from self.block(block, f"{where}.up_blocks.{i}", "UpDecoderBlock2D", "upsamplers")
        else:
            for i, block in enumerate(part.down_blocks):
                yield from self.block(block, f"{where}.down_blocks.{i}", "DownEncoderBlock2D", "downsamplers")
            yield from self.middle(part.mid_block, f"{where}.mid_block")
        yield self.conv(part.conv_out, f"{where}.conv_out", part.conv_norm_out, part.conv_act)
        if not decoding and vae.quant_conv is not None:
            yield self.conv(vae.quant_conv, "quant_conv")

    def middle(self, block: Any, where: str) -> Iterator[Step]:
        self.known(block, where, "UNetMidBlock2D")
        yield self.resnet(block.resnets[0], f"{where}.resnets.0")
        pairs = zip(block.attentions, block.resnets[1:], strict=True)
        for i, (attention, resnet) in enumerate(pairs):
            if attention is not None:
                yield self.attention(attention, f"{where}.attentions.{i}")
            yield self.resnet(resnet, f"{where}.resnets.{i + 1}")

    def block(self, block: Any, where: str, kind: str, ends: str) -> Iterator[Step]:
        self.known(block, where, kind)
        for i, resnet in enumerate(block.resnets):
            yield self.resnet(resnet, f"{where}.resnets.{i}")
        for i, end in enumerate(getattr(block, ends) or ()):
            yield self.resize(end, f"{where}.{ends}.{i}")

    def resize(self, module: Any, where: str) -> Convolve:
        self.known(module, where, "Upsample2D", "Downsample2D")
        finer = type(module).__name__ == "Upsample2D"
        odd = finer and (module.use_conv_transpose or not module.interpolate)
        if odd or module.norm is not None or not module.use_conv:
            self.refuse(where, "resampling of another kind")
        conv = module.conv
        if finer:
            return self.conv(conv, where, fine=2)
        padding = conv.padding if isinstance(conv, nn.Conv2d) else None
        if type(conv) is not nn.Conv2d or conv.stride != (2, 2) or padding not in ((0, 0), (1, 1)):
            self.refuse(where, "resampling of another kind")
        # What the module adds below and on the right where its convolution adds nothing.
        return self.conv(conv, where, stride=2, pads=(0, 1, 0, 1) if padding == (0, 0) else (1, 1, 1, 1))

    def resnet(self, module: Any, where: str) -> Residual:
        self.known(module, where, "ResnetBlock2D")
        resized = module.upsample is not None or module.downsample is not None
        if resized or module.time_emb_proj is not None or module.time_embedding_norm == "scale_shift":
            self.refuse(where, "residual blocks that depend on more than their input")
        if module.training and module.dropout.p:
            self.refuse(where, "dropout (call vae.eval())")
        shortcut = module.conv_shortcut
        return Residual(
            self.conv(module.conv1, f"{where}.conv1", module.norm1, module.nonlinearity),
            self.conv(module.conv2, f"{where}.conv2", module.norm2, module.nonlinearity),
            None if shortcut is None else self.conv(shortcut, f"{where}.conv_shortcut"),
            float(module.output_scale_factor),
        )

    def attention(self, module: Any, where: str) -> Attend:
        self.known(module, where, "Attention")
        processor = type(module.processor).__name__
        if processor not in _PROCESSORS or getattr(module, "fused_projections", False):
            self.refuse(where, f"attention by {processor}")
        layers = (module.to_q, module.to_k, module.to_v, module.to_out[0])
        for layer in layers:
            self.known(layer, where, "Linear")
        self.known(module.group_norm, where, "GroupNorm")
        if module.training and module.to_out[1].p:
            self.refuse(where, "dropout (call vae.eval())")
        width = module.to_q.out_features // module.heads
        if abs(module.scale * width**0.5 - 1) > 1e-6:
            self.refuse(where, "attention of an unusual scale")
        return Attend(
            where,
            module.group_norm,
            *layers,
            heads=module.heads,
            residual=module.residual_connection,
            scale=float(module.rescale_output_factor),
        )

    def conv(
        self,
        conv: Any,
        where: str,
        norm: Any = None,
        act: Any = None,
        *,
        fine: int = 1,
        stride: int = 1,
        pads: tuple[int, int, int, int] | None = None,
    ) -> Convolve:
        self.known(conv, where, "Conv2d")
        side = conv.kernel_size[0]
        expected = pads or (side // 2,) * 4
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        square = conv.kernel_size in ((1, 1), (3, 3)) and conv.stride == (stride, stride)
        padded = pads is not None or conv.padding == (side // 2,) * 2
        if not plain or not square or not padded:
            self.refuse(where, "convolutions of an unusual kind")
        if norm is not None:
            self.known(norm, where, "GroupNorm")
        if act is not None:
            self.known(act, where, *(kind.__name__ for kind in _POINTWISE))
        return Convolve(where, conv, norm, act, fine, expected)
