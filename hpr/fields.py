"""Check the fields of frozen dataclasses by their annotations and normalise them, so that equal instances have one key.

A field is an int, a float, a bool, a str, a Literal, a class, a tuple of these, or one of these or None. Normalising
turns NumPy's scalars into Python's, an integer in a float field into a float, and -0.0 into 0.0. A bool is not accepted
as a number.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from hpr.system.paths import expanded

# The most characters of a text field: enough for every name, and few enough for a file name.
LONGEST_TEXT = 200


def normalise(instance: Any) -> None:
    """Check and normalise every field of a frozen dataclass; call it in `__post_init__`.

    Raises:
        ValueError: a value does not match its field's annotation; one line that begins with the field's name.
    """
    cls: Any = type(instance)
    for name, normal, settled in _normals(cls):
        value = getattr(instance, name)
        if type(value) in settled:
            continue
        try:
            of_one_form = normal(value)
        except _Mismatch:
            expected = _described(hints(cls)[name])
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}") from None
        if of_one_form is not value:
            object.__setattr__(instance, name, of_one_form)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass, resolved to types.

    Raises:
        ValueError: an annotation contains a name that is not defined in the module of the class.
    """
    try:
        resolved = get_type_hints(cls)
    except (NameError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"{cls.__name__}: expected annotations that can be resolved, got {error}"
        ) from None
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


def survives_json(hint: Any) -> bool:
    """Whether values of an annotation can be restored from JSON: scalars and tuples of scalars can."""
    if get_origin(hint) in (Union, UnionType):
        [*others] = (option for option in get_args(hint) if option is not NoneType)
        # A field `bool | int` could hold 1 or True: they are equal, but JSON and keys tell them apart.
        return len(others) == 1 and survives_json(others[0])
    if get_origin(hint) is tuple:
        return all(survives_json(item) for item in get_args(hint) if item is not Ellipsis)
    if get_origin(hint) is Literal:
        return all(type(choice) is str for choice in get_args(hint))
    return hint in (int, float, bool, str)


def check_integer(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError if an integer is not from `least` to `most`."""
    if value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{name}: expected an integer of at most {most}, got {shown(value)}")


def check_positive(instance: Any, *names: str) -> None:
    """Raise ValueError if one of the named fields is not positive."""
    for name in names:
        if not getattr(instance, name) > 0:
            raise ValueError(
                f"{name}: expected a positive finite number, got {getattr(instance, name)!r}"
            )


def shown(value: Any) -> str:
    """The representation of a value for an error message: one line of at most 100 characters."""
    try:
        text = " ".join(repr(value).split())
    # A repr can raise anything; that of an int of over 4,300 digits raises ValueError.
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def as_path(name: str, value: object) -> Path:
    """A path that a user gave in Python, with `~` and `~user` expanded.

    Raises:
        TypeError, ValueError: one line that begins with the argument's name; it is no path, or empty.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {shown(value)}")
    try:
        return expanded(os.fsdecode(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class _Mismatch(Exception):
    """A value does not match its field's annotation."""


@functools.cache
def _normals(cls: type) -> tuple[tuple[str, Callable[[Any], Any], frozenset[type]], ...]:
    """The name of each field, the function that normalises its value, and the types of values that are normal."""
    return tuple((name, _normal(hint), _settled(hint)) for name, hint in hints(cls).items())


def _settled(hint: Any) -> frozenset[type]:
    """The types whose every value stays as it is in a field with this annotation; most values are of one."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    of_one = len([option for option in options if option is not NoneType]) == 1
    return frozenset(options) & {bool, int, NoneType} if of_one else frozenset()


def _normal(hint: Any) -> Callable[[Any], Any]:
    """The function that normalises a value of a field with this annotation; it raises `_Mismatch`."""
    of_type = _of_type(hint)

    def normal(value: Any) -> Any:
        return of_type(value.item() if isinstance(value, np.generic) else value)

    return normal


def _of_type(hint: Any) -> Callable[[Any], Any]:
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        [*others] = (_normal(item) for item in items if item is not NoneType)
        if len(others) == 1:
            return lambda value: None if value is None else others[0](value)
        return lambda value: value
    if origin is Literal:
        return functools.partial(_choice, items)
    if origin is tuple:
        repeated = items[1:] == (Ellipsis,)
        each = tuple(_normal(item) for item in (items[:1] if repeated else items))
        return functools.partial(_tuple, each, repeated)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and origin is None:
        return functools.partial(_instance, hint)
    return lambda value: value


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise _Mismatch


def _tuple(each: tuple[Callable[[Any], Any], ...], repeated: bool, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or (not repeated and len(value) != len(each)):
        raise _Mismatch
    return tuple(normal(item) for normal, item in zip(itertools.cycle(each), value, strict=False))


def _instance(cls: type, value: Any) -> Any:
    if not isinstance(value, cls):
        raise _Mismatch
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Mismatch
    return int(value)


def _finite_float(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Mismatch
    try:
        number = float(value)
    except OverflowError:
        raise _Mismatch from None
    if not math.isfinite(number):
        raise _Mismatch
    # Adding 0.0 turns -0.0 into 0.0: they are equal and must have one key.
    return number + 0.0


def _line_of_text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST_TEXT:
        raise _Mismatch
    # A member of a str enumeration becomes a plain str.
    return str.__str__(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: functools.partial(_instance, bool),
    int: _integer,
    float: _finite_float,
    str: _line_of_text,
}


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in get_args(hint))
    if origin is Literal:
        return f"one of {get_args(hint)}"
    if origin is tuple:
        items = [_described(item) for item in get_args(hint) if item is not Ellipsis]
        each = "each " if Ellipsis in get_args(hint) else ""
        return f"a list of items, {each}{', '.join(items)}"
    names = {
        float: "a finite number",
        int: "an integer",
        bool: "a bool",
        str: f"a line of at most {LONGEST_TEXT} characters",
        NoneType: "None",
    }
    return names.get(hint) or f"a {getattr(hint, '__name__', hint)}"
