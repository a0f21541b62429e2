"""MNIST's files are found, checked and read, or refused by name."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import re
import stat
import struct
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpr.tasks import MnistUnavailable, Split, find_mnist, make_task, mnist
from hpr.tasks.digits import RowDigits
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


OWN = mnist._PICTURES


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the small files that these tests write for MNIST's own."""
    # The header of an images file has 16 bytes, that of a labels file 8.
    pixels = [file[8 if "labels" in name else 16 :] for name, file in contents().items()]
    monkeypatch.setattr(mnist, "_PICTURES", hashlib.sha256(b"".join(pixels)).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty cache that expects the checksums of the small MNIST."""
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
    """MNIST and sMNIST show the same pixels in the same order; each task draws the pictures in its own order."""
    folder = write(tmp_path, zipped=False)
    task, rows = (make_task(name, mnist_dir=folder) for name in ("MNIST", "sMNIST"))
    assert (task.T, task.N_in, task.N_out, task.loss_steps) == (1, 784, 10, "last")
    batch = rows.size("train")
    whole = task.draw(0, 0, 1, batch).inputs[0, 0]
    shown = rows.draw(0, 0, 1, batch).inputs[0].transpose(1, 0, 2).reshape(batch, 784)
    assert np.array_equal(np.unique(whole, axis=0), np.unique(shown, axis=0))


LAYOUTS = {
    "dotted": "{stem}.{end}",
    "dotted, gzipped": "{stem}.{end}.gz",
    "a folder a file": "{stem}-{end}/{stem}-{end}",
    "a folder a dotted file": "{stem}.{end}/{stem}.{end}",
    "torchvision's": "MNIST/raw/{stem}-{end}",
    "torchvision's other sets": "raw/{stem}-{end}.gz",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_other_names_and_layouts_are_found(tmp_path: Path, layout: str) -> None:
    for name, content in contents().items():
        stem, _, end = name.rpartition("-idx")
        path = tmp_path / layout.format(stem=stem, end=f"idx{end}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    task = make_task("sMNIST", mnist_dir=tmp_path)
    assert isinstance(task, RowDigits)
    assert (task.label, task.content) == ("sMNIST", None)
    assert (task.size("train"), task.size("evaluation")) == tuple(SIZES.values())


def test_files_of_two_folders_are_no_set(tmp_path: Path) -> None:
    write(tmp_path, True)
    inner = tmp_path / "MNIST" / "raw"
    inner.mkdir(parents=True)
    for name in NAMES[1:]:
        (tmp_path / f"{name}.gz").rename(inner / f"{name}.gz")
    with pytest.raises(MnistUnavailable, match=rf": expected {NAMES[0]}\.gz .*, got {inner}$"):
        find_mnist(tmp_path)


def test_a_folder_given_as_text_is_a_folder(tmp_path: Path) -> None:
    assert find_mnist(str(write(tmp_path, True))) == tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path, False) / name).unlink()
    with pytest.raises(MnistUnavailable, match=rf"^mnist_dir: expected {name}\.gz"):
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
        ({"train_images_idx3_ubyte": IMAGES[:-1]}, ": expected 392016 bytes .* got 392015"),
        ({"train_images_idx3_ubyte": IMAGES + b"0"}, ": expected 392016 bytes .* got more"),
        (
            {"train_labels_idx1_ubyte": idx(np.zeros(499, np.uint8))},
            ": expected 500 labels, one an image, got 499",
        ),
        (
            {"train_labels_idx1_ubyte": idx(np.full(500, 10, np.uint8))},
            ": expected labels from 0 to 9, got 10",
        ),
        (
            {"t10k_images_idx3_ubyte": idx(np.zeros((300, 8, 8), np.uint8))},
            r": expected images of 28 x 28, got \(8, 8\)",
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
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: expected a whole gzip file"):
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
    monkeypatch.setenv("HOME", str(cache))
    write(cache / ".cache" / "hpr" / "mnist", True)
    assert find_mnist() == cache / ".cache" / "hpr" / "mnist"


@pytest.mark.parametrize("download", [False, True])
def test_a_wrong_checksum_is_named(cache: Path, download: bool) -> None:
    path = write(cache, True) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(LABELS[:-1] + b"\x05", mtime=0))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz: expected the SHA-256 "):
        find_mnist(download=download)


@pytest.mark.parametrize("name", ["sMNIST", "MNIST"])
def test_other_pictures_than_mnists_are_named_by_their_content(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "_PICTURES", OWN)
    folder = write(tmp_path, True)
    task = make_task(name, mnist_dir=folder)
    assert isinstance(task, RowDigits)
    content = task.content
    assert content is not None
    assert re.fullmatch("[0-9a-f]{16}", content)
    assert task.label == f"{name} on other pictures than MNIST's own (SHA-256 {content})"
    assert (task.name, task.version) == (name, "1")
    assert mnist.pictures_content(folder) == content
    # Compression does not change the content; one changed pixel does.
    assert mnist.pictures_content(write(tmp_path / "plain", False)) == content
    changed = IMAGES[:-1] + bytes([IMAGES[-1] ^ 1])
    other = write(tmp_path / "other", False, train_images_idx3_ubyte=changed)
    assert mnist.pictures_content(other) not in (content, None)


BOMB = gzip.compress(bytes(60_000_000))
FLOATS = idx(np.zeros((2, 28, 28), np.uint8)).replace(b"\x08", b"\x0d", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx(np.zeros((9, 28, 28), np.uint8))) + BOMB, "7072 bytes .* got more"),
        (gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 9_000_000, 28, 28)) + BOMB, "at most"),
        (gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3)) + BOMB, "at most"),
        (gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 1_000_000, 28, 28)), "got 16$"),
        (gzip.compress(FLOATS), "magic number 00000803, got 00000d03"),
    ],
    ids=["more than its head says", "a large head", "a huge head", "an empty promise", "floats"],
)
def test_no_more_is_unzipped_than_the_head_says(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="expected a file, got a folder, a pipe or a device"):
            read_idx(path, 3)
    folder = write(tmp_path / "mnist", False)
    (folder / NAMES[0]).unlink()
    os.mkfifo(folder / NAMES[0])
    with pytest.raises(MnistUnavailable, match=f": expected {NAMES[0]}"):
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


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirrors(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """The folders that two mirrors serve: the first is empty, the second complete."""
    folders = (tmp_path / "lacking", write(tmp_path / "serving", True))
    folders[0].mkdir()
    with ExitStack() as stack:
        urls = []
        for folder in folders:
            handler = functools.partial(Quiet, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            urls.append(f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(mnist, "_MIRRORS", tuple(urls))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folders


@pytest.mark.usefixtures("mirrors")
def test_a_download_goes_to_the_next_mirror_and_can_be_read_as_the_umask_says(cache: Path) -> None:
    assert find_mnist() is None
    before = os.umask(0o022)
    try:
        assert make_task("sMNIST").N_in == 28
    finally:
        os.umask(before)
    assert find_mnist() == cache
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in cache.iterdir()}
    assert modes == {f"{name}.gz": 0o644 for name in NAMES}


def test_a_failed_download_names_both_ways(mirrors: tuple[Path, Path], cache: Path) -> None:
    # The first mirror is empty, and the second sends a wrong file.
    (mirrors[1] / f"{NAMES[0]}.gz").write_bytes(b"another")
    with pytest.raises(MnistUnavailable) as raised:
        find_mnist(download=True)
    assert_names_both_ways(raised.value)
    for mirror in mnist._MIRRORS:
        assert mirror in str(raised.value)
    assert not cache.exists()


@pytest.mark.usefixtures("mirrors")
def test_a_download_that_cannot_be_kept_names_the_cache(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder is to be")
    with pytest.raises(OSError, match=r"can't be written: .*; HPR_CACHE names another") as raised:
        find_mnist(download=True)
    assert "\n" not in str(raised.value)
