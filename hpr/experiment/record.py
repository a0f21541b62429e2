"""The record of a run: its form, its checksum, and how its file is read back."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final, NoReturn

from hpr.experiment.specification import RunSpec
from hpr.fields import shown

Record = dict[str, Any]

SCHEMA: Final = 1
STATUSES: Final = ("finished", "stopped", "diverged")


def checksum(record: Record) -> str:
    """SHA-256 of a record's canonical JSON, kept in its file so that a changed number is noticed."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def identity(record: Record) -> Record:
    """The record without its timings: two runs of one specification must agree in it."""
    return {name: value for name, value in record.items() if name != "timings"}


class Foreign(ValueError):
    """A complete record that another version or process can read, but this one can't."""


def validate(content: bytes, spec: RunSpec) -> Record:
    """Parse a run's file.

    Raises:
        Foreign: it is of a later schema, or its specification has a kind or a field that isn't known here.
        ValueError: one line, when the bytes aren't a whole record of this schema and of this
        specification.
    """
    try:
        return _validated(content, spec)
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"not strict JSON ({error})") from None


def _validated(content: bytes, spec: RunSpec) -> Record:
    try:
        record = json.loads(
            content.decode(),
            parse_int=_whole,
            parse_float=_number,
            parse_constant=_refuse,
        )
    except ValueError as error:
        raise ValueError(f"not strict JSON ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
        later = isinstance(schema, int) and schema > SCHEMA
        raise (Foreign if later else ValueError)(f"schema: expected {SCHEMA}, got {shown(schema)}")
    if record.pop("checksum", None) != checksum(record):
        raise ValueError("checksum: expected that of the content, got another")
    if record.get("spec") != spec.to_dict() or record.get("key") != spec.key:
        try:
            RunSpec.from_dict(record.get("spec", {}))
        except ValueError as error:
            raise Foreign(str(error)) from None
        raise ValueError(f"specification: expected that of {spec}, got another run's")
    if record.get("status") not in STATUSES:
        raise ValueError(f"status: expected one of {STATUSES}, got {shown(record.get('status'))}")
    kinds = {"iterations": int, "curves": dict, "measures": dict, "flags": list, "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {shown(record.get(name))}")
    for name, value in record["measures"].items():
        # Infinities are no JSON.
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ValueError(
                f"measure {shown(name)}: expected a finite number or null, got {shown(value)}"
            )
    return record


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token[:20]} is no number of a record")


def _whole(token: str) -> int:
    # No count, step or seed has more digits.
    return int(token) if len(token) <= 20 else _refuse(token)


def _number(token: str) -> float:
    number = float(token)
    return number if math.isfinite(number) else _refuse(token)
