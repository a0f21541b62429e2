"""Reading MNIST's IDX format."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Args:
        path: the file.
        dimensions: how many the array must have.

    Returns:
        uint8 array of the file's own shape.

    Raises:
        ValueError: the file has another magic number, or too few or too many bytes.
    """
    content = _content(path)
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise ValueError(
            f"{path} must start with the IDX magic number {magic.hex()}, got {content[:4].hex()}"
        )
    head = 4 + 4 * dimensions
    if len(content) < head:
        raise ValueError(f"{path} must have a head of {head} bytes, got {len(content)}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) != head + prod(shape):
        raise ValueError(
            f"{path} must have {head + prod(shape)} bytes for its shape {shape}, got {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file: {error}") from error
