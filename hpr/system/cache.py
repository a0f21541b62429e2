"""The folder in which data sets are kept between runs."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hpr.system.paths import expanded


def cache_folder() -> Path:
    """`$HPR_CACHE`, or else `hpr` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`.

    Without a home, as in a container whose user is in no passwd file, it is a folder of the user's own among the
    temporary ones.

    Raises:
        ValueError: one line, when HPR_CACHE is no path.
        OSError: one line, when there is no home and the temporary folder is not the user's.
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
        # By the XDG specification a relative path is to be ignored.
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
    # Everyone may write beside it: what another has put in its place is not to be written to.
    if not stat.S_ISDIR(found.st_mode) or (user is not None and found.st_uid != user):
        raise OSError(f"the cache folder {folder} is not a folder of yours: set HPR_CACHE to one")
    return folder
