"""A digest of what a task depends on besides its name, version and time step."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts: object) -> str:
    """Return 16 hexadecimal digits of a hash of `parts`: arrays by shape, type and bytes, all else by `repr`."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            what, content = f"{part.dtype.str} {part.shape}", part.tobytes()
        else:
            what, content = "text", repr(part).encode()
        found.update(f"{what} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]
