"""How figures are found: those of `hpr.figures.definitions`, and those of other installed distributions."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from hpr.fields import shown
from hpr.figures import definitions
from hpr.figures.figure import Figure

# The group of entry points by which a distribution adds figures.
GROUP = "hpr.figures"


def discover() -> dict[str, Figure]:
    """Every figure by name, numbers first.

    Figures are those in the `FIGURES` of the modules of `hpr.figures.definitions`, and those that installed
    distributions name as entry points of the group "hpr.figures". Such an entry point is a module with `FIGURES`, or a
    sequence of figures (docs/adding.md).

    Raises:
        ImportError: in one line, where an entry point can't be loaded or is neither, or two figures have one name.
    """
    found: dict[str, Figure] = {}
    for module in pkgutil.iter_modules(definitions.__path__):
        name = f"{definitions.__name__}.{module.name}"
        _add(found, getattr(importlib.import_module(name), "FIGURES", ()), name)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        what = f"entry point {entry.name} = {entry.value} of {GROUP}"
        _add(found, _figures(entry, what), what)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _add(found: dict[str, Figure], figures: Sequence[Figure], where: str) -> None:
    for figure in figures:
        if figure.name in found:
            raise ImportError(
                f"figure {figure.name}: expected one definition, got a second in {where}"
            )
        found[figure.name] = figure


def _figures(entry: EntryPoint, what: str) -> Sequence[Figure]:
    """Load the figures of an entry point; `what` names it in errors."""
    try:
        loaded = entry.load()
    # Code of others runs here, so any exception is possible.
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImportError(f"{what}: expected figures, got {why}") from error
    figures = getattr(loaded, "FIGURES", None) if isinstance(loaded, ModuleType) else loaded
    if not isinstance(figures, Sequence) or not all(
        isinstance(each, Figure) and isinstance(getattr(each, "name", None), str)
        for each in figures
    ):
        raise ImportError(
            f"{what}: expected a module with FIGURES or a sequence of named figures, "
            f"got {shown(loaded)}"
        )
    return figures


def _natural(name: str) -> tuple[bool, int, str]:
    """Sort key: numbers by value, then other names."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
