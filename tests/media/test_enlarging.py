# SPDX-License-Identifier: Apache-2.0
import torch
from intarsia.media import enlarge


def test_enlarged_loop_closes():
    x = torch.arange(32) * (2 * torch.pi / 32)
    ring = torch.sin(x).expand(3, 8, 32)
    large = enlarge(ring, factor=3, loop=True)
    assert large.shape == (3, 24, 96)
    rolled = enlarge(ring.roll(5, -1), factor=3, loop=True)
    torch.testing.assert_close(rolled, large.roll(15, -1))
    assert torch.equal(enlarge(ring, factor=1, loop=True), ring)
