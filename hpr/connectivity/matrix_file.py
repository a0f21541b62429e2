"""Read a signed weight matrix from a file: .npy, .npz, .csv, .tsv, .txt, .mtx, or a table of synapses.

- .npy, .npz: a square array of real numbers. Of a .npz with several arrays one is named; a sparse matrix as
  `scipy.sparse.save_npz` writes it is taken too.
- .mtx: a Matrix Market file, dense or sparse.
- .csv, .tsv, .txt (gzipped where the name ends in .gz): one row of numbers per line, separated by commas, semicolons,
  tabs or blanks, and no header. With a header it is a table of synapses:

    pre, post, weight        a signed weight per row
    pre, post, weight, sign  a weight of at least 0; the sign is +1, -1, e or i, or a word (see `connectome.SIGNS`)
    pre, post, sign          each row counts as one synapse

  Rows of one pair are summed. The units are the cells in the table, sorted by number where identifiers are numbers and
  by name otherwise. `COLUMNS` has the other names that the columns may have.

Row = postsynaptic unit, column = presynaptic unit. Sizes are checked before the numbers are read.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from hpr.system.arrays import archive_names, stored_arrays
from hpr.system.files import GARBLED, open_bounded

from .base import Matrix
from .connectome import MOST_CELLS, POST, PRE, SIGNS, SIZE
from .identifiers import are_numbers, number
from .text_tables import Table, quoted

COLUMNS = {
    "pre": ("pre", "pre_id", "source", *PRE),
    "post": ("post", "post_id", "target", *POST),
    "weight": ("weight", "synapses", *SIZE),
    "sign": ("sign", "type"),
}
TEXT = (".csv", ".tsv", ".txt")
SUFFIXES = (".npy", ".npz", ".mtx", *TEXT)
# The most characters of a row: 10,000 numbers with all their digits.
_LONGEST = 2**18
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.I | re.A)
_ZERO = re.compile(r"[+-]?0+([.,]0*)?", re.ASCII)
_SIGNS = {**SIGNS, "1": 1, "+1": 1, "+": 1, "-1": -1, "-": -1}


def read_matrix(path: Path, *, array: str | None = None) -> Matrix:
    """Read a matrix [N, N], fp64, from a file; the module's docstring has the formats.

    Args:
        path: the file.
        array: which array of a .npz with several.

    Raises:
        ValueError: one line; the file is not of one of the formats, or the matrix is not square, has over 10,000 units,
            is zero, or has a number that is not finite.
        OSError: the file can't be read.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES or (suffix in (".npy", ".npz") and path.suffix == ".gz"):
        raise ValueError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, got another")
    if array is not None and suffix != ".npz":
        raise ValueError(
            f"{path}: expected no array's name for a file other than .npz, got {array!r}"
        )
    if suffix == ".mtx":
        W = _matrix_market(path)
    elif suffix in TEXT:
        W = _text(path)
    else:
        W = _numpy(path, array)
    check_matrix(W, str(path))
    return W


def check_matrix(W: Matrix, where: str) -> None:
    """Raise ValueError, one line that begins with `where`, unless `W` is square, finite and not zero."""
    _check_shape(W.shape, where)
    bad = np.argwhere(~np.isfinite(W))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{where}: expected finite numbers, got {len(bad)} NaN or infinite, the first in row {row}, "
            f"column {column}"
        )
    if not W.any():
        raise ValueError(f"{where}: expected a matrix with non-zero weights, got zeros only")


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"{where}: expected a square matrix [N, N], got the shape {list(shape)}")
    if shape[0] > MOST_CELLS:
        raise ValueError(f"{where}: expected at most {MOST_CELLS:,} units, got {shape[0]:,}")


def _numpy(path: Path, name: str | None) -> Matrix:
    if path.suffix == ".npz" and name is None and _is_sparse(path):
        return _sparse(path)
    arrays = stored_arrays(path)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name not in arrays:
        named = ", ".join(arrays)
        got = "none named" if name is None else f"{name!r}"
        raise ValueError(f"{path}: expected the name of one of its arrays {named}, got {got}")
    _check_shape(arrays[name].shape, arrays[name].where)
    return arrays[name].read().astype(np.float64)


def _is_sparse(path: Path) -> bool:
    """Whether a .npz has the arrays of a file of `scipy.sparse.save_npz`."""
    return {"format", "shape", "data"} <= set(archive_names(path))


def _sparse(path: Path) -> Matrix:
    import scipy.sparse

    with np.load(path, allow_pickle=False) as kept:
        shape = kept["shape"]
        _check_shape(tuple(map(int, np.atleast_1d(shape))), str(path))
    try:
        matrix = scipy.sparse.load_npz(path)
    # A damaged archive may raise any exception, depending on the place of the damage.
    except Exception as error:
        raise _unreadable(path, error) from error
    return _real(matrix, path)


def _matrix_market(path: Path) -> Matrix:
    from scipy.io import mminfo, mmread

    try:
        with open_bounded(path) as file:
            rows, columns, *_ = mminfo(file)
    except Exception as error:
        raise _unreadable(path, error) from error
    _check_shape((int(rows), int(columns)), str(path))
    try:
        with open_bounded(path) as file:
            matrix = mmread(file)
    except Exception as error:
        raise _unreadable(path, error) from error
    return _real(matrix, path)


def _real(matrix: Any, path: Path) -> Matrix:
    dense = np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())
    if dense.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected real numbers, got the type {dense.dtype}")
    return dense.astype(np.float64)


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError):
        return error
    why = " ".join(f"{error}".split())
    return ValueError(f"{path}: expected a whole {path.suffix} file, got an error: {why}")


def _text(path: Path) -> Matrix:
    try:
        with (
            open_bounded(path) as file,
            io.TextIOWrapper(file, "utf-8-sig", errors="replace") as text,
        ):
            first = ""
            while not first.strip() and (line := text.readline(_LONGEST + 1)):
                first = line
            values = _split(first)[0]
            if values and all(_NUMBER.fullmatch(value) for value in values):
                return _rows(path, first, text)
    except GARBLED as error:
        raise _unreadable(path, error) from None
    return _synapses(path)


def _split(line: str) -> tuple[list[str], str | None]:
    """The values of a line, and their separator; None: blanks."""
    separator = next((each for each in ",;\t" if each in line), None)
    return [value.strip() for value in line.split(separator)], separator


def _rows(path: Path, first: str, text: io.TextIOWrapper) -> Matrix:
    head, separator = _split(first)
    N = len(head)
    if N > MOST_CELLS:
        raise ValueError(f"{path}: expected at most {MOST_CELLS:,} units, got {N:,}")
    rows: list[Matrix] = []
    line = first
    while line:
        values = [value.strip() for value in line.split(separator)]
        if len(line) > _LONGEST:
            raise ValueError(f"{path}: expected rows of at most {_LONGEST:,} characters, got more")
        if any(values):
            wrong = next((value for value in values if not _NUMBER.fullmatch(value)), None)
            if len(values) != N or wrong is not None:
                got = f"{len(values)}" if wrong is None else quoted(wrong)
                raise ValueError(f"{path}: expected {N} numbers in row {len(rows) + 1}, got {got}")
            rows.append(np.array(list(map(float, values))))
            if len(rows) > N:
                raise ValueError(
                    f"{path}: expected a square matrix [N, N], got over {N} rows of {N} numbers; a table of synapses "
                    "has a header pre, post, weight"
                )
        line = text.readline(_LONGEST + 1)
    return np.stack(rows)


def _synapses(path: Path) -> Matrix:
    optional = (*COLUMNS["weight"], *COLUMNS["sign"])
    table = Table(path, (COLUMNS["pre"], COLUMNS["post"]), optional)
    ends: list[tuple[str, str, str]] = []
    strengths: list[float] = []
    given: list[bool] | None = None
    for pre, post, *values in table:
        if not pre or not post:
            raise ValueError(f"{table.here}: expected a cell's identifier, got none")
        present = [bool(value) for value in values]
        if given is None:
            given = present
        if present != given:
            raise ValueError(
                f"{table.here}: expected values in the columns of the first row, got others"
            )
        named = dict(zip(optional, values, strict=True))
        weight = next((named[name] for name in COLUMNS["weight"] if named[name]), "")
        sign = next((named[name] for name in COLUMNS["sign"] if named[name]), "")
        ends.append((table.here, pre, post))
        strengths.append(_strength(table, weight, sign))
    if not ends:
        raise ValueError(f"{path}: expected a synapse in each row, got no rows")
    as_numbers = are_numbers(end for _, *pair in ends for end in pair)

    def key(where: str, text: str) -> Any:
        return number(where, text) if as_numbers else text

    pairs = [(key(where, pre), key(where, post)) for where, pre, post in ends]
    cells = sorted({cell for pair in pairs for cell in pair})
    if len(cells) > MOST_CELLS:
        raise ValueError(f"{path}: expected at most {MOST_CELLS:,} units, got {len(cells):,}")
    unit = {cell: place for place, cell in enumerate(cells)}
    W = np.zeros((len(cells), len(cells)))
    with np.errstate(over="ignore"):
        for (pre, post), strength in zip(pairs, strengths, strict=True):
            W[unit[post], unit[pre]] += strength
    return W


def _strength(table: Table, weight: str, sign: str) -> float:
    """The signed weight of a row."""
    if not weight and not sign:
        raise ValueError(f"{table.here}: expected a weight or a sign, got neither")
    if sign and sign.casefold() not in _SIGNS:
        raise ValueError(
            f"{table.here}: expected a sign among {', '.join(_SIGNS)}, got {quoted(sign)}"
        )
    if sign and weight.startswith("-"):
        raise ValueError(
            f"{table.here}: expected a weight of at least 0 beside a sign, got {quoted(weight)}"
        )
    if not weight:
        magnitude = 1.0
    elif _ZERO.fullmatch(weight):
        magnitude = 0.0
    else:
        magnitude = table.size(weight.removeprefix("-").removeprefix("+"))
    if not sign:
        return math.copysign(magnitude, -1.0 if weight.startswith("-") else 1.0)
    return _SIGNS[sign.casefold()] * magnitude
