"""Paths that a person writes, on a command line or in an environment variable."""

from __future__ import annotations

from pathlib import Path


def expanded(text: str) -> Path:
    """The path of a text, `~` and `~user` expanded as a shell does.

    Raises:
        ValueError: one line, when it is no path or there is no such user or home.
    """
    if not text or "\0" in text:
        raise ValueError(f"expected a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path whose ~ is a known home, got {text!r}") from None
