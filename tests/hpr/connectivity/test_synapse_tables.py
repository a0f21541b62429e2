"""Tables are read in the forms that programs write; bad tables are refused with the line named."""

from __future__ import annotations

import codecs
import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hpr.system.files
from hpr.connectivity.connectome import read_connectome, read_folder

A, B, C = "864691135571361317", "864691135571361318", "864691135571361319"
CELLS = f"""id,pt_root_id,classification_system,note
1,{A},excitatory,"layer 2, upper"
2,{B},inhibitory,
3,{C},excitatory,
"""
SYNAPSES = f"""id,pre_pt_root_id,post_pt_root_id,size
1,{A},{B},100
2,{A},{B},20.5
3,{B},{C},300
4,{C},{C},7.25
5,{A},864691135999999999,50
"""
WEIGHTS = [[0, 0, 0], [120.5, 0, 0], [0, -300, 7.25]]


def semicolons(text: str) -> str:
    return text.replace("layer 2, upper", "layer 2; upper").replace(",", ";")


def quotes(text: str) -> str:
    lines = text.replace('"layer 2, upper"', "layer 2").splitlines()
    return "".join(",".join(f'"{v}"' for v in line.split(",")) + "\n" for line in lines)


def capitals(text: str) -> str:
    head, rest = text.split("\n", 1)
    return ", ".join(name.upper() for name in head.split(",")) + " \n" + rest


def blanks(text: str) -> str:
    return "\n".join(line.replace(",", " , ") for line in text.splitlines()) + "\n"


# Each entry has a change of the text and an encoding, as Excel, LibreOffice, R and pandas write tables.
DRESSES: dict[str, tuple[Callable[[str], str], str]] = {
    "as CAVE": (str, "utf-8"),
    "byte order mark": (str, "utf-8-sig"),
    "CR LF": (lambda text: text.replace("\n", "\r\n"), "utf-8"),
    "CR": (lambda text: text.replace("\n", "\r"), "utf-8"),
    "semicolons": (semicolons, "utf-8"),
    "semicolons, decimal commas": (lambda text: semicolons(text).replace(".", ","), "utf-8-sig"),
    "tabs": (lambda text: text.replace("2, upper", "2\t").replace(",", "\t"), "utf-8"),
    "Unicode text": (lambda text: text.replace("2, u", "2 u").replace(",", "\t"), "utf-16"),
    "UTF-16, big end first": (lambda text: "\ufeff" + text.replace("\n", "\r\n"), "utf-16-be"),
    "quotes": (quotes, "utf-8"),
    "capitals": (capitals, "utf-8"),
    "blanks": (blanks, "utf-8"),
    "blank lines": (lambda text: "\n" + text + "\n,,,\n \n\n", "utf-8"),
    "another column, blank": (lambda text: text.replace("\n", ",\n"), "utf-8"),
    "no last line's end": (lambda text: text.rstrip("\n"), "utf-8"),
    "accents": (lambda text: text.replace("upper", "supérieure"), "utf-8"),
}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize(("dress", "encoding"), DRESSES.values(), ids=DRESSES)
def test_a_table_is_read_in_every_dress(
    tmp_path: Path, dress: Callable[[str], str], encoding: str, ending: str
) -> None:
    for stem, text in (("cells", CELLS), ("synapses", SYNAPSES)):
        content = dress(text).encode(encoding)
        packed = gzip.compress(content, mtime=0) if ending == ".csv.gz" else content
        (tmp_path / f"{stem}{ending}").write_bytes(packed)
    connectome = read_folder(tmp_path)
    assert connectome.cells == (A, B, C)
    np.testing.assert_array_equal(connectome.weights, WEIGHTS)
    assert (connectome.used, connectome.rows, connectome.absent) == (4, 5, 0)


def test_latin_1_utf_16_without_its_mark_and_workbooks_are_refused_with_the_line(
    tmp_path: Path,
) -> None:
    wrong = "expected text in UTF-8 or UTF-16, got"
    for content, line, got in (
        (SYNAPSES.replace("50", "50µ").encode("latin-1"), 6, "another byte"),
        (SYNAPSES.encode("utf-16-le"), 1, "a NUL"),
        (b"PK\x03\x04\x14\x00\x06\x00", 1, "a NUL"),
    ):
        with pytest.raises(ValueError, match=f"synapses.csv line {line}: {wrong} {got}"):
            read(tmp_path, content)


def read(folder: Path, synapses: bytes | str) -> None:
    (folder / "cells.csv").write_text(CELLS)
    content = synapses.encode() if isinstance(synapses, str) else synapses
    (folder / "synapses.csv").write_bytes(content)
    read_folder(folder)


REFUSED = {
    "decimal comma": (("20.5", "20,5"), "line 3: expected 4 values, one a column, got 5"),
    "quoted decimal comma": (("20.5", '"20,5"'), "line 3: expected a positive finite size"),
    "short row": ((",300", ""), "line 4: expected 4 values, one a column, got 3"),
    "open quote": ((",300", ',"300'), "line 6: expected a whole table, got an error: unexpected"),
    "open quote in the header": (("size", '"size'), "expected a column .*, got id,pre"),
    "text after a quote": ((",300", ',"300"0'), "line 4: expected a whole table, got an error: "),
    "two of a column": (("id,pre", "size,pre"), "expected one column size, got several"),
    "underscore": (("20.5", "2_0"), "line 3: expected a positive finite size, got '2_0'"),
    "other digits": (("20.5", "２０"), "line 3: expected a positive finite size, got '２０'"),
    "a synapse again": (("4,", "3,"), "line 5: expected each synapse once, got id 3 again"),
    "endless": (
        ("20.5", f"1e308\n9,{A},{B},1.7e308"),
        "line 4: expected sizes with a finite sum",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_whole_or_not_clear_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in SYNAPSES
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, SYNAPSES.replace(*change, 1))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "synapses.csv") in str(caught.value)


def test_thousands_and_decimals_are_not_confused(tmp_path: Path) -> None:
    comma = semicolons(SYNAPSES).replace(".", ",")
    for size, got in (("1.234,5", "','"), ("1.234", "','")):
        with pytest.raises(ValueError, match=f"line 4: expected {got} before decimals as above"):
            read(tmp_path, comma.replace(";300", f";{size}"))
    with pytest.raises(ValueError, match="line 4: expected a positive finite size, got '1,234'"):
        read(tmp_path, SYNAPSES.replace(",", "\t").replace("\t300", "\t1,234"))


def test_points_between_thousands_are_not_taken_for_decimals(tmp_path: Path) -> None:
    """In a German spreadsheet 1.234 may mean 1,234, so it is refused even where no decimal comma was seen."""
    with pytest.raises(
        ValueError, match=r"expected a size without points between thousands, got '1\.234'"
    ):
        read(tmp_path, semicolons(SYNAPSES.replace("20.5", "20")).replace(";300", ";1.234"))


# A small gzipped file can hold rows without end, a line without end or a million columns.
HUGE: dict[str, tuple[bytes, str]] = {
    "rows": (SYNAPSES.encode() + f"9,{A},0,1\n".encode() * 150_000, "at most 1,000,000 bytes"),
    "a line": (SYNAPSES.encode() + b"9" * 20_000_000, "line 7: expected at most 65,536 characters"),
    "columns": (b"a," * 1_000_000 + b"\n", "line 1: expected at most 65,536 characters"),
    "a quoted value": (
        SYNAPSES.encode() + b'9,"' + b"9\n" * 10_000_000,
        "expected a whole table, got an error: field larger than field limit",
    ),
    "many columns": (b"a," * 30_000 + b"a\n", "expected a column pre_pt_root_id or pre_root_id"),
}


@pytest.mark.parametrize(("content", "message"), HUGE.values(), ids=HUGE)
def test_no_more_is_unzipped_than_the_bounds_allow(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpr.system.files, "LARGEST", 1_000_000)
    path = tmp_path / "synapses.csv.gz"
    path.write_bytes(gzip.compress(content, 1))
    (tmp_path / "cells.csv").write_text(CELLS)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            read_folder(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 600


def test_a_list_of_too_many_cells_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text(
        "pt_root_id,cell_type\n" + "".join(f"{n},e\n" for n in range(1, 10_002))
    )
    (tmp_path / "synapses.csv").write_text(SYNAPSES)
    with pytest.raises(ValueError, match="line 10002: expected at most 10,000 cells, got more"):
        read_folder(tmp_path)


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
            read_connectome(path, path)


def test_a_mark_alone_is_an_empty_table(tmp_path: Path) -> None:
    for content in (b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b"\n\n"):
        with pytest.raises(ValueError, match=r"expected a column pre_pt_root_id .*, got none"):
            read(tmp_path, content)
