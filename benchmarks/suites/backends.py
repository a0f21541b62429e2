"""The choice of an implementation for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def chosen_backend(name: str) -> Iterator[None]:
    """Set HPR_KERNELS_BACKEND, and restore it."""
    from hpr_kernels.backend import VARIABLE

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
