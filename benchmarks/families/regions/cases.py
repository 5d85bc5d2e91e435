# SPDX-License-Identifier: Apache-2.0
"""The benchmark cases as data: named shapes, their provenance, the bytes they must move, their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import suite
from benchmarks.suite import ITEMSIZE, Target, both

__all__ = ["CASES", "SIGMA_FRACTION", "Case", "case"]

SIGMA_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """One shape of one op: canvas [1, channels, *size], patches [1, R, channels, *patch]."""

    op: str
    channels: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    ragged: tuple[int, int] | None = None
    window: str = "gaussian"

    def problem(self, dtype: str, device: torch.device) -> suite.Problem:
        """Make the tensors; without MONAI there is nobody to race a sliding window against."""
        from benchmarks.families.regions.problem import build

        return build(self, dtype, device)

    def counts(self) -> tuple[int, ...]:
        """Regions per axis of a regular grid; a remainder is left uncovered, as `Tensor.unfold` does."""
        if self.stride is None:
            return self.ragged or ()
        return tuple((S - s) // t + 1 for S, s, t in zip(self.size, self.patch, self.stride, strict=True))

    def offsets(self) -> torch.Tensor:
        """Return the first element of every region, [R, n] int64, row-major."""
        if self.stride is not None:
            axes = [torch.arange(k) * t for k, t in zip(self.counts(), self.stride, strict=True)]
            return torch.cartesian_prod(*axes).reshape(-1, len(axes)).contiguous()
        return _ragged(self.size, self.patch, *self.counts())

    def regions(self) -> int:
        """Return R."""
        return math.prod(self.counts())

    def covered(self) -> int:
        """Return how many canvas elements (of one channel) lie in at least one region."""
        if self.stride is not None:
            spans = zip(self.counts(), self.stride, self.patch, strict=True)
            return math.prod((k - 1) * t + s if t <= s else k * s for k, t, s in spans)
        seen = torch.zeros(self.size, dtype=torch.bool)
        for start in self.offsets().tolist():
            seen[tuple(slice(o, o + s) for o, s in zip(start, self.patch, strict=True))] = True
        return int(seen.sum())

    def traffic(self, dtype: str) -> tuple[int, int]:
        """Return (bytes that must be read once, bytes that must be written once)."""
        item = ITEMSIZE[dtype]
        canvas = self.channels * self.covered()
        patches = self.channels * self.regions() * math.prod(self.patch)
        return {
            "extract": (canvas * item, patches * item),
            "extract_cfg": (canvas * 4, 2 * patches * 2),
            "average": (patches * item, canvas * item),
            "sliding": (canvas * item, canvas * item),
            "plan": (0, 0),
            "weights": (0, 0),
        }[self.op]


def _ragged(size: tuple[int, ...], patch: tuple[int, ...], rows: int, columns: int) -> torch.Tensor:
    """Spread rows x columns regions to the edges, then push the inner ones by up to 5 and 3 elements."""
    jitter = torch.Generator().manual_seed(88)
    y, x = (
        torch.linspace(0, S - s, k, dtype=torch.float64).round().long()
        for S, s, k in zip(size, patch, (rows, columns), strict=True)
    )
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
    push_y = torch.randint(-3, 4, (rows, columns), generator=jitter)
    push_x = torch.randint(-5, 6, (rows, columns), generator=jitter)
    grid[1:-1, :, 0] += push_y[1:-1]
    grid[:, 1:-1, 1] += push_x[:, 1:-1]
    return grid.reshape(-1, 2)


LATENT = "3840x2160 picture, 8x latent of 4 channels, patch 64 (Stable Diffusion)"
PIXEL = "3840x2160 picture in pixel space, patch 512, half overlap"
AUDIO = "4 channels, windows of 2^18 samples, a quarter of overlap"
MOTION = "263 HumanML3D features, 196 frames per patch, half overlap (DiffCollage)"
CROP = "; canvas cropped to what the regular grid covers"
ONE_DTYPE = ("float32",)
CPU, GPU = ("cpu",), ("cuda",)
DENSE = ", the stride of MultiDiffusion"
RAGGED = ", irregular offsets"
FUSED = "; scaled, cast to bfloat16, doubled for classifier-free guidance"
LATENT8K, PIXEL8K = "7680x4320 picture, 8x latent, irregular offsets", "7680x4320 picture in pixel space"


def case(
    name: str, op: str, channels: int, size: tuple[int, ...], patch: tuple[int, ...], provenance: str,
    stride: tuple[int, ...] | None = None, **rest: Any,
) -> Case:  # fmt: skip
    """Return a case; plans and windows are set-up costs with neither buffers nor threads."""
    if op in ("plan", "weights"):
        rest |= {"modes": ("neutral",), "threads": (1,)}
    shape = {"channels": channels, "size": size, "patch": patch, "stride": stride}
    return Case(name, provenance, op=op, **shape, **{"threads": (1, 2)} | rest)


def _cpu(
    *, bf16: tuple[float, float] | None = None, two: float | None = None, **must: float
) -> tuple[Target, ...]:
    targets = [Target(**must)]  # type: ignore[arg-type]
    if bf16 is not None:
        targets.append(Target(dtype="bfloat16", best=bf16[0], floor=bf16[1], error=1.8e-3))
    if two is not None:
        targets.append(Target(threads=2, best=two))
    return tuple(targets)


CACHE, DRAM = (3.3, 6.5), (1.6, 3.0)
LATENT4K, LATENT4K_CROP = (270, 480), (256, 480)
GRAPH5, GRAPH6 = both(max_us=5, best=1.0), both(max_us=6, best=10)
SMALL = Target("cuda", floor=1.3)
MONAI = "MONAI sliding window, identity network"
CASES: tuple[Case, ...] = (
    case("extract.latent4k_s32", "extract", 4, LATENT4K, (64, 64), LATENT, (32, 32),
         targets=_cpu(best=1.05, idiom=2.8, floor=1.6, stretch=1.3) + GRAPH5),
    case("extract.latent4k_s16", "extract", 4, LATENT4K, (64, 64), LATENT, (16, 16),
         targets=_cpu(best=1.8, idiom=3.0, floor=1.3, stretch=2.2) + both(max_us=5, best=1.0, idiom=8)),
    case("extract.latent4k_s8", "extract", 4, LATENT4K, (64, 64), LATENT + DENSE, (8, 8),
         targets=_cpu(best=2.0, idiom=3.0, floor=1.2, stretch=2.5) + both(best=1.0, idiom=8)),
    case("extract.ragged88", "extract", 4, LATENT4K, (64, 64), LATENT + RAGGED, ragged=(8, 11),
         targets=_cpu(idiom=2.8, stretch=5) + both(max_us=5)),
    case("extract.pixel4k", "extract", 3, (2160, 3840), (512, 512), PIXEL, (256, 256),
         targets=_cpu(best=1.1, floor=2.1, stretch=1.6) + both(floor=1.25)),
    case("extract.audio1M", "extract", 4, (2**20,), (2**18,), AUDIO, (196608,),
         targets=_cpu(best=1.3, floor=1.2, stretch=1.5)),
    case("extract.motion", "extract", 263, (4096,), (196,), MOTION, (98,),
         targets=_cpu(best=0.95, floor=1.5, stretch=1.1)),
    case("extract.cfg_fused", "extract_cfg", 4, LATENT4K, (64, 64), LATENT + FUSED, (16, 16),
         dtypes=ONE_DTYPE, targets=(*_cpu(best=2.0), SMALL)),
    case("avg.latent4k_s32", "average", 4, LATENT4K_CROP, (64, 64), LATENT + CROP, (32, 32),
         targets=_cpu(best=2.5, idiom=9, floor=3.2, stretch=4.5, bf16=CACHE, two=5.5) + GRAPH6),
    case("avg.latent4k_s32_uniform", "average", 4, LATENT4K_CROP, (64, 64), LATENT + CROP, (32, 32),
         window="uniform", quick=False, targets=_cpu(best=2.5, idiom=9, floor=3.2, stretch=4.5)),
    case("avg.ragged88", "average", 4, LATENT4K, (64, 64), LATENT + RAGGED, ragged=(8, 11),
         targets=_cpu(best=2.3, idiom=8, floor=3.7, stretch=4, bf16=CACHE, two=3.5) + GRAPH6),
    case("avg.latent4k_s16", "average", 4, LATENT4K_CROP, (64, 64), LATENT + CROP, (16, 16),
         targets=_cpu(best=1.5, idiom=3.3, floor=7, stretch=4, bf16=CACHE, two=4.0) + GRAPH6),
    case("avg.latent4k_s8", "average", 4, (264, 480), (64, 64), LATENT + CROP, (8, 8),
         targets=_cpu(best=1.45, idiom=2.8, floor=3.5, stretch=3, bf16=(2.0, 6.5), two=2.5)
         + both(floor=1.5, best=10)),
    case("avg.motion", "average", 263, (4018,), (196,), MOTION + CROP, (98,),
         targets=_cpu(best=1.2, idiom=6, floor=3.3, stretch=2.8, bf16=CACHE)),
    case("avg.audio1M", "average", 4, (2**20,), (2**18,), AUDIO, (196608,),
         targets=_cpu(best=2.2, idiom=9, floor=1.8, stretch=3.2, bf16=DRAM)),
    case("avg.audio8M", "average", 4, (8323072,), (2**18,), AUDIO + CROP, (196608,), quick=False,
         targets=_cpu(best=2.1, idiom=7.5, floor=1.3, stretch=3, bf16=DRAM) + both(floor=1.3)),
    case("avg.pixel4k", "average", 3, (2048, 3840), (512, 512), PIXEL + CROP, (256, 256),
         targets=_cpu(best=1.3, idiom=3.7, floor=2.5, stretch=2.2, bf16=DRAM) + both(floor=1.3)),
    case("extract.latent8k", "extract", 4, (540, 960), (64, 64), LATENT8K, ragged=(15, 23), devices=GPU,
         targets=both(max_us=8)),
    case("avg.latent8k", "average", 4, (540, 960), (64, 64), LATENT8K, ragged=(15, 23), devices=GPU,
         targets=both(best=10)),
    case("avg.pixel8k", "average", 3, (4096, 7680), (512, 512), PIXEL8K + CROP, (256, 256), devices=GPU,
         quick=False, targets=both(floor=1.3)),
    case("avg.audio64M", "average", 4, (2**26,), (2**18,), AUDIO, (196608,), devices=GPU,
         dtypes=("bfloat16",), quick=False, targets=(Target("cuda", "bfloat16", floor=1.3),)),
    case("avg.swi_latent50", "sliding", 4, LATENT4K_CROP, (64, 64), MONAI + CROP, (32, 32), dtypes=ONE_DTYPE,
         devices=CPU, quick=False, targets=_cpu(best=5, stretch=8)),
    case("avg.swi_latent75", "sliding", 4, LATENT4K_CROP, (64, 64), MONAI + CROP, (16, 16), dtypes=ONE_DTYPE,
         devices=CPU, quick=False, targets=_cpu(best=3, stretch=4)),
    case("avg.swi_motion", "sliding", 263, (4018,), (196,), MONAI + CROP, (98,), dtypes=ONE_DTYPE,
         devices=CPU, quick=False, targets=_cpu(best=2.8, stretch=4)),
    case("avg.swi_audio8M", "sliding", 4, (8323072,), (2**18,), MONAI + CROP, (196608,), dtypes=ONE_DTYPE,
         devices=CPU, quick=False, targets=_cpu(best=1.6, stretch=2.3)),
    case("avg.swi_pixel4k", "sliding", 3, (2048, 3840), (512, 512), MONAI + CROP, (256, 256),
         dtypes=ONE_DTYPE, devices=CPU, quick=False, targets=_cpu(best=1.25, stretch=2)),
    case("plan.build_98", "plan", 1, LATENT4K, (64, 64), LATENT, (32, 32), dtypes=ONE_DTYPE, devices=CPU,
         targets=_cpu(max_us=150)),
    case("plan.build_1378", "plan", 1, LATENT4K, (64, 64), LATENT, (8, 8), dtypes=ONE_DTYPE, devices=CPU,
         targets=_cpu(max_us=3000)),
    case("weights.64x64", "weights", 1, (64, 64), (64, 64), "one latent patch", (64, 64), dtypes=ONE_DTYPE,
         devices=CPU),
    case("weights.512x512", "weights", 1, (512, 512), (512, 512), "one pixel window", (512, 512),
         dtypes=ONE_DTYPE, devices=CPU),
    case("weights.2^18", "weights", 1, (2**18,), (2**18,), "one audio window", (2**18,), dtypes=ONE_DTYPE,
         devices=CPU),
)  # fmt: skip
