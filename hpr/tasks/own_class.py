"""Names of tasks with arguments, and classes of the user's own: "package.module:Class(sigma=0.5)".

The class is a NeuroGym `TrialEnv` or a `hpr.tasks.Task`. It is named by its import path, or by an entry point of the
group "hpr.tasks". The arguments are keyword arguments of its constructor, written as Python's literals. A NeuroGym id
takes arguments in the same way.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from hpr.fields import LONGEST_TEXT, shown
from hpr.system.loading import is_import_path, load_entry_point, load_object, named

from .base import Split, Task
from .content import digest

# The group of entry points by which a distribution adds tasks.
GROUP = "hpr.tasks"


def task_name(base: str, arguments: Mapping[str, Any]) -> str:
    """The name of a task with arguments, which are sorted, so that the same arguments have one name.

    Raises:
        ValueError: one line; an argument is no literal of Python, or the name is too long.
    """
    written = ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items()))
    name = f"{base}({written})" if arguments else base
    if len(name) > LONGEST_TEXT:
        raise ValueError(
            f"task: expected a name of at most {LONGEST_TEXT} characters, got {len(name)}: {shown(name)}"
        )
    if split_name(name) != (base, dict(arguments)):
        raise ValueError(f"task: expected arguments that a name can hold, got {shown(name)}")
    return name


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """The name of a task without its arguments, and the arguments.

    Raises:
        ValueError: one line; the arguments are not written as keyword arguments with Python's literals.
    """
    base, parenthesis, rest = name.partition("(")
    if not parenthesis:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        if len(arguments) < len(call.keywords) or any(word.arg is None for word in call.keywords):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"task: expected keyword arguments as in {base}(name=value), got {shown(name)}"
        ) from None
    return base, arguments


def own_class(base: str) -> Any | None:
    """The class that an import path or an entry point names; None where `base` is neither.

    Raises:
        ValueError: one line; the class can't be loaded, or the object is no class.
    """
    by_path = is_import_path(base)
    found = load_object(base, "task") if by_path else load_entry_point(GROUP, base, "task")
    if found is not None and not isinstance(found, type):
        raise ValueError(
            f"task: expected a class, a TrialEnv of NeuroGym or a hpr.tasks.Task, at {base!r}, got {shown(found)}"
        )
    return found


def path_of(cls: type) -> str:
    """The import path of a class.

    Raises:
        ValueError: one line; the class can't be imported by a path, as one that a function defines.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    if not is_import_path(path) or load_object(path, "task") is not cls:
        raise ValueError(f"task: expected a class that its module has by its name, got {path}")
    return path


def make_own(cls: type[Task], name: str, arguments: Mapping[str, Any], dt: float) -> Task:
    """Make a task of a class that inherits from `hpr.tasks.Task`, under the name by which runs know it.

    `dt` is given to a constructor that takes it. A task without a `content` gets a digest of trials and of the source
    of its class, since the class may change while its name stays.

    Raises:
        ValueError: one line; the constructor or a draw fails.
    """
    given = dict(arguments)
    if "dt" in inspect.signature(cls).parameters and "dt" not in given:
        given["dt"] = dt
    try:
        task = cls(**given)
        task.name = name
        if task.content is None:
            splits = get_args(Split)
            drawn = [task.draw(seed, 0, 4, 2, split) for seed in range(4) for split in splits]
            arrays = [array for trials in drawn for array in (trials.inputs, trials.targets)]
            task.content = digest(task.N_out, task.loss, task.loss_steps, *arrays, _sources(cls))
    # The class is the user's code, which can raise any exception.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"task: expected {name} to be made and to draw trials, got {named(error)}"
        ) from error
    return task


def _sources(cls: type) -> list[str]:
    """The sources of a class and of those that it inherits from, below `Task`; a class's name if it has no source."""
    found = []
    for each in cls.__mro__:
        if each is Task:
            break
        try:
            found.append(inspect.getsource(each))
        except (OSError, TypeError):
            found.append(each.__qualname__)
    return found
