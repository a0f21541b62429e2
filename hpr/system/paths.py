"""Paths: the one that a person writes, and the folder in which data sets are kept between runs."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def expanded(text: str) -> Path:
    """The path of a text from a command line or an environment variable, with `~` and `~user` expanded.

    Raises:
        ValueError: one line; the text is not a path, or the user or the home is unknown.
    """
    if not text or "\0" in text:
        raise ValueError(f"expected a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path whose ~ is a known home, got {text!r}") from None


def cache_folder() -> Path:
    """The cache folder: `$HPR_CACHE`, or else `hpr` in `$XDG_CACHE_HOME` or `~/.cache`.

    Without a home directory, as in a container whose user has no passwd entry, the function returns a folder of this
    user in the temporary directory.

    Raises:
        ValueError: one line; HPR_CACHE is not a path.
        OSError: one line; there is no home, and the folder in the temporary directory belongs to another user.
    """
    named = os.environ.get("HPR_CACHE")
    if named:
        try:
            return expanded(named)
        except ValueError as error:
            raise ValueError(f"HPR_CACHE: {error}") from None
    for base in (os.environ.get("XDG_CACHE_HOME") or "~/.cache", "~/.cache"):
        try:
            folder = expanded(base)
        except ValueError:
            continue
        # The XDG specification says that a relative path must be ignored.
        if folder.is_absolute():
            return folder / "hpr"
    return _temporary()


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"hpr-{'user' if user is None else user}"
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return folder
    # Every user can create this name, so the folder may be another user's or a planted link.
    if not stat.S_ISDIR(found.st_mode) or (user is not None and found.st_uid != user):
        raise OSError(f"the cache folder {folder} is not a folder of yours: set HPR_CACHE to one")
    return folder
