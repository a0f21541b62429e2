"""The record of a run: its form, its checksum, and how its file is read back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Final, NoReturn

from hpr.experiment.kept_weights import BESIDE, SCHEMA, check_named, is_named
from hpr.experiment.specification import RunSpec, canonical_json, key_of
from hpr.fields import shown

Record = dict[str, Any]

STATUSES: Final = ("finished", "stopped", "diverged")
# Bytes of a record's file at most. Trained weights were the largest part in older files: these are of 7,000 units.
LARGEST_RECORD: Final = 2**28
# Values in a record at most, and its deepest nesting: more than any run gives. A value takes up to thirty times as much
# memory as its text.
MOST_VALUES: Final = 5_000_000
DEEPEST: Final = 50
_KINDS: Final = {
    "iterations": int, "curves": dict, "measures": dict, "flags": list, "provenance": dict,
}  # fmt: skip
_NUMBERS: Final = frozenset((int, float))
_TOO_LARGE: Final = "not strict JSON (a number is beyond the range of fp64)"
# How `sealed` begins a file, and what precedes the specification, without white space.
_SEAL: Final = re.compile(rb'\{"checksum":"([0-9a-f]{64})",')
_BEFORE_SPEC: Final = f',"schema":{SCHEMA},"spec":'.encode()


def checksum(record: Record) -> str:
    """SHA-256 of a record's canonical JSON, kept in its file so that a changed number is noticed."""
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


def sealed(record: Record) -> bytes:
    """The file of a record: its JSON and its checksum, a line per value.

    Raises:
        ValueError: it isn't strict JSON (a NaN or infinite number).
    """
    whole = {**record, "checksum": checksum(record)}
    return json.dumps(whole, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def identity(record: Record) -> Record:
    """The record without its timings: two runs of one specification must agree in it."""
    return {name: value for name, value in record.items() if name != "timings"}


class Foreign(ValueError):
    """A complete record that another version or process can read, but this one can't."""


def validate(content: bytes, spec: RunSpec) -> Record:
    """Parse the file of the run `spec`.

    Raises:
        Foreign: it is of a later schema, or its specification has a kind or a field that isn't known here.
        ValueError: one line, when the bytes aren't a whole record of this schema and of this
        specification.
    """
    try:
        record = _parsed(content)
        _check_run(record, spec)
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"not strict JSON ({error})") from None
    return record


def read_record(content: bytes) -> tuple[RunSpec, Record]:
    """Parse a run's file, whichever run it is of.

    Raises:
        Foreign, ValueError: as `validate` does.
    """
    try:
        record = _parsed(content)
        try:
            spec = RunSpec.from_dict(record.get("spec", {}))
        except ValueError as error:
            raise Foreign(str(error)) from None
        _check_run(record, spec)
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"not strict JSON ({error})") from None
    return spec, record


def record_of(content: bytes, key: str) -> Record | None:
    """Parse the file of the run of a key; None where it is no valid record, or where only `validate` can tell."""
    try:
        record = _parsed(content)
        plain = record.get("spec")
        if record.get("key") != key or not isinstance(plain, dict) or key_of(plain) != key:
            return None
        _check_parts(record)
    except (ValueError, RecursionError, OverflowError):
        return None
    return record


def surely_holds(content: bytes, key: str) -> bool:
    """Whether a file is the record of the run of a key, as `sealed` makes it; False where parsing alone can tell.

    This takes a third of the time of parsing.
    """
    parts = _sealed(content)
    if parts is None:
        return False
    digest, canonical = parts
    if (
        hashlib.sha256(canonical).hexdigest() != digest
        or f',"key":"{key}",'.encode() not in canonical
    ):
        return False
    _, _, rest = canonical.partition(_BEFORE_SPEC)
    # The key is the hash of the specification's canonical JSON.
    plain, _, _ = rest.rpartition(b',"status":"')
    return hashlib.sha256(plain).hexdigest()[: len(key)] == key


def _parsed(content: bytes) -> Record:
    """The JSON of a file, whose schema and checksum have been checked."""
    if content.count(b",") > MOST_VALUES:
        raise ValueError(f"values: expected at most {MOST_VALUES:,}, got more")
    try:
        record = _DECODER.decode(content.decode())
    except ValueError as error:
        raise ValueError(f"not strict JSON ({error})") from None
    if not isinstance(record, dict) or not _known_form(record):
        schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
        later = isinstance(schema, int) and schema > SCHEMA
        raise (Foreign if later else ValueError)(f"schema: expected {SCHEMA}, got {shown(schema)}")
    found = record.pop("checksum", None)
    parts = _sealed(content)
    if parts is None or parts[0] != found or hashlib.sha256(parts[1]).hexdigest() != found:
        # The file may have been written in another way.
        try:
            expected = checksum(record)
        except ValueError as error:
            raise ValueError(f"not strict JSON ({error})") from None
        if found != expected:
            raise ValueError("checksum: expected that of the content, got another")
    _check_values(record)
    return record


def _known_form(record: Record) -> bool:
    """Whether a parsed file has a schema of this version."""
    schema = record.get("schema")
    return schema == SCHEMA or (schema == BESIDE and is_named(record.get("weights")))


def _sealed(content: bytes) -> tuple[str, bytes] | None:
    """The checksum of a file and the canonical JSON that it is of, if `sealed` made the file; None otherwise.

    Such a file is the canonical JSON with line ends, indents, a space after each name, and the checksum as its first
    entry. To remove these from the bytes takes a fifth of the time of parsing the JSON and writing it anew.
    """
    # A quote in a text could look like the end of a name.
    if b'\\"' in content:
        return None
    compact = b"".join(map(bytes.strip, content.split(b"\n"))).replace(b'": ', b'":')
    found = _SEAL.match(compact)
    return found and (found[1].decode(), b"{" + compact[found.end() :])


def _check_values(record: Record) -> None:
    """Raise ValueError or OverflowError if a parsed JSON is nested too deeply or a number exceeds the range of fp64."""
    left: list[tuple[Any, int]] = [(record, 1)]
    while left:
        value, depth = left.pop()
        if depth > DEEPEST:
            raise ValueError(f"not strict JSON (nested deeper than {DEEPEST} levels)")
        for item in value.values() if type(value) is dict else value:
            kind = type(item)
            if kind is dict or (kind is list and not _numbers_alone(item)):
                left.append((item, depth + 1))
            elif kind in _NUMBERS and not math.isfinite(item):
                raise ValueError(_TOO_LARGE)


def _numbers_alone(values: list[Any]) -> bool:
    """Whether a list, such as a curve, holds nothing but numbers, which are then within range.

    Raises:
        ValueError, OverflowError: one is not.
    """
    try:
        if all(map(math.isfinite, values)):
            return True
    except TypeError:
        return False
    raise ValueError(_TOO_LARGE)


def _check_run(record: Record, spec: RunSpec) -> None:
    """Raise where a record is of another run than `spec`, or lacks what a record has."""
    if record.get("key") != spec.key or not _is_of(record.get("spec"), spec):
        try:
            RunSpec.from_dict(record.get("spec", {}))
        except ValueError as error:
            raise Foreign(str(error)) from None
        raise ValueError(f"specification: expected that of {spec}, got another run's")
    _check_parts(record)


def _check_parts(record: Record) -> None:
    """Raise ValueError where a record lacks what a record has besides its specification."""
    if record.get("status") not in STATUSES:
        raise ValueError(f"status: expected one of {STATUSES}, got {shown(record.get('status'))}")
    for name, kind in _KINDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {shown(record.get(name))}")
    if record["schema"] == BESIDE:
        check_named(record["weights"])
    for name, value in record["measures"].items():
        # Infinities are no JSON.
        if value is not None and type(value) not in _NUMBERS:
            raise ValueError(
                f"measure {shown(name)}: expected a finite number or null, got {shown(value)}"
            )


def _is_of(plain: Any, spec: RunSpec) -> bool:
    """Whether a plain form is that of a run. Most are told by their hash, which is made in less time than the form."""
    return isinstance(plain, dict) and (key_of(plain) == spec.key or plain == spec.to_dict())


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token[:20]} is no number of a record")


# `json.loads` would make a decoder at each call.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)
