"""The three tiers of `hpr_kernels`: what everybody may use, what `hpr` may use, and where a backend is chosen."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import hpr
import hpr_kernels
from hpr_kernels import internal

PUBLIC = {
    "FactoredJacobian",
    "NTKOperator",
    "from_rnn",
    "leaky_rnn",
    "leaky_rnn_adjoints",
    "leaky_rnn_kernel_alignment",
    "leaky_rnn_ntk",
    "leaky_rnn_ntk_operator",
    "linearize",
    "ntk",
    "ntk_alignment",
    "ntk_operator",
    "ntk_plan",
    "predict_mse",
    "two_layer_ntk",
}
# What each tier's module offers to an importer.
ALLOWED = {
    "hpr_kernels": {*PUBLIC, "internal", "testing"},
    "hpr_kernels.internal": set(internal.__all__),
    "hpr_kernels.testing": set(importlib.import_module("hpr_kernels.testing").__all__),
}
SOURCES = sorted(Path(hpr.__file__).parent.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Module, name and local name of every import from `hpr_kernels`, at any depth; the name is "" for a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module.split(".")[0] == "hpr_kernels":
                yield from (
                    (module, alias.name, alias.asname or alias.name) for alias in node.names
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hpr_kernels":
                    yield alias.name, "", alias.asname or alias.name
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            texts = [given.value for given in node.args if isinstance(given, ast.Constant)]
            yield from (
                (text, "", text)
                for text in texts
                if called and isinstance(text, str) and text.split(".")[0] == "hpr_kernels"
            )


def past_the_tiers(source: str) -> list[str]:
    """What a module takes from `hpr_kernels` without being allowed to, the attributes of its modules included."""
    tree = ast.parse(source)
    found, modules = [], {}
    for module, name, local in imported(tree):
        if name not in ALLOWED.get(module, set()):
            found.append(f"{module} {name}".strip())
        elif isinstance(part := getattr(importlib.import_module(module), name, None), ModuleType):
            modules[local] = set(part.__all__)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name in modules and node.attr not in modules[name]:
                found.append(f"{name}.{node.attr}")
    return found


def test_the_public_tier_is_what_the_package_exports() -> None:
    assert set(hpr_kernels.__all__) == PUBLIC
    assert len(hpr_kernels.__all__) == len(PUBLIC)
    assert all(hasattr(hpr_kernels, name) for name in PUBLIC)


def test_the_internal_tier_holds_what_hpr_uses_and_nothing_else() -> None:
    used = {
        name
        for path in SOURCES
        for module, name, _ in imported(ast.parse(path.read_text(encoding="utf-8")))
        if module == "hpr_kernels.internal"
    }
    assert set(internal.__all__) == used
    assert all(hasattr(internal, name) for name in internal.__all__)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_hpr_imports_the_two_upper_tiers_alone(path: Path) -> None:
    assert past_the_tiers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("from hpr_kernels.loss import triton", "hpr_kernels.loss triton"),
        ("def f():\n    from hpr_kernels import layout", "hpr_kernels layout"),
        ("import hpr_kernels.backend as backend", "hpr_kernels.backend"),
        ("from hpr_kernels.internal import gram", "hpr_kernels.internal gram"),
        ("import importlib\nimportlib.import_module('hpr_kernels.gram')", "hpr_kernels.gram"),
        ("from hpr_kernels.internal import loss as l\nl.eager.mean(1)", "l.eager"),
        ("from hpr_kernels.internal import *", "hpr_kernels.internal *"),
    ],
)
def test_a_planted_import_is_found(planted: str, found: str) -> None:
    assert past_the_tiers(planted) == [found]


@pytest.mark.parametrize(
    ("operation", "by_torch"),
    [("loss", "eager"), ("recurrence", "eager"), ("trials", "reference"), ("update", "eager")],
)
def test_a_backend_is_chosen_in_dispatch_alone(operation: str, by_torch: str) -> None:
    """`op` names no backend, and each function of `dispatch` has the same arguments in every backend that has it."""
    pytest.importorskip("triton")
    op, dispatch, *backends = (
        importlib.import_module(f"hpr_kernels.{operation}.{part}")
        for part in ("op", "dispatch", by_torch, "triton")
    )
    taken = {name for _, name, _ in imported(ast.parse(inspect.getsource(op)))}
    assert "dispatch" in taken
    assert taken.isdisjoint({"uses_triton", "eager", "reference", "triton"})
    shared = set()
    for backend in backends:
        for name in set(dispatch.__all__) & set(vars(backend)):
            function, own = getattr(dispatch, name), getattr(backend, name)
            assert inspect.signature(function) == inspect.signature(own)
            shared.add((name, backend))
    assert len(shared) >= len(backends)
