"""Where two records differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.fields import shown

# These say how a record came about, and not what the run gave.
CIRCUMSTANCES = ("timings", "provenance")


@dataclass(frozen=True)
class Difference:
    """A place in two records, such as `curves.loss`, and what differs there in one line."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def essence(record: Record) -> Record:
    """The record without its timings and its provenance: what the run gave, wherever it ran."""
    return {name: value for name, value in record.items() if name not in CIRCUMSTANCES}


def differences(one: Any, other: Any, where: str = "") -> Iterator[Difference]:
    """The differences of two plain values; numbers are equal if their bits are.

    Lists of numbers of equal length give one difference, with the number of entries that differ and by how much.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            inside = f"{where}.{name}" if where else name
            if name not in one or name not in other:
                has = "first" if name in one else "second"
                yield Difference(inside, f"in the {has} alone")
            else:
                yield from differences(one[name], other[name], inside)
    elif isinstance(one, list) and isinstance(other, list):
        yield from _of_lists(one, other, where)
    elif not _same(one, other):
        apart = f", apart by {_apart(one, other):.3g}" if _numbers(one, other) else ""
        yield Difference(where, f"{shown(one)} and {shown(other)}{apart}")


def _of_lists(one: list[Any], other: list[Any], where: str) -> Iterator[Difference]:
    if len(one) != len(other):
        yield Difference(where, f"{len(one)} and {len(other)} entries")
        return
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if not _same(a, b)]
    if not pairs:
        return
    text = f"{len(pairs)} of {counted(len(one), 'entry differs', 'entries differ')}"
    if all(_numbers(a, b) for a, b in pairs):
        text += f", by at most {max(_apart(a, b) for a, b in pairs):.3g}"
    yield Difference(where, text)


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal to the bit; 0.0 and -0.0, or 1 and 1.0, are not."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)
    return type(one) is type(other) and one == other


def _numbers(one: Any, other: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other))


def _apart(one: float, other: float) -> float:
    try:
        return abs(one - other)
    except OverflowError:
        return math.inf
