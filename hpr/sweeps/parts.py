"""The connectivities and tasks of a sweep, from the many forms in which a person may give them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpr.connectivity import (
    KINDS,
    Connectivity,
    FromFile,
    find_kind,
    from_file,
    from_matrix,
)
from hpr.connectivity import registry as structures
from hpr.connectivity.matrix_file import SUFFIXES
from hpr.fields import shown
from hpr.sweeps.field_names import did_you_mean, structure_fields
from hpr.system.loading import entry_point_names, is_import_path, load_object, named
from hpr.system.paths import expanded
from hpr.tasks import TASKS, Task, keep_trials, make_task, read_trials
from hpr.tasks.array_task import PREFIX
from hpr.tasks.environment import NEUROGYM_VERSION
from hpr.tasks.own_class import own_class, path_of, split_name, task_name
from hpr.tasks.paper import PAPER_TASKS
from hpr.tasks.versions import NEUROGYM_VERSIONS, own_version

FILE = "file:"
# What a table in a sweep's file may say of a matrix, besides the fields of `FromFile`.
_FILE_OPTIONS = ("file", "array", "transpose")


@dataclass(frozen=True)
class StructureChoice:
    """A structure whose fields are given in part; the axes of a sweep give the others."""

    cls: type[Connectivity]
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """The fields that an axis may set."""
        names = structure_fields(self.cls)
        # The gain of weights that are kept as they are has no effect, so an axis of gains does not multiply such runs.
        kept = self.cls is FromFile and self.given.get("rescale") == "kept"
        return tuple(name for name in names if not (name == "gain" and kept))

    def make(self, values: Mapping[str, Any]) -> Connectivity:
        """The structure with the values of the axes.

        Raises:
            ValueError: one line; a value is refused, or a class of the user's own fails.
        """
        try:
            return self.cls(**{**self.given, **values})
        except (ValueError, OSError):
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"connectivity: expected a {self.cls.kind} that can be made, got {named(error)}"
            ) from error

    def plain(self) -> dict[str, Any]:
        """The choice as plain values, for the sweep's file."""
        given = {name: value for name, value in self.given.items() if value is not None}
        return {"kind": self.cls.kind, **given}


@dataclass
class Sources:
    """Files that were read, by the names of their content in the cache: each file's path and how it was read.

    With `write` off nothing is kept in the cache, and the names are known to this process alone.
    """

    write: bool = True
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Tasks that were given as objects, by name.
    tasks: dict[str, Task] = field(default_factory=dict)

    def matrix(self, path: str, **options: Any) -> FromFile:
        """Read a matrix and note its file."""
        file = _path("connectivity", path)
        found = from_file(file, write=self.write, **options)
        given = {name: value for name, value in options.items() if value}
        self.files[found.matrix] = {"file": str(file.resolve()), **given}
        return found

    def trials(self, path: str) -> str:
        """Read a task's arrays, note their file, and return the task's name."""
        file = _path("task", path)
        name = keep_trials(read_trials(file), file.stem, write=self.write)
        self.files[name] = {"file": str(file.resolve())}
        return name


def _path(name: str, text: str) -> Path:
    try:
        return expanded(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def structure_choice(value: Any, sources: Sources) -> StructureChoice:
    """The structure that a value stands for.

    A value is a structure, a registered class, an array [N, N], the name of a kind or of its class, "file:PATH",
    "module:Class", or a table of `kind` and fields or of `file` and fields.

    Raises:
        ValueError: one line.
        OSError: a file can't be read.
    """
    if isinstance(value, Connectivity):
        structures.check_form(value)
        given = {name: getattr(value, name) for name in structure_fields(type(value))}
        return StructureChoice(type(value), given)
    if isinstance(value, np.ndarray):
        return structure_choice(from_matrix(value, write=sources.write), sources)
    if isinstance(value, Mapping):
        return _from_table(dict(value), sources)
    if isinstance(value, type):
        return StructureChoice(_registered(value))
    if not isinstance(value, str):
        raise ValueError(
            f"connectivity: expected a structure, an array or a name, got {shown(value)}"
        )
    if value.startswith(FILE) or value.endswith(SUFFIXES) or value.endswith(".csv.gz"):
        path, _, array = value.removeprefix(FILE).partition("#")
        read = sources.matrix(path, array=array or None)
        return StructureChoice(FromFile, {"matrix": read.matrix})
    if is_import_path(value):
        return StructureChoice(_registered(load_object(value, "connectivity")))
    return StructureChoice(_kind(value))


def _kind(name: str) -> type[Connectivity]:
    """The class of a kind by its name, or by the name of the class."""
    by_class = {cls.__name__: cls for cls in KINDS.values()}
    found: type[Connectivity] | None = by_class.get(name) or find_kind(name)
    if found is FromFile:
        raise ValueError("connectivity: expected file:PATH, got 'file' without a path")
    if found is None:
        known = [
            *(kind for kind in KINDS if kind != FromFile.kind),
            *entry_point_names(structures.GROUP),
        ]
        raise ValueError(
            f"connectivity: expected one of {', '.join(known)}, file:PATH or module:Class, got {name!r}"
            f"{did_you_mean(name, [*known, *by_class])}"
        )
    return found


def _registered(cls: Any) -> type[Connectivity]:
    found = KINDS.get(getattr(cls, "kind", "")) if isinstance(cls, type) else None
    if found is None or found is not cls:
        raise ValueError(
            f"connectivity: expected a class that hpr.connectivity.register decorates, got {shown(cls)}"
        )
    return found


def _from_table(table: dict[str, Any], sources: Sources) -> StructureChoice:
    if "file" in table:
        options = {name: table.pop(name) for name in _FILE_OPTIONS if name in table}
        path = options.pop("file")
        if not isinstance(path, str):
            raise ValueError(f"connectivity: expected a path for file, got {shown(path)}")
        cls: type[Connectivity] = FromFile
        table["matrix"] = sources.matrix(path, **options).matrix
    else:
        kind = table.pop("kind", None)
        if not isinstance(kind, str):
            raise ValueError(
                f"connectivity: expected kind or file in a table, got {shown(sorted(table))}"
            )
        cls = FromFile if kind == FromFile.kind else _kind(kind)
    known = structure_fields(cls)
    for name, value in table.items():
        if name not in known:
            raise ValueError(
                f"connectivity: expected fields of {cls.kind} among {', '.join(known)}, got {name!r}"
                f"{did_you_mean(name, (*known, *_FILE_OPTIONS))}"
            )
        table[name] = tuple(value) if isinstance(value, list) else value
    return StructureChoice(cls, table)


def task_choice(value: Any, sources: Sources) -> str:
    """The name of the task that a value stands for.

    A value is a name that `hpr.tasks.make_task` takes, "file:PATH" of a .npz, a class, a task, or a table of `name` and
    the arguments of an environment or a task.

    Raises:
        ValueError: one line.
        OSError: a file can't be read.
    """
    if isinstance(value, Task):
        sources.tasks[value.name] = value
        return value.name
    if isinstance(value, type):
        return path_of(value)
    arguments: dict[str, Any] = {}
    if isinstance(value, Mapping):
        arguments = dict(value)
        value = arguments.pop("name", None)
        value = path_of(value) if isinstance(value, type) else value
    if not isinstance(value, str):
        raise ValueError(f"task: expected a name, a class or a task, got {shown(value)}")
    if value.startswith(FILE) or value.endswith(".npz"):
        return sources.trials(value.removeprefix(FILE))
    if own_version(value) is not None:
        return value
    base, given = split_name(value)
    return task_name(base, {**given, **arguments})


def version_of(task: str, dt: float, sources: Sources) -> str:
    """The version of a task where none is given: the paper's tasks have NeuroGym 0.0.2, all others their own.

    Raises:
        ValueError: one line; a class of the user's own can't be loaded.
    """
    if task in sources.tasks:
        return sources.tasks[task].version
    own = own_version(task)
    if own is not None:
        return own
    if task in PAPER_TASKS:
        return NEUROGYM_VERSIONS[0]
    cls = own_class(split_name(task)[0])
    if cls is not None and issubclass(cls, Task):
        return make_task(task, dt=dt).version
    return NEUROGYM_VERSION


def near_task(name: str) -> str:
    """The end of an error about a task that can't be made: the known name that is nearest."""
    return "" if name in TASKS or name.startswith(PREFIX) else did_you_mean(name, TASKS)


def described(choice: StructureChoice) -> str:
    """A structure with the fields that were given and are not the default, to tell it from others of its label."""
    defaults = {each.name: each.default for each in dataclasses.fields(choice.cls)}
    given = {name: value for name, value in choice.given.items() if value != defaults[name]}
    written = ", ".join(f"{name}={value}" for name, value in given.items())
    return re.sub(r"\s+", " ", f"{choice.cls.kind}({written})" if given else choice.cls.kind)
