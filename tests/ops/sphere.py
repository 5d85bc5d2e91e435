# SPDX-License-Identifier: Apache-2.0
"""Interpolation on the sphere once more, sample by sample in float64, by half-angle formulas."""

from __future__ import annotations

import numpy as np
import torch


def rows(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().cpu().reshape(len(x), -1).numpy()


def arc(a: np.ndarray, b: np.ndarray, w: float) -> np.ndarray:
    if w in (0, 1):
        return (a, b)[int(w)]
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    if na == 0 or nb == 0:
        return np.zeros_like(a)
    u, v = a / na, b / nb
    near, far = np.linalg.norm(u - v), np.linalg.norm(u + v)
    angle = 2 * np.arctan2(near, far)
    if np.sin(angle) >= 1e-4:
        way = (np.sin((1 - w) * angle) * u + np.sin(w * angle) * v) / np.sin(angle)
    elif near < far:
        way = (1 - w) * u + w * v
        way = way / np.linalg.norm(way)
    else:
        way = u if w <= 0.5 else v
    return na ** (1 - w) * nb**w * way


def slerp(x0: torch.Tensor, x1: torch.Tensor, w) -> torch.Tensor:
    shares = w.double().tolist() if isinstance(w, torch.Tensor) else [w] * len(x0)
    merged = [arc(a, b, share) for a, b, share in zip(rows(x0), rows(x1), shares, strict=True)]
    return torch.from_numpy(np.array(merged).reshape(x0.shape))


def karcher(vectors: list[np.ndarray], weights: list[float]) -> np.ndarray:
    shares = np.array(weights) / sum(weights)
    norms = np.array([np.linalg.norm(v) for v in vectors])
    ways = [v / n for v, n in zip(vectors, norms, strict=True)]
    point = sum(s * u for s, u in zip(shares, ways, strict=True))
    point = point / np.linalg.norm(point)
    for _ in range(200):
        step = np.zeros_like(point)
        for s, u in zip(shares, ways, strict=True):
            across = u - (u @ point) * point
            angle = 2 * np.arctan2(np.linalg.norm(u - point), np.linalg.norm(u + point))
            step += s * across * (angle / np.sin(angle) if angle > 1e-9 else 1)
        far = np.linalg.norm(step)
        point = np.cos(far) * point + step * np.sinc(far / np.pi)
    return np.prod(norms**shares) * point / np.linalg.norm(point)


def aggregate(states, means, weights, eta, fold="sequential", angle="exact", norm="sample") -> torch.Tensor:
    x, mu = [rows(t) for t in states], [rows(t) for t in means]
    merged = []
    for sample in range(len(x[0])):
        m = x[0][sample]
        if fold == "mean":
            m = karcher([state[sample] for state in x], weights)
        else:
            for state, w in zip(x[1:], weights, strict=True):
                new = state[sample]
                m = w * m + np.sqrt(1 - w * w) * new if angle == "orthogonal" else arc(new, m, w)
        merged.append(m)
    steps = eta.double().tolist() if isinstance(eta, torch.Tensor) else [eta] * len(merged)
    results = []
    for mean in mu:
        away = np.array(merged) - mean
        far = [np.linalg.norm(away if norm == "batch" else one) for one in away]
        results.append(
            [
                m if r == 0 else m - min(step, r) * d / r
                for m, d, r, step in zip(merged, away, far, steps, strict=True)
            ]
        )
    return torch.from_numpy(np.array(results)).reshape(len(x), *states[0].shape)
