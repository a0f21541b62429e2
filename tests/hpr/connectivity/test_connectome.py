"""Reading synapse tables: the form, what is refused, and what is kept."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hpr.connectivity import EM
from hpr.connectivity.connectome import keep, open_connectome, read_connectome, read_folder

# 64-bit identifiers as CAVE has them, which a float would round.
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
    # Row = postsynaptic. Synapses with cells that are not listed are left out.
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
    "duplicate cell": ("cells", (B, A), f"line 3: expected each cell once, got {A} again"),
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
    "short row": ("synapses", (",20.5,7", ""), "line 3: expected a value of size, got none"),
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
    "an endless field": gzipped(SYNAPSES + "6," + "9" * 200_000),
    "not UTF-8": gzip.compress(SYNAPSES.encode() + b"\xff\xfe,1,1,1,1\n"),
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


def test_a_missing_table_is_named(folder: Path) -> None:
    (folder / "cells.csv").unlink()
    with pytest.raises(ValueError, match=r"expected cells.csv or cells.csv.gz in it, got neither"):
        read_folder(folder)
