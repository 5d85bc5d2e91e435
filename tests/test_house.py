# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who may import whom, what a docstring says, how long a file grows."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "intarsia"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "_triton" not in p.parts)
CODE = MODULES + sorted(
    p
    for folder in ("tests", "benchmarks", "experiments", "examples", "kernels", "csrc", "tools", "cmake")
    for p in (ROOT / folder).rglob("*")
    if p.suffix in {".py", ".cpp", ".cu", ".cuh", ".h", ".sh", ".cmake"}
)

MAY_IMPORT = {
    "types": set(),
    "ops": {"types"},
    "layout": {"types", "ops"},
    "schedules": {"types", "ops"},
    "denoisers": {"types", "ops"},
    "guidance": {"types", "ops"},
}
MAY_IMPORT["compose"] = {*MAY_IMPORT}
MAY_IMPORT["samplers"] = {"types", "ops", "schedules", "denoisers", "guidance"}
MAY_IMPORT["conditioning"] = {"types", "ops", "schedules", "denoisers", "guidance"}
MAY_IMPORT["models"] = {"types", "ops"}
MAY_IMPORT["kinematics"] = {"types", "ops"}
for _name in ("training", "media", "metrics", "adapters"):
    MAY_IMPORT[_name] = {
        "types",
        "ops",
        "layout",
        "schedules",
        "denoisers",
        "guidance",
        "compose",
        "samplers",
        "conditioning",
        "models",
        "kinematics",
    }
MAY_IMPORT["scene"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT}


def part(path: Path) -> str:
    """`samplers` for python/intarsia/samplers/solvers.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: Path, source: str) -> list[str]:
    own, found = part(path), []
    for name in imported(ast.parse(source)):
        head, *rest = name.split(".")
        if head == "intarsia" and rest:
            target = rest[0]
            if target in {"_C", "_triton"}:
                if own != "ops":
                    found.append(f"{own} imports {name}")
            elif (
                target in MAY_IMPORT and target != own and own in MAY_IMPORT and target not in MAY_IMPORT[own]
            ):
                found.append(f"{own} imports {name}")
        if head in {"diffusers", "transformers"} and own != "adapters":
            found.append(f"{own} imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_above(path: Path) -> None:
    assert violations(path, path.read_text()) == []


def test_the_ladder_check_can_fail() -> None:
    sampler = PACKAGE / "samplers" / "x.py"
    assert violations(sampler, "from intarsia import compose") == ["samplers imports intarsia.compose"]
    assert violations(sampler, "from intarsia.layout import grid") == [
        "samplers imports intarsia.layout.grid"
    ]
    assert violations(sampler, "import intarsia._C") == ["samplers imports intarsia._C"]
    assert violations(sampler, "import diffusers") == ["samplers imports diffusers"]


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_licence_and_length(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines and "SPDX-License-Identifier: Apache-2.0" in "".join(lines[:2])
    assert len(lines) <= 400


def test_comments_are_few() -> None:
    comments = lines = 0
    for path in MODULES:
        with tokenize.open(path) as file:
            comments += sum(
                token.type == tokenize.COMMENT for token in tokenize.generate_tokens(file.readline)
            )
        lines += len(path.read_text().splitlines())
    assert comments <= 0.08 * lines


def public(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    yield from (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in names)


def complaints(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    text, found = ast.get_docstring(node) or "", []
    if not text:
        return [f"{node.name}: no docstring"]
    functions = [node] if isinstance(node, ast.FunctionDef) else []
    if isinstance(node, ast.ClassDef):
        functions = [
            n for n in node.body if isinstance(n, ast.FunctionDef) and n.name in ("__init__", "__post_init__")
        ]
        own = "".join(ast.get_docstring(n) or "" for n in functions)
        text += own
    for function in functions:
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        if function.args.kwarg:
            found.append(f"{node.name}: **{function.args.kwarg.arg} in a public signature")
        tensors = [
            a.arg for a in arguments if a.annotation and re.search(r"\bTensor\b", ast.unparse(a.annotation))
        ]
        if tensors and "[" not in text:
            found.append(f"{node.name}: no bracket shape for {', '.join(tensors)}")
        if (
            any(isinstance(n, ast.Raise) and n.exc is not None for n in ast.walk(function))
            and "Raises:" not in text
        ):
            found.append(f"{node.name}: raises, but has no Raises section")
    if isinstance(node, ast.FunctionDef):
        result = ast.unparse(node.returns) if node.returns else "None"
        if result not in ("None", "NoReturn") and "Returns:" not in text and "Yields:" not in text:
            found.append(f"{node.name}: no Returns section")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_docstrings(path: Path) -> None:
    if part(path) == "cli":
        return  # a command's docstring is its help text
    assert [c for node in public(path) for c in complaints(node)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_modules_say_what_they_export(path: Path) -> None:
    if path.name.startswith("_") and path.name != "__init__.py":
        return
    tree = ast.parse(path.read_text())
    exported = [
        n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
    ]
    assert exported, "no __all__"
    assert ast.get_docstring(tree), "no module docstring"


def test_the_readme_and_the_checks_use_the_same_two_commands() -> None:
    readme, checks = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in (
        "python -m pip install -c constraints.txt . && intarsia generate image -o panorama.png",
        "python -m pip install -c constraints.txt '.[test]' && python -m pytest",
    ):
        assert command in readme.splitlines()
        assert command in checks.splitlines()


def test_links_in_the_documents_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []
