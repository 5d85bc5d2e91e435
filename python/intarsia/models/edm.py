# SPDX-License-Identifier: Apache-2.0
"""EDM preconditioning around a U-Net: the denoiser the bundled models are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intarsia.models.unet import UNet

__all__ = ["EDMDenoiser"]


class EDMDenoiser(nn.Module):
    """Denoiser `D(x, sigma, cond) = c_skip x + c_out F(c_in x, ln(sigma)/4, cond)`.

    `c_skip = sd^2/(sigma^2+sd^2)`, `c_out = sigma sd/sqrt(sigma^2+sd^2)`, `c_in = 1/sqrt(sigma^2+sd^2)`.
    `cond` holds `"style" [B]` int64 (missing: the null class 0) and, for networks that have positions,
    `"vertical" [B, 2]`: the centre of the patch and its extent along the first axis, both relative to the
    canvas (missing: a patch that is its own canvas, `(0.5, 1)`).

    Args:
        net: the raw network.
        styles: name of each class, in class order from 1 (0 is the null class).
        sizes: patch sizes the network was trained on; composites check against them.
        sigma_data: standard deviation of the data.
        sigma_range: smallest and largest sigma to sample from.
        label: the name of the class in `cond`, e.g. `"action"` for motion.
        about: further facts for the model file, JSON-able, such as how motions become numbers.

    Note:
        Sampling state stays in float32; `compute_dtype` (bfloat16 by `intarsia.models.load` where the
        processor is fast in it) is the network's own. Differentiable in x and the parameters.

    Source:
        Karras et al. 2022, table 1 and equation 7.

    Example:
        >>> net = UNet(2, in_channels=3, channels=(16, 32), num_classes=2, num_positions=2)
        >>> D = EDMDenoiser(net, styles=["sky"], sizes=[(64, 64)])
        >>> D(torch.zeros(1, 3, 64, 64), torch.ones(1), {"style": torch.tensor([1])}).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        net: UNet,
        *,
        styles: Sequence[str] = (),
        sizes: Sequence[Sequence[int]] = (),
        sigma_data: float = 0.5,
        sigma_range: tuple[float, float] = (0.002, 80.0),
        label: str = "style",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.styles = {name: index for index, name in enumerate(styles, 1)}
        self.sizes = tuple(tuple(size) for size in sizes)
        self.sigma_data = sigma_data
        self.sigma_min, self.sigma_max = sigma_range
        self.label, self.about = label, dict(about or {})
        self.keys = (label, "vertical") if net.position is not None else (label,)
        self.compute_dtype = torch.float32

    def precond(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`c_in, c_skip, c_out, c_noise` for `sigma [B]`, each `[B]`."""
        total = sigma**2 + self.sigma_data**2
        root = total.rsqrt()
        return root, self.sigma_data**2 / total, sigma * self.sigma_data * root, sigma.log() / 4

    def raw(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Raw network output `F [B, C, *s]` in float32 for `x [B, C, *s]`, `sigma [B]`."""
        cond = cond or {}
        if not set(cond) <= set(self.keys):
            raise ValueError(
                f"EDMDenoiser: cond must hold {' and '.join(self.keys)} only, got "
                f"{', '.join(map(str, cond))}. "
                "A key that is not understood would be ignored in silence."
            )
        rows, device = x.shape[0], x.device
        style, vertical = cond.get(self.label), cond.get("vertical")
        if style is None:
            style = torch.zeros(rows, dtype=torch.long, device=device)
        if vertical is None:
            vertical = torch.tensor([0.5, 1.0], device=device).expand(rows, 2)
        c_in, _, _, noise = self.precond(sigma)
        scaled = (x * c_in.reshape(-1, *[1] * (x.ndim - 1))).float()
        if x.ndim == 4:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        low = self.compute_dtype != torch.float32
        with torch.autocast(device.type, self.compute_dtype, enabled=low):
            return self.net(scaled, noise.float(), style.expand(rows), vertical.expand(rows, 2)).float()

    def forward(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Denoise.

        Args:
            x: `[B, C, *s]` float32 or float64, noised patches.
            sigma: `[B]` noise levels, positive.
            cond: `"style" [B]` int64 and `"vertical" [B, 2]`, both optional.

        Returns:
            `[B, C, *s]` estimate of the clean patches, in the dtype of `x`.

        Raises:
            ValueError: if `cond` holds another key.
        """
        c_skip, c_out = (c.reshape(-1, *[1] * (x.ndim - 1)) for c in self.precond(sigma)[1:3])
        return c_skip * x + c_out * self.raw(x, sigma, cond).to(x.dtype)
