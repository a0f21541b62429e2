"""These tests check how synapse tables are read, which are refused, and what is kept."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpr.connectivity import EM
from hpr.connectivity.connectome import keep, open_connectome, read_connectome, read_folder

# CAVE has 64-bit identifiers like these, which a float would round.
A, B, C = "864691135571361317", "864691135571361318", "864691135571361319"
CELLS = f"""id,pt_root_id,classification_system,cell_type
1,{A},aibs_coarse_excitatory,23P
2,{B},aibs_coarse_inhibitory,BC
3,{C},excitatory_neuron,4P
"""
SYNAPSES = f"""id,pre_pt_root_id,post_pt_root_id,size,ctr_pt_position_x
1,{A},{B},100,7
2,{A},{B},20.5,7
3,{B},{C},300,7
4,{A},864691135999999999,50,7
5,864691135999999999,{A},50,7
"""


@pytest.fixture
def folder(tmp_path: Path, empty_cache: None) -> Path:
    (tmp_path / "cells.csv").write_text(CELLS)
    (tmp_path / "synapses.csv").write_text(SYNAPSES)
    return tmp_path


def test_sizes_are_summed_by_pair_and_signed_by_the_presynaptic_cell(folder: Path) -> None:
    connectome = read_folder(folder)
    assert connectome.cells == (A, B, C)
    # Rows are postsynaptic. Synapses with cells that are not listed are left out.
    np.testing.assert_array_equal(connectome.weights, [[0, 0, 0], [120.5, 0, 0], [0, -300, 0]])


def test_gzipped_tables_and_pinky100s_names(folder: Path) -> None:
    for stem, text in (("cells", CELLS), ("synapses", SYNAPSES)):
        (folder / f"{stem}.csv").unlink()
        with gzip.open(folder / f"{stem}.csv.gz", "wt") as file:
            file.write(
                text.replace("pre_pt", "pre")
                .replace("post_pt", "post")
                .replace("size", "cleft_vx")
                .replace("classification_system,cell_type", "cell_type,layer")
                .replace("aibs_coarse_excitatory", "e")
                .replace("aibs_coarse_inhibitory", "i")
            )
    assert read_folder(folder).weights[2, 1] == -300


def test_what_is_kept_is_found_by_its_content(folder: Path) -> None:
    connectome = read_folder(folder)
    name = keep(connectome, "column")
    assert name == f"column-{connectome.digest}"
    structure = EM(connectome=name)
    assert structure.N == 3
    W = structure.draw(3, 0)
    np.testing.assert_allclose(W / W[1, 0] * 120.5, connectome.weights, rtol=1e-12)
    other = read_connectome(folder / "synapses.csv", reversed_cells(folder))
    assert other.digest != connectome.digest


def reversed_cells(folder: Path) -> Path:
    head, *rows = CELLS.splitlines()
    path = folder / "reversed.csv"
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    return path


def test_changed_content_is_refused(folder: Path) -> None:
    connectome = read_folder(folder)
    name = keep(connectome, "spoilt")
    path = folder / "cache" / "connectomes" / f"{name}.npz"
    np.savez(path, cells=np.array(connectome.cells), weights=2 * connectome.weights)
    with pytest.raises(ValueError, match="expected the content of 'spoilt-"):
        open_connectome(name)


def test_a_name_that_is_a_path_is_not_kept(folder: Path) -> None:
    with pytest.raises(ValueError, match="name: expected letters, digits and underscores"):
        keep(read_folder(folder), "../column")


BAD = {
    "no size": ("synapses", ("size", "volume"), "expected a column size or cleft_vx, got id, pre_"),
    "no presynaptic cell": ("synapses", ("pre_pt_root_id", "pre"), "expected a column pre_pt_root"),
    "no type": (
        "cells",
        ("classification_system,cell_type", "system,type"),
        "expected a column classification_system or cell_type",
    ),
    "empty table": ("cells", (CELLS, ""), "expected a column pt_root_id, got none"),
    "duplicate cell": ("cells", (B, A), f"line 3: expected each cell once, got '{A}' again"),
    "no cell": ("cells", (A, "0"), "line 2: expected a cell's identifier, got '0'"),
    "unknown type": (
        "cells",
        ("aibs_coarse_inhibitory", "aibs_coarse_nonneuronal"),
        "line 3: expected a type among aibs_coarse_excitatory, .*, got 'aibs_coarse_nonneuronal'",
    ),
    "NaN size": ("synapses", ("20.5", "nan"), "line 3: expected a positive finite size, got 'nan'"),
    "infinite size": ("synapses", ("20.5", "inf"), "expected a positive finite size, got 'inf'"),
    "no number": ("synapses", ("20.5", "big"), "expected a positive finite size, got 'big'"),
    "negative size": ("synapses", ("20.5", "-1"), "expected a positive finite size, got '-1'"),
    "short row": ("synapses", (",20.5,7", ""), "line 3: expected 5 values, one a column, got 3"),
    "other cells": (
        "cells",
        ("86469113557", "99999999999"),
        "expected synapses between the 3 cells of .*, got none",
    ),
    "no cells": ("cells", (CELLS.partition("\n")[2], ""), "between the 0 cells of .*, got none"),
}


@pytest.mark.parametrize(("stem", "change", "message"), BAD.values(), ids=BAD)
def test_a_bad_table_is_refused_by_name_in_one_line(
    folder: Path, stem: str, change: tuple[str, str], message: str
) -> None:
    path = folder / f"{stem}.csv"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def gzipped(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


GARBLED = {
    "truncated": gzipped(SYNAPSES)[:-20],
    "flipped": gzipped(SYNAPSES * 50)[:30] + b"\xff" * 40 + gzipped(SYNAPSES * 50)[70:],
    "not gzipped": SYNAPSES.encode(),
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_table_is_refused_by_name_in_one_line(folder: Path, content: bytes) -> None:
    (folder / "synapses.csv").unlink()
    path = folder / "synapses.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a whole table, got an error: ") as caught:
        read_folder(folder)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def lost(identifier: str) -> str:
    """Return the identifier as a double rounds it, written as a whole number."""
    return str(int(float(identifier)))


SPOILT: dict[str, Callable[[str], str]] = {
    "float": lambda text: repr(float(text)),
    "float in full": lambda text: f"{text}.0",
    "spreadsheet": lambda text: f"{float(text):.5E}",
    "spreadsheet's comma": lambda text: f'"{float(text):.5E}"'.replace(".", ","),
    "apostrophe": lambda text: f"'{text}",
    "thousands": lambda text: f'"{int(text):,}"',
    "thousands, Swiss": lambda text: f"{int(text):,}".replace(",", "’"),
    "none": lambda text: "",
    "not a number": lambda text: "nan",
    "name": lambda text: f"c{text}",
}


@pytest.mark.parametrize("stem", ["cells", "synapses"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_identifier_that_is_no_whole_number_is_refused_where_they_are_numbers(
    folder: Path, stem: str, spoil: Callable[[str], str]
) -> None:
    path = folder / f"{stem}.csv"
    path.write_text(path.read_text().replace(B, spoil(B), 1))
    line = {"cells": 3, "synapses": 2}[stem]
    shown = re.escape(repr(spoil(B).strip('"')))
    message = f"{stem}.csv line {line}: expected a whole number as identifier, .*, got {shown}: "
    with pytest.raises(ValueError, match=message) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_leading_zeros_do_not_count_and_names_are_names(folder: Path) -> None:
    (folder / "cells.csv").write_text(CELLS.replace(A, f"0{A}"))
    connectome = read_folder(folder)
    assert connectome.cells == (f"0{A}", B, C)
    assert connectome.used == 3
    named = {A: "1e5", B: "ADAL", C: "2.0R"}
    for stem, text in (("cells", CELLS), ("synapses", SYNAPSES)):
        for cell, name in named.items():
            text = text.replace(cell, name)
        (folder / f"{stem}.csv").write_text(text)
    assert read_folder(folder).cells == ("1e5", "ADAL", "2.0R")


ROUNDED: dict[str, Callable[[str], str]] = {
    "a double": lost,
    "15 digits, cut": lambda text: text[:15] + "000",
    "15 digits": lambda text: str(round(int(text), -3)),
    "15 digits through a double": lambda text: lost(str(round(int(text), -3))),
    "6 digits": lambda text: text[:6] + "0" * 12,
    "a zero more": lambda text: text + "0",
    "a zero less": lambda text: text.rstrip("0"),
}


def dense(folder: Path, rows: int = 2000) -> list[str]:
    """Write tables like those of a piece of cortex: 300 identifiers are close together, and 40 of them are listed."""
    rng = np.random.default_rng(0)
    crowd = 864691135571361000 + rng.choice(40_000, 300, replace=False)
    cells = [*map(str, crowd[:40])]
    pairs = rng.choice(crowd, (rows, 2))
    (folder / "cells.csv").write_text(
        "pt_root_id,cell_type\n" + "".join(f"{cell},e\n" for cell in cells)
    )
    (folder / "synapses.csv").write_text(
        "pre_root_id,post_root_id,size\n" + "".join(f"{pre},{post},5\n" for pre, post in pairs)
    )
    return cells


@pytest.mark.parametrize("share", [0.1, 0.5], ids=["few", "half"])
@pytest.mark.parametrize("spoil", ROUNDED.values(), ids=ROUNDED)
def test_digits_lost_without_a_trace_in_the_text_are_found(
    tmp_path: Path, spoil: Callable[[str], str], share: float
) -> None:
    dense(tmp_path)
    path, rng = tmp_path / "synapses.csv", np.random.default_rng(1)
    whole = read_folder(tmp_path)
    # As 40 of the 300 neurons are listed, 1.8 % of the synapses join two listed ones by chance.
    assert (whole.rows, whole.absent) == (2000, 0)
    head, *rows = path.read_text().splitlines()
    for n in np.flatnonzero(rng.random(len(rows)) < share):
        pre, post, size = rows[n].split(",")
        rows[n] = f"{spoil(pre)},{spoil(post)},{size}"
    path.write_text("\n".join([head, *rows]) + "\n")
    with pytest.raises(ValueError, match=r"synapses.csv line \d+: expected identifiers with all"):
        read_folder(tmp_path)


@pytest.mark.parametrize("spoil", [lost, ROUNDED["15 digits, cut"]], ids=["double", "15 digits"])
def test_a_list_of_cells_that_lost_digits_is_found(
    tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    cells = dense(tmp_path)
    spoilt = list(dict.fromkeys([*cells[:10], *map(spoil, cells[10:])]))
    (tmp_path / "cells.csv").write_text(
        "pt_root_id,cell_type\n" + "".join(f"{cell},e\n" for cell in spoilt)
    )
    with pytest.raises(ValueError, match=r"cells.csv: expected identifiers with all their digits"):
        read_folder(tmp_path)


def test_a_block_of_few_cells_is_read_and_its_share_told(tmp_path: Path) -> None:
    cells = dense(tmp_path)
    (tmp_path / "cells.csv").write_text(
        "pt_root_id,cell_type\n" + "".join(f"{cell},e\n" for cell in [*cells[:12], "5"])
    )
    connectome = read_folder(tmp_path)
    head = f"{connectome.used} of 2,000 synapses are between them"
    assert connectome.share == f"{head}; cells without any synapse there: 1"
    assert connectome.used == (connectome.weights / 5).sum() < 10


def test_cells_most_of_which_are_in_no_synapse_are_refused(folder: Path) -> None:
    others = "".join(f"9,{n},i,\n" for n in range(7, 11))
    (folder / "cells.csv").write_text(CELLS + others)
    message = "at least half of the 7 cells of .*, got 4 cells without any synapse: "
    with pytest.raises(ValueError, match=message):
        read_folder(folder)
    (folder / "cells.csv").write_text(CELLS + others[:7])
    assert read_folder(folder).absent == 1


def test_autapses_are_kept_and_repeated_rows_summed(folder: Path) -> None:
    rows = "".join(f"{pre},{post},2\n" for pre, post in ((A, A), (B, B), (A, B), (A, B)))
    (folder / "synapses.csv").write_text("pre_root_id,post_root_id,cleft_vx\n" + rows)
    weights = read_folder(folder).weights
    np.testing.assert_array_equal(weights, [[2, 0, 0], [4, -2, 0], [0, 0, 0]])


def test_a_synapse_that_comes_twice_is_refused_where_it_counts(folder: Path) -> None:
    path = folder / "synapses.csv"
    path.write_text(SYNAPSES + SYNAPSES.splitlines()[-1] + "\n")
    assert read_folder(folder).rows == 6
    path.write_text(SYNAPSES + SYNAPSES.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="line 7: expected each synapse once, got id 1 again"):
        read_folder(folder)


def test_what_is_not_written_is_opened_in_this_process_alone(folder: Path) -> None:
    connectome = read_folder(folder)
    name = keep(connectome, "dry", write=False)
    assert EM(connectome=name).N == 3
    assert not (folder / "cache").exists()
    connectome.weights[:] = 0
    assert open_connectome(name).weights.any()
    with pytest.raises(ValueError, match="read-only"):
        open_connectome(name).weights[0, 0] = 1


def test_a_missing_table_is_named(folder: Path) -> None:
    (folder / "cells.csv").unlink()
    with pytest.raises(ValueError, match=r"expected cells.csv or cells.csv.gz in it, got neither"):
        read_folder(folder)
