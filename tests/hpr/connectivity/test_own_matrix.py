"""A matrix of one's own, from an array or a file: its formats, its size, and what is refused before it is read."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from hpr.connectivity import Dense, FromFile, from_file, from_matrix, spectral_radius
from hpr.connectivity.connectome import open_connectome
from hpr.connectivity.matrix_file import read_matrix
from hpr.experiment import RunSpec

W = np.random.default_rng(3).normal(size=(7, 7)) * (np.random.default_rng(4).random((7, 7)) < 0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    open_connectome.cache_clear()


def text(separator: str) -> str:
    return "".join(separator.join(map(repr, row)) + "\r\n" for row in W.tolist())


def synapses(signed: bool) -> str:
    """The matrix as a table, each weight in two rows, and one cell without a synapse."""
    head = "post,pre,weight" + ("" if signed else ",sign")
    rows = []
    for post, pre in np.argwhere(W):
        half = W[post, pre].item() / 2
        last = f"{half!r}" if signed else f"{abs(half)!r},{'e' if half > 0 else 'i'}"
        rows += [f"cell{post},cell{pre},{last}"] * 2
    return "\n".join([head, *rows]) + "\n"


def write_each(folder: Path) -> dict[str, Path]:
    """The same matrix in every format."""
    np.save(folder / "double.npy", W)
    np.save(folder / "fortran.npy", np.asfortranarray(W))
    np.savez(folder / "one.npz", any_name=W)
    np.savez_compressed(folder / "packed.npz", any_name=W)
    scipy.sparse.save_npz(folder / "sparse.npz", scipy.sparse.csr_matrix(W))
    scipy.io.mmwrite(folder / "sparse.mtx", scipy.sparse.coo_matrix(W), precision=17)
    scipy.io.mmwrite(folder / "dense.mtx", W, precision=17)
    for name, separator in (
        ("comma.csv", ","),
        ("semi.csv", "; "),
        ("tab.tsv", "\t"),
        ("w.txt", "  "),
    ):
        (folder / name).write_text(text(separator), encoding="utf-8")
    (folder / "zipped.csv.gz").write_bytes(gzip.compress(text(",").encode()))
    (folder / "signed_table.csv").write_text(synapses(True), encoding="utf-8")
    (folder / "signs_table.csv").write_text(synapses(False), encoding="utf-8")
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def test_every_format_gives_the_matrix(tmp_path: Path) -> None:
    files = write_each(tmp_path)
    assert len(files) == 14
    for path in files.values():
        np.testing.assert_array_equal(read_matrix(path), W, err_msg=path.name)


def test_integers_and_signs_are_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "counts.npy", np.array([[0, -3], [2, 0]], np.int16))
    np.testing.assert_array_equal(read_matrix(tmp_path / "counts.npy"), [[0, -3], [2, 0]])
    table = tmp_path / "table.csv"
    table.write_text("pre_id;post_id;sign\n12;3;-1\n12;3;-\n3;12;+\n", encoding="utf-8")
    # Units are sorted by number: 3, 12.
    np.testing.assert_array_equal(read_matrix(table), [[0, -2], [1, 0]])
    table.write_text("pre;post;weight\n2;1;-0,5\n1;1;0\n", encoding="utf-8")
    np.testing.assert_array_equal(read_matrix(table), [[0, -0.5], [0, 0]])


def test_one_of_several_arrays_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, a=W, b=2 * W)
    np.testing.assert_array_equal(read_matrix(path, array="b"), 2 * W)
    assert from_file(path, array="b").label == "two_b"
    with pytest.raises(ValueError, match="one of its arrays a, b, got none named"):
        read_matrix(path)
    with pytest.raises(ValueError, match="one of its arrays a, b, got 'c'"):
        read_matrix(path, array="c")


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file was unpickled",))


def npy(shape: tuple[int, ...], numbers: bytes) -> bytes:
    """A .npy whose header tells this shape."""
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + numbers


def with_number(value: float) -> np.ndarray:
    wrong = W.copy()
    wrong[2, 5] = value
    return wrong


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)
    return file.getvalue()


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "not square": ("m.npy", saved(W[:, :3]), r"a square matrix \[N, N\], got the shape \[7, 3\]"),
    "a vector": ("m.npy", saved(W[0]), r"a square matrix \[N, N\], got the shape \[7\]"),
    "empty": ("m.npy", saved(np.zeros((0, 0))), r"a square matrix .* got the shape \[0, 0\]"),
    "zero": ("m.npy", saved(np.zeros((3, 3))), "non-zero weights, got zeros only"),
    "NaN": ("m.npy", saved(with_number(np.nan)), "got 1 NaN or infinite, the first in row 2, column 5"),
    "infinite": ("m.npz", archive(w=saved(with_number(np.inf))), "got 1 NaN or infinite"),
    "complex": ("m.npy", saved(W * 1j), "real numbers, got the type complex128"),
    "too many units": ("m.npy", npy((10**5, 10**5), b""), "at most .* bytes of numbers, got 80,000,000,000"),
    "beyond the cells": ("m.npy", npy((10_001, 10_001), b""), "at most 10,000 units, got 10,001"),
    "fewer bytes than told": ("m.npy", npy((7, 7), bytes(8)), "392 bytes of numbers, got 8"),
    "more bytes than told": ("m.npy", npy((7, 7), bytes(400)), "392 bytes of numbers, got more"),
    "no header": ("m.npy", b"\x93NUMPY\x01\x00", "an array as NumPy saves it"),
    "a long header": ("m.npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4, "a longer header"),
    "text": ("m.npy", b"1,2\n3,4\n", "an array as NumPy saves it"),
    "no archive": ("m.npz", b"1,2\n3,4\n", "a .npz of NumPy"),
    "a packed bomb": ("m.npz", archive(w=npy((7, 7), bytes(10**6))), "392 bytes of numbers, got more"),
    "another ending": ("m.mat", saved(W), "a file that ends in .npy, .npz"),
    "a short row": ("m.csv", b"1,2\n3\n", "2 numbers in row 2, got 1"),
    "a word": ("m.csv", b"1,2\n3,x\n", "2 numbers in row 2, got 'x'"),
    "Python's own digits": ("m.csv", b"1,2\n3,1_0\n", "got '1_0'"),
    "NaN in text": ("m.csv", b"1,nan\n3,4\n", "got 1 NaN or infinite, the first in row 0, column 1"),
    "too few rows": ("m.csv", b"1,2,3\n4,5,6\n", r"got the shape \[2, 3\]"),
    "a table without a header": ("m.csv", b"1,2,0.5\n" * 4, "a table of synapses has a header"),
    "nothing": ("m.csv", b"", "a column pre or pre_id"),
    "another table": ("m.csv", b"pre,to,weight\n1,2,3\n", "a column post or post_id"),
    "neither weight nor sign": ("m.csv", b"pre,post\n1,2\n", "line 2: expected a weight or a sign"),
    "a weight left out": ("m.csv", b"pre,post,weight,sign\n1,2,3,e\n1,3,,e\n", "line 3: expected values in the"),
    "two signs": ("m.csv", b"pre,post,weight,sign\n1,2,-3,e\n", "line 2: expected a weight of at least 0"),
    "an unknown sign": ("m.csv", b"pre,post,sign\n1,2,x\n", "line 2: expected a sign among"),
    "a weight that is none": ("m.csv", b"pre,post,weight\n1,2,x\n", "line 2: expected a positive finite size"),
    "no rows": ("m.csv", b"pre,post,weight\n", "a synapse in each row, got no rows"),
    "not square in mtx": (
        "m.mtx", b"%%MatrixMarket matrix coordinate real general\n2 3 1\n1 1 1.0\n", r"got the shape \[2, 3\]",
    ),
    "too many in mtx": (
        "m.mtx", b"%%MatrixMarket matrix coordinate real general\n99999 99999 1\n1 1 1.0\n", "at most 10,000 units",
    ),
    "complex mtx": (
        "m.mtx", b"%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1.0 2.0\n", "real numbers, got",
    ),
    "no mtx": ("m.mtx", b"1 2\n3 4\n", "a whole .mtx file"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_one_line_with_its_name(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        from_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_nothing_is_unpickled(ending: str, tmp_path: Path) -> None:
    array = np.array([[Bomb()]], dtype=object)
    file = tmp_path / f"m.{ending}"
    if ending == "npy":
        np.save(file, array, allow_pickle=True)
    else:
        np.savez(file, w=array)
    with pytest.raises(ValueError, match="expected real numbers, got the type object"):
        from_file(file)


def test_the_weights_have_the_size_that_was_asked_for() -> None:
    null = Dense(gain=0.7).draw(7, 5)
    sizes = {
        "frobenius": np.linalg.norm(null) / np.linalg.norm(W),
        "eigenvalue": spectral_radius(null) / spectral_radius(W),
        "kept": 1.0,
    }
    for rescale, factor in sizes.items():
        own: Any = from_matrix(W, rescale=rescale, gain=0.7)  # type: ignore[arg-type]
        np.testing.assert_allclose(own.draw(7, 5), factor * W, rtol=1e-12)
    shuffled = from_matrix(W, rescale="kept", shuffled=True).draw(7, 5)
    np.testing.assert_array_equal(shuffled != 0, W != 0)
    np.testing.assert_array_equal(np.sort(shuffled[W != 0]), np.sort(W[W != 0]))
    assert not np.array_equal(shuffled, W)


def test_a_matrix_without_an_eigenvalue_has_no_such_size() -> None:
    with pytest.raises(ValueError, match="non-zero eigenvalue norm"):
        from_matrix(np.triu(np.ones((5, 5)), 1), rescale="eigenvalue").draw(5, 0)


def test_rows_of_presynaptic_units_are_transposed(tmp_path: Path) -> None:
    np.save(tmp_path / "pre.npy", W.T)
    own = from_file(tmp_path / "pre.npy", transpose=True, rescale="kept")
    np.testing.assert_array_equal(own.draw(7, 0), W)


def test_n_is_that_of_the_matrix() -> None:
    own = from_matrix(W)
    assert own.units == 7
    own.check_data(7)
    with pytest.raises(
        ValueError, match=r"N: expected the 7 units of 'matrix-[0-9a-f]{12}', got 8"
    ):
        own.check_data(8)


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    """Under its old name a changed file makes another run; the run stays readable where the file is not."""
    file = tmp_path / "own.npy"
    np.save(file, W)
    first = RunSpec("2AF", from_file(file), 0, N=7)
    assert RunSpec("2AF", from_file(file), 0, N=7).key == first.key
    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "elsewhere" / "own.npz", W=W)
    assert RunSpec("2AF", from_file(tmp_path / "elsewhere" / "own.npz"), 0, N=7).key == first.key
    np.save(file, np.nextafter(W, 2))
    assert RunSpec("2AF", from_file(file), 0, N=7).key != first.key
    file.unlink()
    assert RunSpec.from_dict(first.to_dict()) == first
    null = Dense().draw(7, 0)
    scaled = W * (np.linalg.norm(null) / np.linalg.norm(W))
    np.testing.assert_allclose(first.connectivity.draw(7, 0), scaled, rtol=1e-12)


def test_a_damaged_cache_is_noticed(tmp_path: Path) -> None:
    own = from_matrix(W)
    (kept,) = (tmp_path / "cache" / "connectomes").iterdir()
    np.savez(kept, cells=np.array(()), weights=2 * W)
    with pytest.raises(ValueError, match="connectome: expected the content of"):
        own.check_data(7)


def test_without_writing_only_this_process_knows_it(tmp_path: Path) -> None:
    own = from_matrix(with_number(8.0), write=False)
    assert own.draw(7, 0).shape == (7, 7)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["", "matrix.npy", "m-0123", 3, None])
def test_a_file_is_no_field(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^matrix: expected "):
        FromFile(matrix=name)
