# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring, and every Python example of the documents, runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import intarsia
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["intarsia"] + [
    module.name
    for module in pkgutil.walk_packages(intarsia.__path__, "intarsia.")
    if not any(part in module.name for part in ("._C", "._triton", "._cuda"))
]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_of_the_documents(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        exec(compile(code, str(page), "exec"), namespace)
