"""The tree keeps its shape: imports without a circle, layers in one direction, small files, one meaning per name."""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "hpr": ROOT / "hpr",
    "hpr_kernels": ROOT / "kernels" / "hpr_kernels",
    "benchmarks": ROOT / "benchmarks",
}

# From the top down: a package imports those below it, and modules of its own.
LAYERS = (
    ("benchmarks",),
    ("hpr.reproduce", "hpr.rerun", "hpr.run", "hpr.store"),
    ("hpr.report", "hpr.sweeps"),
    ("hpr.figures",),
    ("hpr.theory",),
    ("hpr.training",),
    ("hpr.experiment",),
    ("hpr.laziness", "hpr.tasks", "hpr.connectivity"),
    ("hpr.command_line", "hpr.fields"),
    ("hpr.system", "hpr"),
    ("hpr_kernels",),
)

# Names that stand for one role in several places.
ROLES = {
    "modules": {"__init__", "__main__", "base", "registry"}
    # The command line that serves a module has its name.
    | {"store"}
    # What each operation of hpr_kernels is made of.
    | {"dispatch", "eager", "native", "op", "reference", "triton"},
    # A command line's parts, and the launches that each operation lists for the report.
    "definitions": {"main", "build_parser", "add_arguments", "run", "specimens"},
}
# asv names a benchmark by its class, and stored results by that name: a suite's class is named by what it measures.
SUITES = "benchmarks.suites."
LONGEST_FILE = 400
MEDIAN_FILE = 130
LONGEST_FUNCTION = 60
REASON = "# Longer than 60 lines:"


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path) -> set[str]:
    """The project's modules that a module imports, anywhere in it but for type checking."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join(([*above] if child.level else []) + [child.module or ""]).strip(".")
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    found.add(full if full in modules() else base)
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return {name for name in found if name in modules()} - {module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected parts of a graph that have more than one node, or a node that points to itself."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            node = ahead.pop()
            if node not in seen:
                seen.add(node)
                ahead += graph[node]
        reach[start] = seen
    parts = {
        frozenset(other for other in graph if other in reach[node] and node in reach[other])
        for node in graph
        if node in reach[node]
    }
    return sorted(sorted(part) for part in parts)


@cache
def graph() -> dict[str, set[str]]:
    return {module: imported(module, path) for module, path in modules().items()}


def layer(module: str) -> int:
    """The place of a module's package in `LAYERS`; the longest name that fits."""
    fitting = [
        (len(package), place)
        for place, packages in enumerate(LAYERS)
        for package in packages
        if f"{module}.".startswith(f"{package}.")
    ]
    return max(fitting)[1]


def test_imports_have_no_circle() -> None:
    assert circles(graph()) == []


def test_a_circle_is_found() -> None:
    planted = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert circles(planted) == [["a", "b", "c"], ["e"]]


def test_layers_import_downwards_only() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if layer(other) < layer(module)
    ]
    assert upwards == []


def test_kernels_import_nothing_of_hpr() -> None:
    foreign = {
        module: {name for name in others if name.split(".")[0] != "hpr_kernels"}
        for module, others in graph().items()
        if module.split(".")[0] == "hpr_kernels"
    }
    assert not any(foreign.values())


def python_files() -> list[Path]:
    """The project's sources and tests."""
    folders = [*SOURCES.values(), ROOT / "tests", ROOT / "examples"]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_files_are_small() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in python_files()}
    assert {str(path): n for path, n in lines.items() if n > LONGEST_FILE} == {}
    assert statistics.median(lines.values()) < MEDIAN_FILE


def long_functions(text: str) -> Iterator[str]:
    """Functions of more than `LONGEST_FUNCTION` lines without a comment above that gives the reason."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            above = first - 2
            while above >= 0 and lines[above].lstrip().startswith("#"):
                if lines[above].lstrip().startswith(REASON):
                    break
                above -= 1
            else:
                if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION:
                    yield node.name


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_or_say_why(path: Path) -> None:
    assert list(long_functions(path.read_text("utf-8"))) == []


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * LONGEST_FUNCTION
    assert list(long_functions(f"def f():\n{body}")) == ["f"]
    assert list(long_functions(f"{REASON} one table\n# of cases.\ndef f():\n{body}")) == []
    assert list(long_functions("def f():\n    pass\n")) == []


def repeated(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_modules_have_one_name() -> None:
    named = ((path.stem, module) for module, path in modules().items())
    assert repeated((n, m) for n, m in named if n not in ROLES["modules"]) == {}


def backend_of(module: str) -> str:
    """The operation's package for a module that is one of its backends, else the module."""
    package, _, stem = module.rpartition(".")
    return package if stem in ROLES["modules"] else module


def test_no_two_classes_or_functions_have_one_name() -> None:
    """Public ones outside asv's suites; an operation's function has one name in each of its backends."""
    found = {
        (node.name, backend_of(module))
        for module, path in modules().items()
        if not module.startswith(SUITES)
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    assert repeated((n, m) for n, m in sorted(found) if n not in ROLES["definitions"]) == {}
