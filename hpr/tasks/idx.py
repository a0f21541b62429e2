"""Reading MNIST's IDX format."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from hpr.system.files import GARBLED, LARGEST, open_bounded

_UNSIGNED_BYTE = 0x08
_CHUNK = 2**20


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    No more is read, or unzipped, than the head says that there is, and a byte.

    Args:
        path: the file.
        dimensions: how many the array must have.

    Returns:
        uint8 array of the file's own shape, of at most 1 GiB.

    Raises:
        ValueError: it is no file, has another magic number, too few or too many bytes, or a
            larger shape.
        OSError: the file can't be read.
    """
    try:
        with open_bounded(path) as file:
            return _read(path, file.read, dimensions)
    except GARBLED as error:
        raise ValueError(f"{path} must be a whole gzip file: {error}") from error


def _read(path: Path, read: Callable[[int], bytes], dimensions: int) -> np.ndarray:
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    size = 4 + 4 * dimensions
    head = read(size)
    if head[:4] != magic:
        raise ValueError(
            f"{path} must start with the IDX magic number {magic.hex()}, got {head[:4].hex()}"
        )
    if len(head) < size:
        raise ValueError(f"{path} must have a head of {size} bytes, got {len(head)}")
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", offset=4))
    expected = prod(shape)
    if size + expected > LARGEST:
        raise ValueError(f"{path} must have at most {LARGEST:,} bytes, got the shape {shape}")
    content = bytearray()
    # A buffer of the whole shape is not asked for before the bytes are there.
    while len(content) <= expected and (chunk := read(min(_CHUNK, expected + 1 - len(content)))):
        content += chunk
    if len(content) != expected:
        got = "more" if len(content) > expected else size + len(content)
        raise ValueError(
            f"{path} must have {size + expected} bytes for its shape {shape}, got {got}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
