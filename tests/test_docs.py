"""The links, paths, names, commands and snippets of the pages are right."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "examples", "hpr", "kernels", "tests")
FILES = [*ROOT.glob("*.*"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*"))]
PAGES = sorted(path for path in FILES if path.suffix == ".md")
SOURCES = sorted(path for path in FILES if path.suffix == ".py" and path.parts[-2] != "tests")
# A changelog names files that have since been moved.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
PATH = re.compile(r"[\w./-]*\w\.(?:py|sh|md|json|toml|txt|csv\.gz|npz|png|pdf|svg|html|c|h)\b")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
# The commands make these.
WRITTEN = {"results/", "results/report.html"}
# Pages whose snippets run one after another and need no files.
SNIPPETS = (
    *("README.md", "kernels/README.md", "docs/derivations.md", "docs/faq.md"),
    *("docs/concepts/rich_and_lazy.md", "docs/concepts/exact_kernel.md", "docs/concepts/engine.md"),
)
COMMAND = re.compile(r"python -m\s+(\w+(?:\.\w+)*)\b(?!\.)")

# This program runs a page's snippets one after another in one namespace. It compares what they print with what the
# page shows, and the shapes of what they assign with the comments beside.
RUN = r"""
import ast, doctest, re, sys
names = {}
for text in re.findall(r"^```python\n(.*?)^```", open(sys.argv[1], encoding="utf-8").read(), re.M | re.S):
    if text.startswith(">>>"):
        example = doctest.DocTestParser().get_doctest(text, names, sys.argv[1], sys.argv[1], 0)
        if doctest.DocTestRunner().run(example, clear_globs=False).failed:
            sys.exit(1)
        continue
    lines = text.splitlines()
    for statement in ast.parse(text).body:
        exec(compile(ast.Module([statement], []), sys.argv[1], "exec"), names)
        shape = re.search(r"# \[(\d+(?:, \d+)*)\]", lines[statement.end_lineno - 1])
        if shape:
            found = list(names[statement.targets[0].id].shape)
            assert str(found) == f"[{shape[1]}]", f"{lines[statement.end_lineno - 1]}: {found}"
"""


def spans(page: Path) -> list[str]:
    """Return what is in backticks in a page's prose."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`]+)`", prose)


def anchors(page: Path) -> set[str]:
    """Return the headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def modules() -> dict[str, Path]:
    """Return the project's modules by their names."""
    found = {}
    for path in SOURCES:
        base = ROOT / "kernels" if "hpr_kernels" in path.parts else ROOT
        parts = path.relative_to(base).with_suffix("").parts
        if parts[0] in ("benchmarks", "hpr", "hpr_kernels"):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def resolves(name: str) -> bool:
    """Tell whether a dotted name is of a module or of something in one; a module may be named by its last parts."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        prefix = ".".join(parts[:count])
        for module in modules():
            if f".{module}".endswith(f".{prefix}"):
                value: Any = importlib.import_module(module)
                try:
                    for part in parts[count:]:
                        value = getattr(value, part)
                except AttributeError:
                    continue
                return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files(page: Path) -> None:
    """Where a link names a heading, the heading exists too."""
    broken = []
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", CURRENT, ids=page_name)
def test_paths_exist(page: Path) -> None:
    """A path may be given from the root or the page's folder, or by its end."""
    ends = [f"/{path.relative_to(ROOT).as_posix()}" for path in FILES]
    named = {path for span in spans(page) for path in PATH.findall(span)}
    folders = {span for span in spans(page) if re.fullmatch(r"[\w./]+/", span)} - WRITTEN
    missing = {path for path in named if not any(end.endswith(f"/{path}") for end in ends)}
    missing -= WRITTEN
    missing |= {path for path in folders if not any(f"/{path}" in f"{end}/" for end in ends)}
    assert missing == set()


@pytest.mark.parametrize("page", CURRENT, ids=page_name)
def test_names_exist(page: Path) -> None:
    """A dotted name exists if its first part is the project's, with or without the packages above that part."""
    known = {part for module in modules() for part in module.split(".")}
    named = {name for span in spans(page) for name in NAME.findall(PATH.sub("", span))}
    # `torch.func` is not the project's, though a suite of benchmarks may be named like a library.
    ours = {name for name in named if name.split(".")[0] in known}
    assert {name for name in ours if not resolves(name)} == set()


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=page_name)
def test_commands_name_modules_that_run(path: Path) -> None:
    """Every `python -m` of the project's modules does something, and no page runs a package's module by its path."""
    text = path.read_text("utf-8")
    ours = {name for name in COMMAND.findall(text) if name.split(".")[0] in modules()}
    idle = {
        name
        for name in ours
        if name not in modules() or "__main__" not in modules()[name].read_text("utf-8")
    }
    assert idle == set()
    assert re.findall(r"python (?:benchmarks|hpr|kernels)/\S+\.py", text) == []


def test_programs_among_the_tests_start() -> None:
    """They find what they import from their own folder, without pytest's paths."""
    texts = [path.read_text("utf-8") for path in [*CURRENT, *(ROOT / "tests").rglob("*.py")]]
    programs = {name for text in texts for name in re.findall(r"`python (tests/\S+\.py)", text)}
    assert programs
    searched = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    for program in programs:
        start = f"import sys; sys.path[0] = {str(ROOT / program)!r}.rpartition('/')[0]; import {Path(program).stem}"
        done = subprocess.run(
            [sys.executable, "-c", start],
            env={**os.environ, "PYTHONPATH": searched},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name: str) -> None:
    searched = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", RUN, name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": searched},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
