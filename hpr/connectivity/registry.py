"""The registry of structures by kind, and their plain form in records."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from typing import Any, TypeVar

import numpy as np

from hpr.fields import hints, shown, survives_json
from hpr.system.loading import load_entry_point, named

from .base import Connectivity

KINDS: dict[str, type[Connectivity]] = {}
# The group of entry points by which a distribution adds structures.
GROUP = "hpr.connectivity"

Structure = TypeVar("Structure", bound=type[Connectivity])


class UnknownKind(ValueError):
    """A kind of structure that is not registered in this process."""


def register(structure: Structure) -> Structure:
    """Register a structure of your own, a frozen dataclass that inherits from `Connectivity`. It is a decorator.

    The class variable `kind` names the structure in every run's key and record, so no other class may have it. A record
    can be read only where the class is registered, so register it in a module that you import, not only in a script's
    `__main__`. If you change what the class draws, its runs get new keys (`RunSpec.drawn`), and old records stay.

        @register
        @dataclass(frozen=True)
        class Ring(Connectivity):
            kind: ClassVar[str] = "ring"
            width: int = 3
            ...

    Raises:
        TypeError: it is no class that inherits from `Connectivity`.
        ValueError: it is abstract, no frozen dataclass, or its kind is another's; or a field is no int, float, bool,
            str, Literal of str, a tuple of these, or one of these or None.
    """
    if not isinstance(structure, type) or not issubclass(structure, Connectivity):
        raise TypeError(f"structure: expected a subclass of Connectivity, got {shown(structure)}")
    name = f"structure {structure.__qualname__}"
    parameters = vars(structure).get("__dataclass_params__")
    # A dataclass that inherits from a frozen one must be frozen itself, so only `eq` is checked.
    if parameters is None or not parameters.eq:
        raise ValueError(f"{name}: expected a dataclass(frozen=True), got another class")
    if inspect.isabstract(structure):
        missing = ", ".join(sorted(structure.__abstractmethods__))
        raise ValueError(f"{name}: expected all of Connectivity's methods, got none of {missing}")
    kind = vars(structure).get("kind")
    if not isinstance(kind, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", kind):
        raise ValueError(
            f"{name}: expected a kind of its own in lower-case letters, digits and underscores, got {shown(kind)}"
        )
    for field, hint in hints(structure).items():
        if field == "kind" or not survives_json(hint):
            raise ValueError(
                f"{name}: expected fields of int, float, bool, str, tuples of them or None, got {field}: {shown(hint)}"
            )
    known = KINDS.get(kind)
    # The same class defined again, as a notebook's cell does, takes the place of the old one.
    same = known is not None and _place(known) == _place(structure)
    if known is not None and not same:
        raise ValueError(
            f"{name}: expected a kind of its own, got {kind!r} of {known.__qualname__}"
        )
    KINDS[kind] = structure
    _check_form.cache_clear()
    return structure


def to_dict(connectivity: Connectivity) -> dict[str, Any]:
    """The structure as plain JSON values, as records keep it: `kind` and the fields, with tuples as lists."""
    fields = {
        field.name: getattr(connectivity, field.name) for field in dataclasses.fields(connectivity)
    }
    return {"kind": connectivity.kind, **{name: _listed(value) for name, value in fields.items()}}


def from_dict(plain: dict[str, Any]) -> Connectivity:
    """Invert `to_dict`.

    Raises:
        UnknownKind: the kind is not registered here.
        ValueError: one line, where `plain` is not the plain form of a structure.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"connectivity: expected its kind and fields, got {shown(plain)}")
    fields = dict(plain)
    kind = fields.pop("kind", None)
    structure = find_kind(kind) if isinstance(kind, str) else None
    if structure is None:
        raise UnknownKind(
            f"connectivity kind: expected one of {sorted(KINDS)}, got {shown(kind)}; "
            "hpr.connectivity.register makes one known"
        )
    known = {field.name: field for field in dataclasses.fields(structure)}
    needed = {name for name, field in known.items() if field.default is dataclasses.MISSING}
    if not needed <= set(fields) <= set(known):
        raise ValueError(
            f"connectivity {kind}: expected the fields {sorted(known)}, got {shown(sorted(map(str, fields)))}"
        )
    return structure(**fields)


def find_kind(name: str) -> type[Connectivity] | None:
    """The class of a kind: one that is registered, or else that of an entry point of this name; None: there is none.

    An entry point of the group "hpr.connectivity" is a class that `register` decorates, under the name of its kind.

    Raises:
        ValueError: one line; the entry point can't be loaded, or is no such class.
    """
    if name in KINDS:
        return KINDS[name]
    loaded = load_entry_point(GROUP, name, "connectivity kind")
    if loaded is not None and KINDS.get(name) is not loaded:
        raise ValueError(
            f"connectivity kind: expected a registered class of the kind {name!r} at the entry point {name} of "
            f"{GROUP}, got {shown(loaded)}"
        )
    return KINDS.get(name)


def drawn(connectivity: Connectivity, N: int, seed: int) -> str | None:
    """A digest of the weights that a structure of your own draws; None for the package's own structures.

    The code of a registered class may change while its kind stays, so a run's key also holds this hash of the weights,
    16 hexadecimal digits. Another instance with the same fields must draw the same weights, whatever was drawn before.

    Raises:
        ValueError: one line.
    """
    check_form(connectivity)
    connectivity.check_data(N)
    if type(connectivity).__module__.startswith(f"{__package__}."):
        return None
    W = connectivity.draw(N, seed)
    again = from_dict(to_dict(connectivity)).draw(N, seed)
    if not np.array_equal(W, again):
        raise ValueError(
            f"weights of {connectivity.kind}: expected a function of the fields, N and the generator given, got "
            f"others each time from {shown(connectivity)}"
        )
    return hashlib.sha256(W.tobytes()).hexdigest()[:16]


def check_form(connectivity: Connectivity) -> None:
    """Refuse a structure that cannot be restored from its plain form.

    Raises:
        ValueError: one line.
    """
    cls = type(connectivity)
    if KINDS.get(getattr(cls, "kind", "")) is not cls:
        raise UnknownKind(
            f"connectivity: expected a kind among {sorted(KINDS)}, got {cls.__qualname__}, which is not registered; "
            f"hpr.connectivity.register({cls.__qualname__}) makes it known"
        )
    _check_form(connectivity)


@functools.lru_cache(maxsize=1024)
def _check_form(connectivity: Connectivity) -> None:
    plain = to_dict(connectivity)
    again: Any
    try:
        again = from_dict(json.loads(json.dumps(plain, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        again = error
    if again != connectivity or to_dict(again) != plain:
        raise ValueError(
            f"connectivity: expected a structure that its fields give back, got {shown(again)} from {shown(plain)}"
        )
    try:
        label = shown(connectivity.label)
        good = isinstance(connectivity.label, str)
    # A property of the user's own can raise any exception.
    except (Exception, SystemExit) as error:
        label, good = named(error), False
    if not good:
        raise ValueError(f"connectivity: expected a str for its label, got {label}")


def _place(structure: type) -> str:
    return f"{structure.__module__}.{structure.__qualname__}"


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
