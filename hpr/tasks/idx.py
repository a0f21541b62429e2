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

    At most one byte more than the header announces is read or unzipped.

    Args:
        path: the file.
        dimensions: the required number of dimensions.

    Returns:
        uint8 array of the shape that the header gives, at most 1 GiB.

    Raises:
        ValueError: the path is not a file, or the file has a wrong magic number, too few or too
            many bytes, or a shape of more than 1 GiB.
        OSError: the file can't be read.
    """
    try:
        with open_bounded(path) as file:
            return _read_array(path, file.read, dimensions)
    except GARBLED as error:
        raise ValueError(f"{path}: expected a whole gzip file: {error}") from error


def _read_array(path: Path, read: Callable[[int], bytes], dimensions: int) -> np.ndarray:
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    size = 4 + 4 * dimensions
    head = read(size)
    if head[:4] != magic:
        raise ValueError(
            f"{path} must start with the IDX magic number {magic.hex()}, got {head[:4].hex()}"
        )
    if len(head) < size:
        raise ValueError(f"{path}: expected a head of {size} bytes, got {len(head)}")
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", offset=4))
    expected = prod(shape)
    if size + expected > LARGEST:
        raise ValueError(f"{path}: expected at most {LARGEST:,} bytes, got the shape {shape}")
    content = bytearray()
    # The buffer grows with the bytes that arrive: a wrong header must not allocate 1 GiB.
    while len(content) <= expected and (chunk := read(min(_CHUNK, expected + 1 - len(content)))):
        content += chunk
    if len(content) != expected:
        got = "more" if len(content) > expected else size + len(content)
        raise ValueError(
            f"{path}: expected {size + expected} bytes for its shape {shape}, got {got}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
