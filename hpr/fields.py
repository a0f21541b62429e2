"""Fields of frozen dataclasses: checked by their annotations and brought into one form, so that equals have one key.

A field is an int, a float, a bool, a str, a Literal, a class, a tuple of these, or one of these or None. NumPy's
scalars become Python's, a whole number that stands for a float becomes one, and -0.0 becomes 0.0. A bool is no number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

# Characters of a text: enough for every name, and few enough for a file's.
LONGEST = 200


def normalise(instance: Any) -> None:
    """Check every field of a frozen dataclass and bring it into its one form; for `__post_init__`.

    Raises:
        ValueError: one line that begins with the field's name.
    """
    cls: Any = type(instance)
    for name, hint in hints(cls).items():
        object.__setattr__(instance, name, normal(name, hint, getattr(instance, name)))


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass.

    Raises:
        ValueError: an annotation names something that is not known where the class is defined.
    """
    try:
        resolved = get_type_hints(cls)
    except (NameError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"{cls.__name__}: expected annotations that can be resolved, got {error}"
        ) from None
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


def plain(hint: Any) -> bool:
    """Whether values of an annotation survive JSON: those of scalars and of tuples of them."""
    if get_origin(hint) in (Union, UnionType):
        [*others] = (option for option in get_args(hint) if option is not NoneType)
        # Of a bool or a number 1 and True are equal, and would be two runs.
        return len(others) == 1 and plain(others[0])
    if get_origin(hint) is tuple:
        return all(plain(item) for item in get_args(hint) if item is not Ellipsis)
    if get_origin(hint) is Literal:
        return all(type(choice) is str for choice in get_args(hint))
    return hint in (int, float, bool, str)


def normal(name: str, hint: Any, value: Any) -> Any:
    """A field's value in its one form.

    Raises:
        ValueError: one line that begins with `name`.
    """
    try:
        return _converted(hint, value)
    except _Mismatch:
        raise ValueError(f"{name}: expected {_described(hint)}, got {shown(value)}") from None


def whole(name: str, value: int, least: int, most: int) -> None:
    """Refuse an integer that is out of range."""
    if value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{name}: expected an integer of at most {most}, got {shown(value)}")


def positive(instance: Any, *names: str) -> None:
    """Refuse numbers that are not positive."""
    for name in names:
        if not getattr(instance, name) > 0:
            raise ValueError(
                f"{name}: expected a positive finite number, got {getattr(instance, name)!r}"
            )


def shown(value: Any) -> str:
    """What came, in a message: one short line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    # Anything may fail in any way; so do integers of over 4,300 digits.
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


class _Mismatch(Exception):
    """A value is not of its field's type."""


def _converted(hint: Any, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        [*others] = (option for option in get_args(hint) if option is not NoneType)
        return _converted(others[0], value) if len(others) == 1 else value
    if origin is Literal:
        for choice in get_args(hint):
            if isinstance(value, type(choice)) and value == choice:
                return choice
        raise _Mismatch
    if origin is tuple:
        return _converted_tuple(get_args(hint), value)
    if hint is float:
        return _converted_number(value)
    if hint is str:
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST:
            # The text itself, of an enumeration's members too.
            return str.__str__(value)
        raise _Mismatch
    if origin is None and isinstance(hint, type) and not isinstance(value, hint):
        raise _Mismatch
    if hint is int and isinstance(value, bool):
        raise _Mismatch
    return int(value) if hint is int else value


def _converted_number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Mismatch
    try:
        number = float(value)
    except OverflowError:
        raise _Mismatch from None
    if not math.isfinite(number):
        raise _Mismatch
    # 0.0 and -0.0 are equal.
    return number + 0.0


def _converted_tuple(items: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _Mismatch
    of_each = (items[0],) * len(value) if items[1:] == (Ellipsis,) else items
    if len(of_each) != len(value):
        raise _Mismatch
    return tuple(_converted(hint, item) for hint, item in zip(of_each, value, strict=True))


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in get_args(hint))
    if origin is Literal:
        return f"one of {get_args(hint)}"
    if origin is tuple:
        items = [_described(item) for item in get_args(hint) if item is not Ellipsis]
        return f"a tuple of {', '.join(items)}"
    names = {
        float: "a finite number",
        int: "an integer",
        bool: "a bool",
        str: f"a line of at most {LONGEST} characters",
        NoneType: "None",
    }
    return names.get(hint) or f"a {getattr(hint, '__name__', hint)}"
