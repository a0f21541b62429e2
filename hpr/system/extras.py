"""The command that installs the packages of an optional part (an extra) of this distribution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "hpr-richlazy"


def install(extra: str) -> str:
    """The command that installs the packages of `extra`.

    The command lists the packages and not `hpr-richlazy[extra]`, because this distribution may have been installed from
    a checkout or a file and not from an index. If the distribution has no metadata, as in a checkout that is only on
    the path, the command names the extra.
    """
    try:
        listed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return f"pip install '.[{extra}]' in the checkout"
    command = ["pip", "install", *dict.fromkeys(_requirements(extra, listed))]
    return " ".join(f'"{word}"' if re.search("[<>]", word) else word for word in command)


def _requirements(extra: str, listed: Sequence[str]) -> Iterator[str]:
    """The requirements of an extra, including those of the extras of this distribution that it names."""
    for line in listed:
        requirement, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{extra}['\"]", marker):
            continue
        own = re.fullmatch(rf"{DISTRIBUTION}\[(\w+)\]", requirement.strip())
        if own:
            yield from _requirements(own[1], listed)
        else:
            yield requirement.strip()
