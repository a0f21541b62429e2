"""Connectomes: synapse tables read, checked, kept under the name of their content, and opened again.

A connectome is two tables in the form in which CAVE, the public service of the MICrONS data, exports them, as CSV
(gzipped where the name ends in .gz):

    synapses  pre_pt_root_id, post_pt_root_id, size          one synapse a row
    cells     pt_root_id, classification_system              one cell a row, in the order of the units

Other columns are ignored, and so are synapses with a cell that is not listed. The names of the pinky100 release
(pre_root_id, post_root_id, cleft_vx; cell_type) do as well.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpr.cache import cache_folder

from .base import Matrix

CELEGANS = "celegans"

PRE = ("pre_pt_root_id", "pre_root_id")
POST = ("post_pt_root_id", "post_root_id")
SIZE = ("size", "cleft_vx")
CELL = ("pt_root_id",)
TYPE = ("classification_system", "cell_type")

SIGNS: dict[str, int] = {
    **dict.fromkeys(("aibs_coarse_excitatory", "excitatory_neuron", "excitatory", "e"), 1),
    **dict.fromkeys(("aibs_coarse_inhibitory", "inhibitory_neuron", "inhibitory", "i"), -1),
}


@dataclass(frozen=True, eq=False)
class Connectome:
    """Signed weights [N, N] (row = postsynaptic) and the N cells' identifiers."""

    cells: tuple[str, ...]
    weights: Matrix

    @property
    def digest(self) -> str:
        """Hash of the content: 12 hexadecimal digits."""
        content = "\n".join(self.cells).encode() + np.ascontiguousarray(self.weights).tobytes()
        return hashlib.sha256(content).hexdigest()[:12]


def read_connectome(synapses: Path, cells: Path) -> Connectome:
    """Read a connectome from its two tables (their form is in the module's docstring).

    Raises:
        ValueError: a table is truncated or garbled, a column is missing, a cell is listed twice or has no known type, a
        size isn't a positive finite number, or no synapse is left between the cells listed.
        OSError: a file can't be read.
    """
    sign: dict[str, int] = {}
    for line, (cell, kind) in _rows(cells, (CELL, TYPE)):
        if cell in sign:
            raise ValueError(f"{cells} line {line}: expected each cell once, got {cell} again")
        if cell in ("", "0"):
            raise ValueError(f"{cells} line {line}: expected a cell's identifier, got {cell!r}")
        if kind not in SIGNS:
            raise ValueError(
                f"{cells} line {line}: expected a type among {', '.join(SIGNS)}, got {kind!r}"
            )
        sign[cell] = SIGNS[kind]
    unit = {cell: n for n, cell in enumerate(sign)}
    weights = np.zeros((len(unit), len(unit)))
    for line, (pre, post, size) in _rows(synapses, (PRE, POST, SIZE)):
        number = _size(synapses, line, size)
        if pre in unit and post in unit:
            weights[unit[post], unit[pre]] += sign[pre] * number
    if not weights.any():
        raise ValueError(
            f"{synapses}: expected synapses between the {len(unit)} cells of {cells}, got none"
        )
    return Connectome(tuple(unit), weights)


def read_folder(folder: Path) -> Connectome:
    """Read `synapses.csv` and `cells.csv` of a folder, plain or gzipped; raises as `read_connectome` does."""
    tables = []
    for stem in ("synapses", "cells"):
        present = [
            path for end in (".csv", ".csv.gz") if (path := folder / f"{stem}{end}").is_file()
        ]
        if not present:
            raise ValueError(f"{folder}: expected {stem}.csv or {stem}.csv.gz in it, got neither")
        tables.append(present[0])
    return read_connectome(*tables)


# Connectomes that this process alone knows.
_named: dict[str, Connectome] = {}


def keep(connectome: Connectome, name: str = "em", *, write: bool = True) -> str:
    """Store a connectome in the cache; returns its name, `<name>-<digest>`, which `EM(connectome=…)` takes.

    Without `write` the name is known in this process alone.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"name: expected letters, digits and underscores, got {name!r}")
    full = f"{name}-{connectome.digest}"
    if not write:
        _named[full] = connectome
        return full
    path = _kept(full)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, cells=np.array(connectome.cells), weights=connectome.weights)
    # Another process may read it meanwhile: it sees the whole file or none.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content.getvalue())
    os.replace(part, path)
    return full


@functools.cache
def open_connectome(name: str) -> Connectome:
    """The connectome of a name: the embedded "celegans", or one that `keep` stored.

    Raises:
        ValueError: no such connectome is here, or its content isn't what its name says.
    """
    if name == CELEGANS:
        return _frozen(read_folder(Path(__file__).with_name("data") / CELEGANS))
    if name in _named:
        return _frozen(_named[name])
    path = _kept(name)
    if not re.fullmatch(r"\w+-[0-9a-f]{12}", name) or not path.is_file():
        raise ValueError(
            f"connectome: expected {CELEGANS!r} or one kept in {path.parent}, got {name!r}"
        )
    with np.load(path) as kept:
        connectome = Connectome(tuple(str(cell) for cell in kept["cells"]), kept["weights"])
    if connectome.digest != name.rpartition("-")[2]:
        raise ValueError(f"connectome: expected the content of {name!r}, got another in {path}")
    return _frozen(connectome)


def _frozen(connectome: Connectome) -> Connectome:
    # One array is handed to every caller.
    connectome.weights.flags.writeable = False
    return connectome


def _kept(name: str) -> Path:
    return cache_folder() / "connectomes" / f"{name}.npz"


def _rows(path: Path, columns: Sequence[Sequence[str]]) -> Iterable[tuple[int, list[str]]]:
    """The wanted columns of each row, with its line; a column is sought under each of its names."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = [_column(path, reader.fieldnames or (), column) for column in columns]
            for row in reader:
                yield reader.line_num, [_cell(path, reader.line_num, row, name) for name in names]
    except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a whole table, got an error: {error}") from None


def _column(path: Path, header: Iterable[str], names: Sequence[str]) -> str:
    present = [name for name in names if name in header]
    if not present:
        raise ValueError(
            f"{path}: expected a column {' or '.join(names)}, got {', '.join(header) or 'none'}"
        )
    return present[0]


def _cell(path: Path, line: int, row: Mapping[str, str | None], name: str) -> str:
    value = row[name]
    if value is None:
        raise ValueError(f"{path} line {line}: expected a value of {name}, got none")
    return value.strip()


def _size(path: Path, line: int, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{path} line {line}: expected a positive finite size, got {text!r}")
    return number
