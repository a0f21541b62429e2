"""All records of a results folder as one table: a row per run, in a data frame, CSV or Parquet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpr import connectivity
from hpr.experiment.inventory import Bad, Kept, each_kept, read_kept
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.fields import as_path
from hpr.system.extras import install
from hpr.system.files import write_atomically

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)

Cell = str | int | float | bool | None
# By name, the values of all rows.
Columns = dict[str, list[Cell]]

# More columns come from no version of the package. A record made by hand could ask for millions.
MOST_COLUMNS = 2000
_PARTS = ("spec", "measures", "timings", "provenance")
_FIELDS = [field.name for field in dataclasses.fields(RunSpec)]
_SCALARS = frozenset((str, int, float, bool))
# Integers of Parquet and of a data frame have 64 bits.
_WIDEST = 2**63 - 1


def results(out: str | os.PathLike[str]) -> pandas.DataFrame:
    """All finished runs of a results folder as a pandas data frame, a row per run.

    A column is named by its place in a record's file: `spec.task`, `spec.connectivity.rank`,
    `measures.kernel_alignment`, `timings.training_s`, `provenance.versions.torch`. What a run does not have is missing
    in its row. Curves, trajectories and weights are not in the table. A file that is no valid record is left out, with
    a warning that names it.

    Raises:
        TypeError: `out` is no path.
        ImportError: pandas is not installed.
        OSError: the folder has no `runs`.
    """
    folder = as_path("out", out)
    if not (folder / "runs").is_dir():
        raise FileNotFoundError(
            f"out: expected a results folder, with a folder runs in it, got {folder}"
        )
    try:
        import pandas
    except ModuleNotFoundError:
        raise ImportError(
            f"hpr.results: expected pandas, which is not installed; install it: {install('table')}"
        ) from None
    return pandas.DataFrame(
        columns_of(folder, lambda bad: logger.warning("%s: %s; left out", bad.path, bad.reason))
    )


def columns_of(out: Path, tell: Callable[[Bad], None]) -> Columns:
    """The table's columns by name; `tell` is called with each file that is no valid record.

    Raises:
        OSError: the folder has no `runs`.
        ValueError: there are more than `MOST_COLUMNS` columns.
    """
    columns: Columns = {name: [] for name in ("key", "status", "iterations", "flags")}
    count = 0
    for path, row in each_kept(out, row_of, tell):
        for name, cell in row.items():
            column = columns.get(name)
            if column is None:
                if len(columns) == MOST_COLUMNS:
                    raise ValueError(
                        f"columns: expected at most {MOST_COLUMNS}, got more at {path}"
                    )
                column = columns[name] = []
            # Earlier rows do not have this column.
            column.extend([None] * (count - len(column)))
            column.append(cell)
        count += 1
    for column in columns.values():
        column.extend([None] * (count - len(column)))
    return {name: _of_one_type(columns[name]) for name in sorted(columns, key=_place)}


def write_csv(columns: Columns, path: Path) -> None:
    """Write the table as CSV (RFC 4180, UTF-8); what is missing is empty, floats have all their digits.

    Raises:
        OSError: the file can't be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, text.getvalue().encode())


def write_parquet(columns: Columns, path: Path) -> None:
    """Write the table as Parquet.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: the file can't be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ImportError(
            f"Parquet: expected pyarrow, which is not installed; install it: {install('table')}"
        ) from None
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), content)
    write_atomically(path, content.getvalue())


def row_of(path: Path) -> dict[str, Cell] | None:
    """The cells of the run of a valid record by the names of their columns; None for any other file."""
    found = read_kept(path)
    return _row(found.spec, found.record) if isinstance(found, Kept) else None


def _row(spec: RunSpec, record: Record) -> dict[str, Cell]:
    """The cells of a run by the names of their columns."""
    row: dict[str, Cell] = {
        "key": spec.key,
        "status": record["status"],
        "iterations": record["iterations"],
        "flags": _text("; ".join(map(str, record["flags"]))),
    }
    _flatten("spec", _fields(spec), row)
    for part in ("measures", "timings", "provenance"):
        _flatten(part, record.get(part), row)
    return row


def _fields(spec: RunSpec) -> dict[str, Any]:
    """All fields of a run, those at their defaults too, which its plain form may leave out."""
    fields = {name: getattr(spec, name) for name in _FIELDS}
    fields["connectivity"] = connectivity.to_dict(spec.connectivity)
    if spec.teacher is None:
        del fields["teacher"]
    else:
        fields["teacher"] = {"key": spec.teacher.key, **_fields(spec.teacher)}
    return fields


def _place(column: str) -> tuple[int, int]:
    """Where a column stands: by its part of the record, and by the field of the run."""
    part, _, rest = column.partition(".")
    field = rest.partition(".")[0]
    return (
        _PARTS.index(part) if part in _PARTS else -1,
        _FIELDS.index(field) if part == "spec" and field in _FIELDS else -1,
    )


def _flatten(name: str, value: Any, row: dict[str, Cell], depth: int = 0) -> None:
    """Put a plain value into a row: a dict as a column per entry, a list as its entries with spaces between."""
    kind = type(value)
    if kind is str:
        row[name] = _text(value)
    elif value is None or kind in _SCALARS:
        row[name] = value
    elif kind is dict and depth < 4:
        for inner, item in value.items():
            _flatten(f"{name}.{_text(inner)}", item, row, depth + 1)
    elif kind in (list, tuple) and all(type(item) in _SCALARS for item in value):
        row[name] = _text(" ".join(map(str, value)))
    else:
        row[name] = json.dumps(value)


def _text(text: str) -> str:
    """The text with its lone surrogates escaped, which JSON can hold and UTF-8 can not."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _of_one_type(column: Iterable[Cell]) -> list[Cell]:
    """The column with values of one type: integers beside floats become floats, and any other mixture texts."""
    cells = list(column)
    types = {type(cell) for cell in cells} - {type(None)}
    if types == {int} and any(cell is not None and abs(int(cell)) > _WIDEST for cell in cells):
        types = {int, float}
    if types == {int, float}:
        return [None if cell is None else float(cell) for cell in cells]
    if len(types) > 1:
        return [None if cell is None else str(cell) for cell in cells]
    return cells
