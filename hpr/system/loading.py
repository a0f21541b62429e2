"""Load an object of the user's by an import path "module:name", or by the name of an entry point."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import entry_points
from typing import Any

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import_path(text: str) -> bool:
    """Whether a text has the form "package.module:Class"."""
    return _PATH.fullmatch(text) is not None


def load_object(path: str, what: str) -> Any:
    """Import the module of an import path "module:name" and return the object.

    Args:
        path: the import path; the module is searched in `sys.path`.
        what: what an error calls the argument.

    Raises:
        ValueError: one line; the module can't be imported, or lacks the name.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    # The module is the user's code, which can raise any exception, and a script may call sys.exit.
    except (Exception, SystemExit) as error:
        raise _not_loaded(
            what, f"module:Class that can be imported, got {path!r}", error
        ) from error
    return found


def load_entry_point(group: str, name: str, what: str) -> Any | None:
    """Load the object that an installed distribution names so in a group of entry points; None if there is none.

    Raises:
        ValueError: one line; the entry point can't be loaded, or several distributions have this name.
    """
    entries = sorted(entry_points(group=group, name=name), key=lambda entry: entry.value)
    if len({entry.value for entry in entries}) > 1:
        values = " and ".join(entry.value for entry in entries)
        raise ValueError(f"{what}: expected one entry point {name} of {group}, got {values}")
    if not entries:
        return None
    try:
        return entries[0].load()
    # Code of others runs here, so any exception is possible.
    except Exception as error:
        told = f"an entry point {name} = {entries[0].value} of {group} that can be loaded, got an error"
        raise _not_loaded(what, told, error) from error


def entry_point_names(group: str) -> list[str]:
    """The names in a group of entry points, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def named(error: BaseException) -> str:
    """An exception of the user's code as one line: its type and its text."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _not_loaded(what: str, told: str, error: BaseException) -> ValueError:
    return ValueError(f"{what}: expected {told}: {named(error)}")
