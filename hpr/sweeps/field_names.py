"""The names that a sweep may set: the fields of a run and of every structure, with types, defaults and meanings."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hpr.connectivity import KINDS, Connectivity
from hpr.experiment.specification import RunSpec
from hpr.fields import hints

# Hashes that `hpr.experiment.bind` computes; nobody sets them.
COMPUTED = ("content", "drawn")
# Options of `hpr.run` that are no fields, which a sweep's file might name.
OPTIONS = ("out", "device", "mnist_dir", "workers", "cluster", "checkpoint_period", "log_json")
RUN_FIELDS = tuple(
    field.name for field in dataclasses.fields(RunSpec) if field.name not in COMPUTED
)
# What a sweep takes where a field of a run is not given and the class alone does not say it.
_OF_SWEEP = {
    "connectivity": "the structure that has the other names, else dense",
    "seed": "0",
    "task_version": "0.0.2 for 2AF, DMS and CXT, else the task's own",
    "leak": "the variant's",
    "N": "that of a matrix, else 300",
    "ntk_parameters": "the variant's",
}


@dataclass(frozen=True)
class FieldInfo:
    """A field of a class as `--fields` lists it: its name, its type, what it is if not given, and its meaning.

    `default` is "required" for a field that must be given.
    """

    name: str
    type: str
    default: str
    meaning: str


def structure_fields(structure: type[Connectivity]) -> tuple[str, ...]:
    """The names of a structure's fields."""
    return tuple(field.name for field in dataclasses.fields(structure))


def kinds_with(name: str) -> list[str]:
    """The kinds of structures that have a field of this name and not one of a run's."""
    return [kind for kind, cls in KINDS.items() if name in structure_fields(cls)]


def all_names() -> tuple[str, ...]:
    """Every name that a sweep may set."""
    own = (name for cls in KINDS.values() for name in structure_fields(cls))
    return tuple(dict.fromkeys((*RUN_FIELDS, "seeds", *own)))


def hint_of(name: str) -> Any:
    """The annotation of a field of a run, or else of the first structure that has it; None where none has."""
    if name in RUN_FIELDS:
        return hints(RunSpec)[name]
    return next((hints(KINDS[kind])[name] for kind in kinds_with(name)), None)


def is_tuple(name: str) -> bool:
    """Whether one value of a field is itself a sequence."""
    return get_origin(hint_of(name)) is tuple


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: "; did you mean 'learning_rate'?", or nothing where no known name is near."""
    by_form: dict[str, str] = {}
    for each in known:
        by_form.setdefault(each.casefold().replace("-", "_"), each)
    near = difflib.get_close_matches(name.casefold().replace("-", "_"), by_form, n=1)
    return f"; did you mean {by_form[near[0]]!r}?" if near else ""


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """Raise ValueError, one line, for a name that is no field; `also` are names of fields of the user's own classes."""
    known = (*all_names(), *also)
    if name in COMPUTED:
        raise ValueError(
            f"{name}: expected nothing, since it is computed from the content, got a value"
        )
    if name in OPTIONS:
        option = f"--{name.replace('_', '-')}"
        raise ValueError(
            f"{name}: expected the name of a field of a run or of its connectivity, got {name!r}, "
            f"which is no field but the option {option} of hpr.run"
        )
    if name not in known:
        raise ValueError(
            f"{name}: expected the name of a field of a run or of its connectivity, got {name!r}"
            f"{did_you_mean(name, known)}"
        )


def from_text(name: str, text: str) -> Any:
    """The value of a field that a text from the command line stands for.

    Text that is no value of the field's type is returned as it is; the field's own check then refuses it by name.
    The items of a tuple are joined by "+".
    """
    return _from_text(hint_of(name), text)


def _from_text(hint: Any, text: str) -> Any:
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if NoneType in items and text.casefold() == "none":
            return None
        return _from_text(next(item for item in items if item is not NoneType), text)
    if origin is tuple:
        return tuple(_from_text(items[0], part) for part in text.split("+"))
    if hint is bool and text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return text
    return text


def fields_of(cls: type) -> list[FieldInfo]:
    """The fields of a frozen dataclass. The comments above a field in the source are its meaning."""
    found = []
    for field in dataclasses.fields(cls):
        if field.name in COMPUTED:
            continue
        # An empty text stands where a field that must be given comes after one with a default.
        required = field.default is dataclasses.MISSING or field.default == ""
        default = "none" if field.default is None else str(field.default)
        if required:
            default = "required"
        if cls is RunSpec:
            default = _OF_SWEEP.get(field.name, default)
        found.append(
            FieldInfo(
                field.name,
                _described(hints(cls)[field.name]),
                default,
                _comments(cls).get(field.name, ""),
            )
        )
    return found


def _described(hint: Any) -> str:
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("none" if item is NoneType else _described(item) for item in items)
    if origin is Literal:
        return "|".join(map(str, items))
    if origin is tuple:
        return f"{_described(items[0])}, joined by +"
    return getattr(hint, "__name__", str(hint))


@functools.cache
def _comments(cls: type) -> dict[str, str]:
    """The comments above the fields, by field; of a field that several classes define, the nearest class's."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        try:
            lines = inspect.getsource(each).splitlines()
        except (OSError, TypeError):
            continue
        above: list[str] = []
        for line in lines:
            comment = re.fullmatch(r"    # (.*)", line)
            field = re.match(r"    (\w+): ", line)
            if comment:
                above.append(comment[1])
                continue
            if field and above:
                found[field[1]] = " ".join(above)
            above = []
    return found
