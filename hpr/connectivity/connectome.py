"""Connectomes: read from synapse tables, checked, kept in the cache under a hash of their content, and opened again.

A connectome is two text tables in the form in which CAVE, the public service of the MICrONS data, exports them (gzipped
where the name ends in .gz; `tables` describes the format):

    synapses  pre_pt_root_id, post_pt_root_id, size          one row per synapse
    cells     pt_root_id, classification_system              one row per cell, in the order of the units

The column names of the pinky100 release (pre_root_id, post_root_id, cleft_vx; cell_type) are accepted too. An optional
column `id` identifies each synapse. Other columns are ignored.

- Sizes of rows of the same pair of cells are summed, since a pair has several synapses. Where there is a column `id`, a
  repeated id is refused.
- A cell's synapses with itself (autapses) are kept, on the diagonal.
- Synapses with a cell that is not listed are left out. Their share is not checked, since a block of ten cells uses
  0.2 % of the pinky100 table. `Connectome.used` and `Connectome.rows` give the numbers.
- Identifiers are compared as text where the cells have names, and as numbers where they have numbers. Numbers that lost
  digits in a float or a spreadsheet are refused (`identifiers`). Tables in which more than half of the cells have no
  synapse are refused as well.
- A table may have up to 1 GiB after unzipping, and up to 10,000 cells.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpr.system.files import unusable, write_to_cache
from hpr.system.paths import cache_folder

from .base import Matrix
from .identifiers import LostDigits, are_numbers, number
from .tables import Table, quoted

CELEGANS = "celegans"

PRE = ("pre_pt_root_id", "pre_root_id")
POST = ("post_pt_root_id", "post_root_id")
SIZE = ("size", "cleft_vx")
CELL = ("pt_root_id",)
TYPE = ("classification_system", "cell_type")
ID = "id"

# The weights of this many cells take 0.8 GB.
MOST_CELLS = 10_000

SIGNS: dict[str, int] = {
    **dict.fromkeys(("aibs_coarse_excitatory", "excitatory_neuron", "excitatory", "e"), 1),
    **dict.fromkeys(("aibs_coarse_inhibitory", "inhibitory_neuron", "inhibitory", "i"), -1),
}


@dataclass(frozen=True, eq=False)
class Connectome:
    """Signed weights [N, N] (row = postsynaptic) and the N cells' identifiers.

    Attributes:
        cells: the identifiers, as written in the table.
        weights: summed sizes, negative where the presynaptic cell is inhibitory.
        used: how many synapses of the table are between the cells; None unless the connectome was read from tables.
        rows: how many synapses the table has; None as above.
        absent: how many of the cells are in no row of the table; None as above.
    """

    cells: tuple[str, ...]
    weights: Matrix
    used: int | None = None
    rows: int | None = None
    absent: int | None = None

    @property
    def digest(self) -> str:
        """A hash of cells and weights, 12 hexadecimal digits."""
        content = "\n".join(self.cells).encode() + np.ascontiguousarray(self.weights).tobytes()
        return hashlib.sha256(content).hexdigest()[:12]

    @property
    def share(self) -> str:
        """How much of the synapse table was used, in words; empty unless the connectome was read from tables."""
        if self.used is None:
            return ""
        absent = f"; cells without any synapse there: {self.absent:,}" if self.absent else ""
        return f"{self.used:,} of {self.rows:,} synapses are between them{absent}"


def read_connectome(synapses: Path, cells: Path) -> Connectome:
    """Read a connectome from its two tables.

    The module's docstring describes their form, and how repeated rows, autapses and other cells are treated.

    Raises:
        ValueError: a table is truncated, garbled or too large, a column is missing, a cell is listed twice or has no
        known type, an identifier has lost digits, a synapse comes twice, a size isn't a positive finite number, no
        synapse is left between the cells listed, or over half of the cells are in no synapse.
        OSError: a file can't be read.
    """
    listed, signs, numbers = _cells(cells)
    unit = {key: n for n, key in enumerate(listed)}
    weights = np.zeros((len(unit), len(unit)))
    table = Table(synapses, (PRE, POST, SIZE), (ID,))
    lost = LostDigits(key for key in unit if isinstance(key, int))
    seen: set[str] = set()
    present = np.zeros(len(unit), bool)
    rows = used = 0

    # A cell has many synapses, so its identifier is looked up many times.
    @functools.lru_cache(maxsize=2**20)
    def place(text: str) -> int | None:
        key = number(table.here, text) if numbers else text
        found = unit.get(key)
        if found is not None:
            present[found] = True
        elif isinstance(key, int):
            lost.see(table.here, key)
        return found

    for *ends, size, name in table:
        rows += 1
        strength = table.size(size)
        pre, post = map(place, ends)
        if pre is None or post is None:
            continue
        if name and name in seen:
            raise ValueError(f"{table.here}: expected each synapse once, got id {name} again")
        seen.add(name)
        used += 1
        total = weights[post, pre].item() + signs[pre] * strength
        if not math.isfinite(total):
            raise ValueError(f"{table.here}: expected sizes with a finite sum, got {quoted(size)}")
        weights[post, pre] = total
    lost.check(str(cells))
    if not used:
        raise ValueError(
            f"{synapses}: expected synapses between the {len(unit)} cells of {cells}, got none"
        )
    absent = int((~present).sum())
    if 2 * absent > len(unit):
        raise ValueError(
            f"{synapses}: expected at least half of the {len(unit)} cells of {cells}, got {absent} cells without any "
            "synapse: their identifiers may have been changed"
        )
    return Connectome(tuple(listed.values()), weights, used, rows, absent)


def _cells(path: Path) -> tuple[dict[int | str, str], list[int], bool]:
    """The cells as written, by the key that they are compared by; their signs; whether the keys are numbers."""
    table = Table(path, (CELL, TYPE))
    rows = []
    for cell, kind in table:
        rows.append((table.here, cell, kind))
        if len(rows) > MOST_CELLS:
            raise ValueError(f"{table.here}: expected at most {MOST_CELLS:,} cells, got more")
    numbers = are_numbers(cell for _, cell, _ in rows)
    listed: dict[int | str, str] = {}
    signs = []
    for where, cell, kind in rows:
        key = number(where, cell) if numbers else cell
        if key in listed:
            raise ValueError(f"{where}: expected each cell once, got {quoted(cell)} again")
        if key in ("", "0", 0):
            raise ValueError(f"{where}: expected a cell's identifier, got {quoted(cell)}")
        if kind.casefold() not in SIGNS:
            raise ValueError(
                f"{where}: expected a type among {', '.join(SIGNS)}, got {quoted(kind)}"
            )
        listed[key] = cell
        signs.append(SIGNS[kind.casefold()])
    return listed, signs, numbers


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


def keep(connectome: Connectome, name: str = "em", *, write: bool = True) -> str:
    """Store a connectome in the cache unless it is there, and return the name that `EM(connectome=…)` takes.

    The name is `<name>-<digest>`. With `write` off nothing is stored, and the name can be opened in this process only.

    Raises:
        ValueError: the name isn't made of letters, digits and underscores.
        OSError: one line, when the cache lacks it and can't be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"name: expected letters, digits and underscores, got {name!r}")
    full = f"{name}-{connectome.digest}"
    if not write:
        _unwritten[full] = _frozen(Connectome(connectome.cells, connectome.weights.copy()))
        return full
    path = _kept(full)
    try:
        _load(path, full)
    except (ValueError, OSError):
        content = io.BytesIO()
        np.savez_compressed(content, cells=np.array(connectome.cells), weights=connectome.weights)
        write_to_cache(path, content.getvalue())
    return full


_unwritten: dict[str, Connectome] = {}


@functools.cache
def open_connectome(name: str) -> Connectome:
    """Open a connectome by its name: the embedded "celegans", or one that `keep` stored.

    Raises:
        ValueError: no such connectome is here, or its content isn't what its name says.
        OSError: one line, when it is in the cache and can't be read.
    """
    if name == CELEGANS:
        return _frozen(read_folder(Path(__file__).with_name("data") / CELEGANS))
    if name in _unwritten:
        return _unwritten[name]
    path = _kept(name)
    try:
        if re.fullmatch(r"\w+-[0-9a-f]{12}", name):
            return _frozen(_load(path, name))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unusable(path, "read", error) from error
    raise ValueError(
        f"connectome: expected {CELEGANS!r} or one kept in {path.parent}, got {name!r}"
    )


def _load(path: Path, name: str) -> Connectome:
    """The connectome of a file.

    Raises:
        ValueError: its content isn't what the name says.
        OSError: it isn't there or can't be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, got none")
    content = path.read_bytes()
    wrong = ValueError(f"connectome: expected the content of {name!r}, got another in {path}")
    try:
        with np.load(io.BytesIO(content)) as kept:
            connectome = Connectome(tuple(str(cell) for cell in kept["cells"]), kept["weights"])
    except Exception as error:
        # A damaged archive may raise any exception, depending on the place of the damage.
        raise wrong from error
    if connectome.digest != name.rpartition("-")[2]:
        raise wrong
    return connectome


def _frozen(connectome: Connectome) -> Connectome:
    # Every caller gets the same array.
    connectome.weights.flags.writeable = False
    return connectome


def _kept(name: str) -> Path:
    return cache_folder() / "connectomes" / f"{name}.npz"
