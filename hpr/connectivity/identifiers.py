"""Identifiers of cells: compared as numbers where they are numbers, and checked for lost digits.

A float or a spreadsheet drops the last digits of a 64-bit identifier: `7.2e17`, `…380000.0`, `…380000`. A synapse with
such an identifier would be taken for one with a cell that is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .tables import quoted

# From this number on, a double holds at most one whole number in 128. CAVE's identifiers are larger.
LONG = 2**59

_WHOLE = re.compile(r"-?\d{1,20}", re.ASCII)
_LIKE_A_NUMBER = re.compile(r"['’]?[-+]?\d[\d.,'’\s_]*(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)


def are_numbers(identifiers: Iterable[str]) -> bool:
    """Whether identifiers are numbers and not names: at least half of them look like numbers, damaged ones included."""
    like = [_LIKE_A_NUMBER.fullmatch(text) is not None for text in identifiers]
    return bool(like) and 2 * sum(like) >= len(like)


def number(where: str, text: str) -> int:
    """The identifier as a number, without regard to leading zeros.

    Raises:
        ValueError: it is no whole number of at most 20 digits; the error names `where`.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(
            f"{where}: expected a whole number as identifier, as the cells have, got {quoted(text)}: "
            "a float or a spreadsheet loses digits, so export identifiers as text"
        )
    return int(text)


class LostDigits:
    """Find identifiers of the synapse table that are listed cells' identifiers with digits lost, or the reverse.

    Rounding leaves a round number: the whole number of a double, or 15 digits followed by zeros. Consider the
    identifiers that round to the same number as one in the other table. By chance at most one in 128 of them is round.
    Digits were lost if more than ten times as many are round, and at least three. Digits were also lost if an
    unlisted identifier has the digits of a listed one with another number of zeros, or its first 6 digits and zeros.
    """

    def __init__(self, listed: Iterable[int]) -> None:
        self._listed = [number for number in listed if number >= LONG]
        self._bare = {_without_zeros(number) for number in self._listed}
        self._shown = {_to_digits(number, 6) for number in self._listed}
        self._groups = {rounded: set(map(rounded, self._listed)) for rounded in _CHANCE}
        self._near: dict[_Rounding, dict[int, str]] = {rounded: {} for rounded in _CHANCE}

    def see(self, where: str, other: int) -> None:
        """Note an identifier that is not listed, and its place; raises as `check` does."""
        if other < LONG // 1000:
            return
        shown = _to_digits(other, 6)
        if _without_zeros(other) in self._bare or (shown == other and shown in self._shown):
            raise ValueError(_message(where, 1, other))
        for rounded, groups in self._groups.items():
            if rounded(other) in groups:
                self._near[rounded].setdefault(other, where)

    def check(self, cells: str) -> None:
        """Raise ValueError if digits were lost, and name the first place; `cells` names the table of cells."""
        for rounded, near in self._near.items():
            groups = set(map(rounded, near))
            listed = [number for number in self._listed if rounded(number) in groups]
            lost = [number for number in (*near, *listed) if rounded(number) == number]
            fluke = 10 * _CHANCE[rounded] * (len(near) + len(listed))
            if len(lost) > max(fluke, 2):
                raise ValueError(_message(near.get(lost[0], cells), len(lost), lost[0]))


def _message(where: str, count: int, example: int) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return (
        f"{where}: expected identifiers with all their digits, got {example}{more} as a float or a spreadsheet "
        f"leaves them: export identifiers as text"
    )


def _as_double(number: int) -> int:
    return int(float(number))


def _without_zeros(number: int) -> str:
    return str(number).rstrip("0")


def _cut(number: int) -> int:
    return number - number % _unit(number, 15)


def _to_15_digits(number: int) -> int:
    return _to_digits(number, 15)


def _to_15_digits_as_double(number: int) -> int:
    return int(float(_to_digits(number, 15)))


def _to_digits(number: int, digits: int) -> int:
    unit = _unit(number, digits)
    return (number + unit // 2) // unit * unit


def _unit(number: int, digits: int) -> int:
    return 10 ** max(len(str(number)) - digits, 0)


_Rounding = Callable[[int], int]
# The share of numbers that equal their own rounding by chance. A spreadsheet keeps 15 digits and shows 6.
_CHANCE: dict[_Rounding, float] = {
    _as_double: 1 / 128,
    _cut: 1e-3,
    _to_15_digits: 1e-3,
    _to_15_digits_as_double: 1e-3,
}
