# SPDX-License-Identifier: Apache-2.0
"""Philox4x32-10 against the known answers that its authors publish with Random123."""

from __future__ import annotations

import pytest
import torch
from intarsia.ops import _reference_noise as noise

WORD = 0xFFFFFFFF
PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter,key,expected", KNOWN)
def test_known_answers(counter, key, expected):
    assert noise.philox(counter, key) == expected
    tensors = [torch.full((2,), word, dtype=torch.int64) for word in counter]
    assert [words.tolist() for words in noise.philox(tensors, key)] == [[word] * 2 for word in expected]


def test_keys_of_streams_differ_in_every_part():
    keys = {
        noise.noise_key(seed, purpose, step)
        for seed in (0, 1, 2**32, 2**63, 2**64 - 1)
        for purpose in (0, 1, 2**31)
        for step in (0, 1, 2**32 - 1)
    }
    assert len(keys) == 45
    assert noise.noise_key(-1, 0, 0) == noise.noise_key(2**64 - 1, 0, 0)
