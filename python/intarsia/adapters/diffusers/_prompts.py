# SPDX-License-Identifier: Apache-2.0
"""Every distinct prompt of a run once, and which of them each patch of each image is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from intarsia.adapters.diffusers.family import Family
from intarsia.adapters.diffusers.region import Region
from intarsia.layout._check import fail
from intarsia.types import Cond, PerCanvas

Pair = tuple[int, int]


@dataclass
class Prompts:
    """A table of encoded prompts; rows are handed out once for each text.

    Args:
        family: encodes them.
        extra: what the call has for its family.
        guided: whether negative prompts are needed at all.
    """

    family: Family
    extra: Mapping[str, Any]
    guided: bool
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    known: dict[tuple[str | None, bool], int] = field(default_factory=dict)
    default: int = -1

    def text(self, text: str | None, *, negative: bool) -> int:
        """The row of a text, encoded when it is first met; each alone, so that none depends on others."""
        key = (text, negative)
        if key not in self.known:
            self.known[key] = self.add(self.family.encode(text, negative=negative, extra=self.extra))
        return self.known[key]

    def add(self, encoded: dict[str, Tensor]) -> int:
        """The row of what a family or the user encoded, tensors [1, ...]."""
        self.rows.append(encoded)
        return len(self.rows) - 1

    def call(
        self,
        prompt: str | Sequence[str] | None,
        negative: str | Sequence[str] | None,
        embeds: Mapping[str, Tensor | None],
    ) -> list[Pair] | None:
        """(prompt, negative prompt) of each image, or None where the call has no prompt of its own."""
        texts = _listed("prompt", prompt)
        against = _listed("negative_prompt", negative)
        own = self.family.given(embeds, prefix="")
        other = self.family.given(embeds, prefix="negative_")
        if texts is not None and own is not None:
            fail(
                "Composer", "prompt", "be None where prompt_embeds are given", "both", "Give one of the two."
            )
        if against is not None and other is not None:
            remedy = "Give one of the two."
            fail("Composer", "negative_prompt", "be None beside negative_prompt_embeds", "both", remedy)
        positive = (
            [self.text(text, negative=False) for text in texts]
            if texts is not None
            else None
            if own is None
            else [self.add(row) for row in _split(own)]
        )
        if other is not None:
            negatives = [self.add(row) for row in _split(other)]
        elif not self.guided:
            negatives = [-1]
        else:
            wanted: list[str | None] = [None] if against is None else [*against]
            negatives = [self.text(text, negative=True) for text in wanted]
        if positive is None:
            self.default = negatives[0]
            return None
        if len(negatives) not in (1, len(positive)):
            remedy = "Give one for all, or one for each prompt."
            fail("Composer", "negative_prompt", f"be one or {len(positive)}", len(negatives), remedy)
        negatives = negatives * len(positive) if len(negatives) == 1 else negatives
        return list(zip(positive, negatives, strict=True))

    def region(self, number: int, region: Region, call: list[Pair] | None) -> list[Pair]:
        """(prompt, negative prompt) of a region, one pair for all images, or one for each; none if silent."""
        if region.weight == 0:
            return []
        own = self._own(region, "")
        other = self._own(region, "negative_") if self.guided else -1
        if own is None and call is None:
            remedy = "Give the region a prompt, or the call one for all."
            fail("Composer", f"regions[{number}].prompt", "be given where prompt is None", None, remedy)
        pairs = call if call is not None else [(-1, self.default)]
        pairs = [(p if own is None else own, n if other is None else other) for p, n in pairs]
        return pairs[:1] if len(set(pairs)) == 1 else pairs

    def _own(self, region: Region, prefix: str) -> int | None:
        text = getattr(region, f"{prefix}prompt")
        if text is not None:
            return self.text(text, negative=bool(prefix))
        names = {f"{prefix}{name}": getattr(region, f"{prefix}{name}", None) for name in self.family.tables}
        own = self.family.given(names, prefix=prefix)
        if own is None:
            return None
        rows = _split(own)
        if len(rows) != 1:
            remedy = "A region is told the same in every image."
            fail("Region", f"{prefix}prompt_embeds", "have a leading axis of 1", len(rows), remedy)
        return self.add(rows[0])

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        """All rows, tensors [N, ...] on `device`.

        Raises:
            ValueError: rows that differ in length, as embeddings from outside may.
        """
        tables = {}
        for name in self.rows[0]:
            shapes = sorted({tuple(row[name].shape[1:]) for row in self.rows})
            if len(shapes) > 1:
                got = " and ".join(map(str, shapes))
                remedy = "Pad the embeddings, the negative ones too, to one length."
                fail("Composer", name, "have one shape in all regions", got, remedy)
            tables[name] = torch.cat([row[name].to(device) for row in self.rows])
        return tables


def indices(pairs: Sequence[list[Pair]], owner: Tensor, call: list[Pair] | None, images: int) -> Cond:
    """Rows of the table for every patch, [R, 2]: (own, negative); PerCanvas [B, R, 2] where images differ."""
    told = [pairs[index] if index >= 0 else call or [] for index in owner.tolist()]
    if all(len(set(pair)) == 1 for pair in told):
        return torch.tensor([pair[0] for pair in told])
    count = max(len(pair) for pair in told)
    table = torch.tensor([[pair[b % len(pair)] for pair in told] for b in range(count)])
    return PerCanvas(table.repeat_interleave(images // count, dim=0))


def _split(encoded: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    count = next(iter(encoded.values())).shape[0]
    return [{name: value[row : row + 1] for name, value in encoded.items()} for row in range(count)]


def _listed(name: str, value: str | Sequence[str] | None) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    texts = list(value)
    if not texts or not all(isinstance(text, str) for text in texts):
        fail("Composer", name, "be a string or a list of them", repr(value)[:60], "Write prompt='a sea'.")
    return texts
