"""Trained weights beside a record: `<key>.safetensors`, whose shapes and digest the record's file names.

A record in memory has its weights as base64 texts, so that it is one plain value for workers and clusters
(`hpr.training.weights`). Its file has `{"sha256": …, "shapes": {name: [sizes]}}` in their place, and `BESIDE` as its
schema, so that an older version of the package refuses it by name. Files of older versions have the texts themselves.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpr.fields import shown
from hpr.system.extras import install
from hpr.system.files import read_regular

Arrays = dict[str, NDArray[np.float32]]

# The schema of a record in memory and of a file that holds all of it, and that of a file with weights beside it.
SCHEMA: Final = 1
BESIDE: Final = 2
# Bytes of the numbers at most: the weights of 16,000 units.
LARGEST_WEIGHTS: Final = 2**30
# Bytes of a file's header at most, names and dimensions at most.
HEADER: Final = 2**16
MOST_ARRAYS: Final = 64
MOST_DIMENSIONS: Final = 4


def weights_path(record: Path) -> Path:
    """The file of the weights of a record's file."""
    return record.with_suffix(".safetensors")


def content_hash(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of a text, and of the names, shapes and numbers of contiguous arrays."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {list(array.shape)}\n".encode())
        if array.size:
            digest.update(array.data)
    return digest.hexdigest()


def arrays_of(weights: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """The arrays of the texts of a record in memory.

    Raises:
        ValueError: one line; these are no weights.
    """
    try:
        return {
            name: np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"])
            for name, value in weights.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"weights: expected shapes and numbers, got {shown(reason)}") from None


def texts_of(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, Any]]:
    """Invert `arrays_of`: little-endian fp32 in base64."""
    return {
        name: {
            "shape": list(array.shape),
            "float32": base64.b64encode(array.astype("<f4").tobytes()).decode(),
        }
        for name, array in arrays.items()
    }


def separated(record: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays | None]:
    """A record as its file has it, and the arrays of the file beside it; None for a record that needs none.

    Raises:
        ValueError: one line; the weights are none, or have too many bytes.
    """
    if record.get("schema") != SCHEMA or "weights" not in record:
        return dict(record), None
    arrays = arrays_of(record["weights"])
    named = {
        "sha256": content_hash("", arrays),
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
    }
    check_named(named)
    return {**record, "schema": BESIDE, "weights": named}, arrays


def joined(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record in memory of what `path` holds and its weights, which are read where they lie beside it.

    Raises:
        ValueError: one line; the weights are missing, damaged, or others than the record names.
        OSError: their file can't be read, is a link or no regular file, or is larger than it can be.
    """
    if record["schema"] != BESIDE:
        return record
    arrays = read_weights(weights_path(path), record["weights"])
    return {**record, "schema": SCHEMA, "weights": texts_of(arrays)}


def is_named(weights: Any) -> bool:
    """Whether a record's entry names weights that lie beside it."""
    return isinstance(weights, dict) and weights.keys() == {"sha256", "shapes"}


def check_named(named: Mapping[str, Any]) -> None:
    """Raise ValueError, one line, where an entry of `is_named` names no digest and shapes that may be read."""
    digest, shapes = named["sha256"], named["shapes"]
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"weights: expected a SHA-256, got {shown(digest)}")
    good = isinstance(shapes, dict) and 0 < len(shapes) <= MOST_ARRAYS
    for shape in shapes.values() if good else ():
        sizes = shape if isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS else [None]
        good = good and all(type(size) is int and 0 <= size <= LARGEST_WEIGHTS for size in sizes)
    if not good:
        raise ValueError(f"weights: expected shapes, got {shown(shapes)}")
    if _bytes(shapes) > LARGEST_WEIGHTS:
        raise ValueError(
            f"weights: expected at most {LARGEST_WEIGHTS:,} bytes, got {_bytes(shapes):,}"
        )


def packed(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The content of a weights' file."""
    _installed()
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()})


def read_weights(path: Path, named: Mapping[str, Any]) -> Arrays:
    """The arrays of a weights' file, which must be those that a record names (`check_named`).

    Raises:
        ValueError, OSError: as `joined` does.
    """
    return unpacked(read_file(path, named), path, named)


def read_file(path: Path, named: Mapping[str, Any]) -> bytes:
    """The bytes of a weights' file, unchecked but for their number."""
    try:
        return read_regular(path, HEADER + 8 + _bytes(named["shapes"]), links=False)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"weights: expected {path.name} beside the record, got none") from None


def unpacked(content: bytes, path: Path, named: Mapping[str, Any]) -> Arrays:
    """The arrays of the bytes of a weights' file; it raises ValueError as `joined` does."""
    _installed()
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    if length > HEADER:
        raise ValueError(
            f"weights: {path.name}: expected a header of at most {HEADER:,} bytes, got {length:,}"
        )
    try:
        arrays = load(content)
    except Exception as error:
        # The library has errors of its own, and raises others for types that NumPy lacks.
        raise ValueError(
            f"weights: {path.name}: expected a whole safetensors file, got {shown(str(error))}"
        ) from None
    found = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    wanted = {name: ["float32", *shape] for name, shape in named["shapes"].items()}
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            one, other = (shown(of.get(name, "none")) for of in (wanted, found))
            raise ValueError(f"weights: {path.name}: {shown(name)}: expected {one}, got {other}")
    if content_hash("", arrays) != named["sha256"]:
        raise ValueError(f"weights: {path.name}: expected the record's digest, got another")
    return arrays


def _bytes(shapes: Mapping[str, list[int]]) -> int:
    return sum(4 * math.prod(shape) for shape in shapes.values())


def _installed() -> None:
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError:
        raise ImportError(
            f"weights: expected the package safetensors, got none; {install('repro')}"
        ) from None
