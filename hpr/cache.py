"""The folder in which data sets are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$HPR_CACHE`, or else `hpr` in the user's cache folder."""
    named = os.environ.get("HPR_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpr"
