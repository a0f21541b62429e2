"""A sweep as a TOML file: read, and written beside the results so that it makes the same runs again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpr.connectivity import to_dict
from hpr.connectivity.connectome import open_connectome
from hpr.experiment.specification import RunSpec
from hpr.fields import shown
from hpr.sweeps.expansion import Experiment
from hpr.sweeps.field_names import RUN_FIELDS
from hpr.sweeps.parts import Sources
from hpr.system.files import open_bounded, write_atomically
from hpr.tasks.array_task import PREFIX, open_trials

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "sweep.toml"
HEAD = "# The runs of this folder. `python -m hpr.run {name}` makes the same runs again.\n"
# The fields that a variant sets; they are written where they were given.
_BY_VARIANT = ("leak", "ntk_parameters")


def read_sweep(path: Path, sources: Sources) -> dict[str, Any]:
    """The values of a sweep's file by name, see `hpr.sweeps.expansion.expand`.

    The table `files` names, for matrices and trials in the cache, the files that they were read from. Where the cache
    lacks one, its file is read again, and must have the same content.

    Raises:
        ValueError: one line; the file is no TOML, or a file that it names has changed.
        OSError: a file can't be read.
    """
    with open_bounded(path) as file:
        content = file.read()
    try:
        values: dict[str, Any] = tomllib.loads(content.decode())
    except ValueError as error:
        raise ValueError(
            f"{path}: expected TOML, got an error: {' '.join(str(error).split())}"
        ) from None
    files = values.pop("files", {})
    if not isinstance(files, dict) or not all(
        isinstance(each, dict) and isinstance(each.get("file"), str) for each in files.values()
    ):
        raise ValueError(f"{path}: expected tables with a file under files, got {shown(files)}")
    for name, options in files.items():
        _restore(name, options, sources)
    return values


def _restore(name: str, options: dict[str, Any], sources: Sources) -> None:
    """Make the content of a name known: from the cache, or else from the file it was read from."""
    trials = name.startswith(PREFIX)
    try:
        open_trials(name) if trials else open_connectome(name)
    except ValueError:
        path, others = options["file"], {key: of for key, of in options.items() if key != "file"}
        found = sources.trials(path) if trials else sources.matrix(path, **others).matrix
        del sources.files[found]
        if found != name:
            raise ValueError(f"{path}: expected the content of {name!r}, got {found!r}") from None
    sources.files[name] = options


def write_sweep(experiment: Experiment, out: Path) -> Path:
    """Write `sweep.toml` of a folder. Another sweep that is there keeps its file as `sweep-<hash>.toml`.

    Raises:
        OSError: the folder can't be written.
    """
    path = out / NAME
    content = sweep_text(experiment).encode()
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = content
    if before != content:
        aside = f"sweep-{hashlib.sha256(before).hexdigest()[:8]}.toml"
        write_atomically(path.with_name(aside), before)
    write_atomically(path, content)
    return path


def sweep_text(experiment: Experiment) -> str:
    """The sweep as TOML: every field of a run by its value, also where it is the default."""
    axes = experiment.axes
    # The axes keep their order, which is that of the settings.
    lines = [f"{name} = {_axis(axes[name])}" for name in axes]
    for name in RUN_FIELDS:
        if name in axes or name in ("connectivity", "teacher", *_BY_VARIANT):
            continue
        if name == "N":
            lines += _sizes(experiment)
        elif name == "task_version":
            versions = list(dict.fromkeys(run.task_version for run in experiment.runs))
            lines += [f"{name} = {_axis(versions)}"] if len(versions) == 1 else []
        else:
            lines.append(f"{name} = {_toml(getattr(RunSpec, name))}")
    lines.append(f"connectivity = {_axis([each.plain() for each in experiment.choices])}")
    teachers = [_teacher(each) for each in experiment.teacher_values if each is not None]
    lines += [f"teacher = {_axis(teachers)}"] if teachers else []
    if files := experiment.sources.files:
        lines += ["", "[files]"]
        lines += [f"{_toml(name)} = {_toml(options)}" for name, options in files.items()]
    return HEAD.format(name=NAME) + "\n".join(lines) + "\n"


def _teacher(value: Any) -> Any:
    """A teacher as a table of its fields."""
    if not isinstance(value, RunSpec):
        return value
    fields = {name: getattr(value, name) for name in RUN_FIELDS if name != "teacher"}
    return {**fields, "connectivity": to_dict(value.connectivity)}


def _sizes(experiment: Experiment) -> list[str]:
    """The line of N where no matrix sets it."""
    if any(choice.make({}).units is not None for choice in experiment.choices):
        return []
    return [f"N = {_toml(RunSpec.N)}"]


def _axis(values: list[Any]) -> str:
    """One value as itself, several as a list."""
    return _toml(values[0] if len(values) == 1 else values)


def _toml(value: Any) -> str:
    """A value in TOML; None is "none"."""
    if value is None:
        return '"none"'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(of)}" for name, of in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
