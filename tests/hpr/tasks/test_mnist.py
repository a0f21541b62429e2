"""MNIST's files: found, checked, read, and refused by name."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpr.tasks import MnistUnavailable, Split, find_mnist, make_task, mnist
from hpr.tasks.idx import read_idx

SIZES = {"train": 500, "t10k": 300}
NAMES = [f"{stem}-{kind}" for stem in SIZES for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents() -> dict[str, bytes]:
    """Make the four files of a small MNIST."""
    rng = np.random.default_rng(0)
    files = {}
    for stem, size in SIZES.items():
        images = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        files[f"{stem}-images-idx3-ubyte"] = idx(images)
        files[f"{stem}-labels-idx1-ubyte"] = idx(images[:, 3, 3] % 10)
    return files


def write(folder: Path, zipped: bool, **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        contents() | {k.replace("_", "-"): v for k, v in replaced.items()}
    ).items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return folder


CHECK_PICTURES = mnist._check_pictures


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that these tests write stand for MNIST's own."""
    monkeypatch.setattr(mnist, "_check_pictures", lambda folder, found: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty cache in which the small MNIST's checksums are the right ones."""
    right = {
        f"{name}.gz": hashlib.sha256(gzip.compress(content, mtime=0)).hexdigest()
        for name, content in contents().items()
    }
    assert set(right) == set(mnist._SHA256)
    monkeypatch.setattr(mnist, "_SHA256", right)
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_a_folder_of_idx_files_is_read(tmp_path: Path, zipped: bool) -> None:
    folder = write(tmp_path, zipped)
    assert find_mnist(folder) == folder
    task = make_task("sMNIST", mnist_dir=folder)
    assert (task.name, task.label, task.version) == ("sMNIST", "sMNIST", "1")
    assert (task.T, task.N_in, task.N_out) == (28, 28, 10)
    assert (task.loss_steps, task.batch_size) == ("last", 200)
    stems: dict[Split, str] = {"train": "train", "evaluation": "t10k"}
    for split, stem in stems.items():
        images = read_idx(next(folder.glob(f"{stem}-images*")), 3)
        drawn = task.draw(0, 0, 1, SIZES[stem], split)
        got = {trial.tobytes() for trial in drawn.inputs[0].swapaxes(0, 1)}
        assert got == {(image / np.float32(255)).tobytes() for image in images}
        expected = np.rint(drawn.inputs[:, 3, :, 3] * 255) % 10
        np.testing.assert_array_equal(drawn.targets, np.repeat(expected[:, None], 28, axis=1))


def test_whole_pictures_are_the_rows_in_one_step(tmp_path: Path) -> None:
    """MNIST has sMNIST's pixels in their order; which pictures are drawn is each task's own."""
    folder = write(tmp_path, zipped=False)
    task, rows = (make_task(name, mnist_dir=folder) for name in ("MNIST", "sMNIST"))
    assert (task.T, task.N_in, task.N_out, task.loss_steps) == (1, 784, 10, "last")
    batch = rows.size("train")
    whole = task.draw(0, 0, 1, batch).inputs[0, 0]
    shown = rows.draw(0, 0, 1, batch).inputs[0].transpose(1, 0, 2).reshape(batch, 784)
    assert np.array_equal(np.unique(whole, axis=0), np.unique(shown, axis=0))


def test_a_folder_given_as_text_is_a_folder(tmp_path: Path) -> None:
    assert find_mnist(str(write(tmp_path, True))) == tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path, False) / name).unlink()
    with pytest.raises(MnistUnavailable, match=rf"^mnist_dir must hold {name}\.gz"):
        find_mnist(tmp_path)


LABELS = contents()["train-labels-idx1-ubyte"]
IMAGES = contents()["train-images-idx3-ubyte"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_images_idx3_ubyte": LABELS}, "magic number 00000803, got 00000801"),
        ({"train_labels_idx1_ubyte": IMAGES}, "magic number 00000801, got 00000803"),
        ({"train_labels_idx1_ubyte": b""}, "magic number 00000801, got $"),
        ({"train_labels_idx1_ubyte": LABELS[:6]}, "a head of 8 bytes, got 6"),
        ({"train_images_idx3_ubyte": IMAGES[:-1]}, "must have 392016 bytes .* got 392015"),
        ({"train_images_idx3_ubyte": IMAGES + b"0"}, "must have 392016 bytes .* got 392017"),
        (
            {"train_labels_idx1_ubyte": idx(np.zeros(499, np.uint8))},
            "must hold 500 labels, one an image, got 499",
        ),
        (
            {"train_labels_idx1_ubyte": idx(np.full(500, 10, np.uint8))},
            "must hold labels from 0 to 9, got 10",
        ),
        (
            {"t10k_images_idx3_ubyte": idx(np.zeros((300, 8, 8), np.uint8))},
            r"must hold images of 28 x 28, got \(8, 8\)",
        ),
    ],
    ids=[
        "labels for images",
        "images for labels",
        "empty",
        "cut head",
        "cut images",
        "too long",
        "too few labels",
        "label 10",
        "small images",
    ],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_a_wrong_file_is_named(
    tmp_path: Path, zipped: bool, replaced: dict[str, bytes], message: str
) -> None:
    folder = write(tmp_path, zipped, **replaced)
    with pytest.raises(ValueError, match=message) as raised:
        make_task("sMNIST", mnist_dir=folder)
    assert next(iter(replaced)).replace("_", "-") in str(raised.value)


@pytest.mark.parametrize("cut", [3, 100, -1], ids=["in the head", "in the data", "in the tail"])
def test_a_cut_gzip_file_is_named(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, True) / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz must be a whole gzip file"):
        make_task("sMNIST", mnist_dir=tmp_path)


def test_the_cache_is_found_if_it_is_complete(cache: Path) -> None:
    assert find_mnist() is None
    write(cache, True)
    assert find_mnist() == cache
    assert make_task("sMNIST").T == 28
    (cache / f"{NAMES[2]}.gz").unlink()
    assert find_mnist() is None


def test_the_users_cache_is_the_default(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert find_mnist() is None
    write(cache.parent / "hpr" / "mnist", True)
    assert find_mnist() == cache.parent / "hpr" / "mnist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: cache)
    write(cache / ".cache" / "hpr" / "mnist", True)
    assert find_mnist() == cache / ".cache" / "hpr" / "mnist"


@pytest.mark.parametrize("download", [False, True])
def test_a_wrong_checksum_is_named(cache: Path, download: bool) -> None:
    path = write(cache, True) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(LABELS[:-1] + b"\x05", mtime=0))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz must have the SHA-256 "):
        find_mnist(download=download)


def test_other_pictures_than_mnists_are_refused(tmp_path: Path) -> None:
    """The files are whole and of the right form, but their content has another checksum."""
    folder = write(tmp_path, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "_check_pictures", CHECK_PICTURES)
        with pytest.raises(
            ValueError, match="must hold MNIST's own pictures and labels, of SHA-256"
        ):
            make_task("sMNIST", mnist_dir=folder)


def assert_names_both_ways(error: Exception) -> None:
    assert "--mnist-dir" in str(error)
    assert "download" in str(error)
    assert "\n" not in str(error)


def test_without_pooch_both_ways_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MnistUnavailable, match="pip install") as raised:
        make_task("sMNIST")
    assert_names_both_ways(raised.value)


def test_a_download_goes_to_the_next_mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> None:
        asked.append(url)
        if url.startswith(mnist._MIRRORS[0]):
            raise OSError("no route")
        assert known_hash == f"sha256:{mnist._SHA256[fname]}"
        write(path, True)

    monkeypatch.setitem(sys.modules, "pooch", SimpleNamespace(retrieve=retrieve))
    assert find_mnist() is None
    assert asked == []
    assert make_task("sMNIST").N_in == 28
    assert len(asked) == 8
    assert find_mnist() == cache


@pytest.mark.parametrize(
    "error", [OSError("no\nroute"), ValueError("hash of file differs")], ids=str
)
def test_a_failed_download_names_both_ways(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def retrieve(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "pooch", SimpleNamespace(retrieve=retrieve))
    with pytest.raises(MnistUnavailable) as raised:
        find_mnist(download=True)
    assert_names_both_ways(raised.value)
    for mirror in mnist._MIRRORS:
        assert mirror in str(raised.value)
