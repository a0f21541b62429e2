"""Read text tables row by row, as CAVE's client, pandas and spreadsheets write them.

A table is a header line and then one line per row. Values are separated by commas, semicolons or tabs, whichever the
header uses, and may be quoted. Any system's line ends are accepted, and blank lines are skipped. The text is UTF-8, or
UTF-16 where it begins with a byte order mark. Column names are compared without regard to case and surrounding blanks.
Anything else is refused, and the error names its line: a row with another number of values than the header, a line of
more than 65,536 characters, a byte that is not UTF-8.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpr.system.files import GARBLED, open_bounded

SEPARATORS = ",;\t"
# The most characters of a line.
LONGEST = 2**16

_THOUSANDS = re.compile(r"[1-9]\d{0,2}(\.\d{3})+", re.ASCII)
_NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


class Table:
    """The wanted columns of a table, row by row.

    Args:
        path: the file, gzipped where its name ends in .gz.
        columns: for each wanted column the names that it may have; the first one present is taken.
        optional: further columns. Their values are empty where the table lacks them.
    """

    def __init__(
        self, path: Path, columns: Sequence[Sequence[str]], optional: Sequence[str] = ()
    ) -> None:
        self.path, self.columns, self.optional = path, columns, optional
        self._line, self._separator, self._decimal = 0, "", ""

    @property
    def here(self) -> str:
        """The file and the line last read, as an error names them."""
        return f"{self.path} line {self._line}"

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the wanted values of each row, without surrounding blanks; `here` then names the row's line.

        Raises:
            ValueError: the table does not have the form in the module's docstring, or lacks a column.
            OSError: the file can't be read.
        """
        self._line, self._decimal = 0, ""
        try:
            with open_bounded(self.path) as file:
                yield from self._rows(self._lines(file))
        except csv.Error as error:
            raise ValueError(
                f"{self.here}: expected a whole table, got an error: {error}"
            ) from None
        except GARBLED as error:
            raise ValueError(
                f"{self.path}: expected a whole table, got an error: {error}"
            ) from None

    def _rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        width, places = self._header(next((line for line in lines if line.strip()), ""))
        for row in self._reader(lines):
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if len(values) < width or any(values[width:]):
                raise ValueError(
                    f"{self.here}: expected {width} values, one a column, got {len(values)}"
                )
            yield ["" if place is None else values[place] for place in places]

    def size(self, text: str) -> float:
        """The positive finite number that a text stands for. With semicolons as separators it may have a decimal comma.

        Raises:
            ValueError: the text is no such number, or the table has both decimal points and decimal commas, one of
                which may separate thousands.
        """
        point = text
        if self._separator == ";" and self._decimal != "," and _THOUSANDS.fullmatch(text):
            raise ValueError(
                f"{self.here}: expected a size without points between thousands, got {quoted(text)}"
            )
        if self._separator == ";":
            for mark in ",.":
                if mark in text and self._decimal not in ("", mark):
                    raise ValueError(
                        f"{self.here}: expected {self._decimal!r} before decimals as above, got {quoted(text)}"
                    )
                if mark in text:
                    self._decimal = mark
            point = text.replace(",", ".")
        number = float(point) if _NUMBER.fullmatch(point) else math.nan
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{self.here}: expected a positive finite size, got {quoted(text)}")
        return number

    def _lines(self, file: io.BufferedReader) -> Iterator[str]:
        start = file.peek(2)[:2]
        wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding = "utf-16" if wide else "utf-8-sig"
        with io.TextIOWrapper(file, encoding, errors="replace", newline="") as text:
            while content := text.readline(LONGEST + 1):
                self._line += 1
                if len(content) > LONGEST:
                    raise ValueError(
                        f"{self.here}: expected at most {LONGEST:,} characters, got more"
                    )
                for wrong, meaning in (("\ufffd", "another byte"), ("\0", "a NUL")):
                    if wrong in content:
                        raise ValueError(
                            f"{self.here}: expected text in UTF-8 or UTF-16, got {meaning}: save it as CSV UTF-8"
                        )
                yield content

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._separator, strict=True, skipinitialspace=True)

    def _header(self, text: str) -> tuple[int, list[int | None]]:
        """The number of columns, and the places of the wanted ones. The separator that finds most of them is taken."""
        headers: dict[str, list[str]] = {}
        for self._separator in SEPARATORS:
            try:
                names = next(self._reader(iter([text])), [])
            except csv.Error:
                continue
            headers[self._separator] = [name.strip() for name in names]
        if not headers:
            raise csv.Error("the header's quotes don't match")
        wanted = {name for names in self.columns for name in names}
        self._separator, header = max(
            headers.items(), key=lambda item: (len(wanted & set(_folded(item[1]))), len(item[1]))
        )
        while header and not header[-1]:
            header.pop()
        places: list[int | None] = [self._place(header, names) for names in self.columns]
        for name in self.optional:
            places.append(self._place(header, [name]) if name in _folded(header) else None)
        return len(header), places

    def _place(self, header: Sequence[str], names: Sequence[str]) -> int:
        there = _folded(header)
        present = [name for name in names if name in there]
        if not present:
            raise ValueError(
                f"{self.path}: expected a column {' or '.join(names)}, got {_listed(header)}"
            )
        if there.count(present[0]) > 1:
            raise ValueError(f"{self.path}: expected one column {present[0]}, got several")
        return there.index(present[0])


def quoted(text: str) -> str:
    """A value of a table as an error shows it: in quotes, and cut where it is long."""
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(name if name.isprintable() else repr(name) for name in names)
    return (text if len(text) <= 200 else f"{text[:200]}…") or "none"
