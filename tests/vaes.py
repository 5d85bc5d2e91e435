# SPDX-License-Identifier: Apache-2.0
"""Tiny VAEs with random weights and all the structure of the real ones."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def kl(levels: int = 3, seed: int = 0, **config: Any) -> AutoencoderKL:
    """An AutoencoderKL whose norms and biases matter: 8 to 16 channels, two layers per level."""
    channels = (8, 8, 16, 16)[4 - levels :]
    settings: dict[str, Any] = {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
        "force_upcast": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**{**settings, **config}).eval().requires_grad_(False)
        for module in vae.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return vae


def distilled(seed: int = 0) -> AutoencoderTiny:
    """An AutoencoderTiny of two levels."""
    sizes: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderTiny(**sizes).eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Live(TorchDispatchMode):
    """Bytes of the tensors alive, and the most there were; those marked as stored count apart."""

    def __init__(self) -> None:
        super().__init__()
        self.work = self.stored = self.most_work = self.most_stored = 0
        self._kind: dict[int, str] = {}

    def _gone(self, key: int, size: int) -> None:
        kind = self._kind.pop(key)
        setattr(self, kind, getattr(self, kind) - size)

    def see(self, tensor: Tensor, kind: str = "work") -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._kind:
            weakref.finalize(storage, self._gone, key, size)
        elif self._kind[key] == kind:
            return
        else:
            setattr(self, self._kind[key], getattr(self, self._kind[key]) - size)
        self._kind[key] = kind
        setattr(self, kind, getattr(self, kind) + size)
        setattr(self, f"most_{kind}", max(getattr(self, f"most_{kind}"), getattr(self, kind)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {
            id(t.untyped_storage()) for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tensor)
        }
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in known:
                self.see(leaf)
        return result
