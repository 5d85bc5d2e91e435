# SPDX-License-Identifier: Apache-2.0
"""Canvas noise: Philox4x32-10 of a place's coordinates, then Box and Muller's transform.

The integers and roundings of kernels/common/philox.h and normal.h; a lane makes the four places of a counter.
"""

from collections.abc import Sequence

import torch

import triton
import triton.language as tl

from ._launch import accumulator, check_grid, guard, narrow, pad

__all__ = ["canvas_noise"]

BLOCK = 128


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32))
        high1 = tl.umulhi(c2, tl.full(c2.shape, 0xCD9E8D57, tl.uint32))
        low0 = c0 * tl.full((), 0xD2511F53, tl.uint32)
        low1 = c2 * tl.full((), 0xCD9E8D57, tl.uint32)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + tl.full((), 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _horner(total, x, c0: tl.constexpr, c1: tl.constexpr, c2: tl.constexpr, REAL: tl.constexpr):
    """Three more terms of a polynomial; constants are of their own type and never rounded to fp32 before."""
    total = total * x + tl.full((), c0, REAL)
    total = total * x + tl.full((), c1, REAL)
    return total * x + tl.full((), c2, REAL)


@triton.jit
def _wave(y, REAL: tl.constexpr):
    """sin(pi/4 y) and cos(pi/4 y)."""
    square = y * y
    zero = square - square
    if REAL == tl.float32:
        sine = zero + tl.full((), -3.587725950637832e-05, REAL)
        sine = _horner(sine, square, 0.002489872043952346, -0.08074536919593811, 0.7853981256484985, REAL)
        cosine = zero + tl.full((), -0.0003191601426806301, REAL)
        cosine = _horner(cosine, square, 0.01585039682686329, -0.3084245026111603, 1.0, REAL)
    else:
        sine = zero + tl.full((), 1.5367433955014586e-28, REAL)
        sine = _horner(
            sine, square, -1.4947647339528288e-25, 1.2261499847700468e-22, -8.34858983481167e-20, REAL
        )
        sine = _horner(
            sine, square, 4.6287046288346816e-17, -2.0410263396641436e-14, 6.948453273886628e-12, REAL
        )
        sine = _horner(
            sine, square, -1.7572476734434008e-09, 3.133616890378121e-07, -3.6576204182177246e-05, REAL
        )
        sine = _horner(sine, square, 0.00249039457019272, -0.08074551218828077, 0.7853981633974483, REAL)
        cosine = zero + tl.full((), 4.891606153157612e-27, REAL)
        cosine = _horner(
            cosine, square, -4.377345209491835e-24, 3.2784835616098454e-21, -2.019653396886681e-18, REAL
        )
        cosine = _horner(
            cosine, square, 1.0018864616362717e-15, -3.8980731712596743e-13, 1.1501159127974048e-10, REAL
        )
        cosine = _horner(
            cosine, square, -2.4611369504941992e-08, 3.5908604485915093e-06, -0.00032599188692738996, REAL
        )
        cosine = _horner(cosine, square, 0.0158543442438155, -0.30842513753404244, 1.0, REAL)
    return y * sine, cosine


@triton.jit
def _radius(halvings, t, REAL: tl.constexpr):
    """sqrt(2 log 2 halvings - 2 log(1 + t))."""
    zero = t - t
    if REAL == tl.float32:
        curve = zero + tl.full((), 0.3183724880218506, REAL)
        curve = _horner(curve, t, -0.3438860774040222, 0.32614898681640625, -0.39568692445755005, REAL)
        curve = _horner(curve, t, 0.5002868175506592, -0.6667608618736267, 0.9999966621398926, REAL)
        squared = halvings * tl.full((), 1.3862943611198906, REAL) + (t * t * curve - (t + t))
        return tl.sqrt_rn(squared)
    else:
        s = t / (t + tl.full((), 2.0, REAL))
        square = s * s
        series = zero + tl.full((), 0.04, REAL)
        series = _horner(
            series, square, 0.043478260869565216, 0.047619047619047616, 0.05263157894736842, REAL
        )
        series = _horner(series, square, 0.058823529411764705, 0.06666666666666667, 0.07692307692307693, REAL)
        series = _horner(series, square, 0.09090909090909091, 0.1111111111111111, 0.14285714285714285, REAL)
        series = _horner(series, square, 0.2, 0.3333333333333333, 1.0, REAL)
        logarithm = (s + s) * series
        squared = halvings * tl.full((), 1.3862943611198906, REAL) - (logarithm + logarithm)
        return tl.sqrt(squared)


@triton.jit
def _box_muller(a, b, REAL: tl.constexpr):
    """Two normals from two words: a gives the radius, b the angle, its top bits the quarter of the circle."""
    bits = ((a >> 1).to(tl.int32, bitcast=True).to(tl.float32) + 0.5).to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F2AAAAB) & -0x800000
    t = ((bits - exponent).to(tl.float32, bitcast=True) - 1.0).to(REAL)
    radius = _radius((31 - (exponent >> 23)).to(tl.float32).to(REAL), t, REAL)
    radius = tl.where((b >> 31) != 0, -radius, radius)
    y = ((b << 2).to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873077393e-10).to(REAL)
    sine, cosine = _wave(y, REAL)
    swap = ((b >> 30) & 1) != 0
    return radius * tl.where(swap, sine, cosine), radius * tl.where(swap, cosine, sine)


@triton.jit(
    do_not_specialize=["k0", "k1", "offset0", "offset1", "first", "skip", "size0", "size1", "width", "runs"]
)
def _canvas_noise(
    out,  # [C, s0, s1, width]
    k0,
    k1,
    offset0,
    offset1,
    first,  # block along the last axis
    skip,  # places of that block before the canvas
    size0,
    size1,
    width,
    runs,  # blocks per row
    items,  # C * s0 * s1 * runs
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = item // runs
    start = item % runs
    block = (start + first).to(tl.int32).to(tl.uint32, bitcast=True)
    x1 = (row % size1 + offset1).to(tl.int32).to(tl.uint32, bitcast=True)
    x0 = (row // size1 % size0 + offset0).to(tl.int32).to(tl.uint32, bitcast=True)
    channel = (row // size1 // size0).to(tl.uint32)
    key0 = k0.to(tl.int32).to(tl.uint32, bitcast=True)
    key1 = k1.to(tl.int32).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = _philox(channel, block, x1, x0, key0, key1)

    start = start * 4 - skip
    to = out + row * width + start
    live = item < items
    if out.dtype.element_ty == tl.int64:
        z0, z1, z2, z3 = w0.to(tl.int64), w1.to(tl.int64), w2.to(tl.int64), w3.to(tl.int64)
    else:
        z0, z1 = _box_muller(w0, w1, REAL)
        z2, z3 = _box_muller(w2, w3, REAL)
        z0, z1, z2, z3 = narrow(z0, out), narrow(z1, out), narrow(z2, out), narrow(z3, out)
    tl.store(to, z0, mask=live & (start >= 0))
    tl.store(to + 1, z1, mask=live & (start >= -1) & (start + 1 < width))
    tl.store(to + 2, z2, mask=live & (start >= -2) & (start + 2 < width))
    tl.store(to + 3, z3, mask=live & (start + 3 < width))


def canvas_noise(out: torch.Tensor, key: Sequence[tuple[int, int]], offset: Sequence[int]) -> None:
    """Write the standard normals of the places from `offset` on; a launch for each sample.

    Args:
        out: `[B, C, *S]`, contiguous, floating; normals are computed in fp32 (fp64 for fp64). An int64 one
            receives the 32-bit integers that normals are made of.
        key: B Philox keys of two 32-bit words each.
        offset: the signed coordinates of the first place, one per canvas axis.
    """
    if out.numel() == 0:
        return
    starts, (size0, size1, width) = pad(offset, 0), pad(out.shape[2:])
    skip = starts[2] & 3
    runs = triton.cdiv(skip + width, 4)
    items = out.shape[1] * size0 * size1 * runs
    grid = check_grid("canvas_noise", triton.cdiv(items, BLOCK))
    with guard(out):
        for sample, (k0, k1) in zip(out, key, strict=True):
            _canvas_noise[grid](
                sample,
                _signed(k0),
                _signed(k1),
                starts[0],
                starts[1],
                starts[2] >> 2,
                skip,
                size0,
                size1,
                width,
                runs,
                items,
                REAL=accumulator(out.dtype),
                BLOCK=BLOCK,
                enable_fp_fusion=False,
            )


def _signed(word: int) -> int:
    # One type of argument, and so one compiled kernel, for every key.
    return word - 2**32 if word >= 2**31 else word
