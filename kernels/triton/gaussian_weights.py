# SPDX-License-Identifier: Apache-2.0
"""Gaussian window along one axis."""

import math
import struct

import torch

import triton
import triton.language as tl

from ._launch import check_grid, guard

__all__ = ["gaussian_weights"]

BLOCK = 256


@triton.jit(do_not_specialize=["size"])
def _gaussian_weights(
    out,  # [s]
    sigma_bits,
    peak_bits,
    size,
    BLOCK: tl.constexpr,
):
    sigma = sigma_bits.to(tl.float64, bitcast=True)
    peak = peak_bits.to(tl.float64, bitcast=True)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = (2 * at - (size - 1)).to(tl.float64) / (2 * size.to(tl.float64))
    value = tl.exp(-(place * place) / (2 * sigma * sigma)) * peak
    tl.store(out + at, value.to(out.dtype.element_ty), mask=at < size)


def _bits(value: float) -> int:
    # Triton passes a Python float as fp32; an integer keeps all 64 bits.
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def gaussian_weights(out: torch.Tensor, sigma_fraction: float) -> None:
    """Write `out[j] = exp(-((j - m) / s)^2 / (2 f^2)) / sqrt(2 pi f^2)` with `m = (s - 1) / 2`.

    Args:
        out: `[s]`, fp32 or fp64, contiguous; the window is computed in fp64.
        sigma_fraction: f, the standard deviation as a share of the length; positive.
    """
    size = out.numel()
    if size == 0:
        return
    peak = 1.0 / math.sqrt(2.0 * math.pi * sigma_fraction * sigma_fraction)
    grid = check_grid("gaussian_weights", triton.cdiv(size, BLOCK))
    with guard(out):
        _gaussian_weights[grid](
            out, _bits(sigma_fraction), _bits(peak), size, BLOCK=BLOCK, enable_fp_fusion=False
        )
