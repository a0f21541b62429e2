"""What an optional part of this distribution needs, as a command that installs it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "hpr-richlazy"


def install(extra: str) -> str:
    """The command that installs what `extra` names.

    It names the packages and not this distribution, which may have come from a checkout or a file and is then on no
    index. Without metadata, as in a checkout that is only on the path, it names the extra.
    """
    try:
        listed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return f"pip install '.[{extra}]' in the checkout"
    command = ["pip", "install", *dict.fromkeys(_requirements(extra, listed))]
    return " ".join(f'"{word}"' if re.search("[<>]", word) else word for word in command)


def _requirements(extra: str, listed: Sequence[str]) -> Iterator[str]:
    """The requirements of an extra; one that names another extra of this distribution stands for that one's."""
    for line in listed:
        requirement, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{extra}['\"]", marker):
            continue
        own = re.fullmatch(rf"{DISTRIBUTION}\[(\w+)\]", requirement.strip())
        if own:
            yield from _requirements(own[1], listed)
        else:
            yield requirement.strip()
