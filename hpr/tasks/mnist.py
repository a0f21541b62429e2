"""MNIST, shown row by row or as a whole, and the search for and download of its four files."""

from __future__ import annotations

import hashlib
import os
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np

from hpr.system.extras import install
from hpr.system.files import unusable, write_to_cache
from hpr.system.paths import cache_folder

from .base import Split
from .digits import Pictures, RowDigits, as_one_row
from .idx import read_idx

_SIDE = 28
_STEMS: dict[Split, str] = {"train": "train", "evaluation": "t10k"}
_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
# SHA-256 of the unzipped images and labels, training set first.
_PICTURES = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


class MnistUnavailable(RuntimeError):
    """MNIST is not on this machine and cannot be downloaded."""


def find_mnist(
    mnist_dir: str | os.PathLike[str] | None = None, *, download: bool = False
) -> Path | None:
    """Find the folder of MNIST's four IDX files.

    Args:
        mnist_dir: a folder that must hold them, unzipped or gzipped, with a hyphen or a dot before
            `idx`. Each may be in a folder of its own name, and all may be in `raw` or `MNIST/raw`.
            None searches the cache: `mnist` in the folder of `hpr.system.paths.cache_folder`.
        download: download missing files from a public mirror into the cache.

    Returns:
        The folder, or None if the cache lacks a file and `download` is False.

    Raises:
        MnistUnavailable: `mnist_dir` lacks a file, or the download fails.
        ValueError: a file of the cache has the wrong SHA-256.
        OSError: a file or the cache can't be read or written.
    """
    if mnist_dir is not None:
        return _folder(Path(mnist_dir))
    folder = cache_folder() / "mnist"
    present = [name for name in _SHA256 if (folder / name).is_file()]
    for name in present:
        _check_sha256(folder / name)
    if len(present) < len(_SHA256):
        if not download:
            return None
        _download(folder)
    return folder


def mnist(mnist_dir: str | os.PathLike[str] | None = None, *, rows: bool = True) -> RowDigits:
    """Return MNIST, pixels in [0, 1]; it is downloaded if it is not on this machine.

    With `rows`, the task is sMNIST, which shows a picture as 28 rows of 28 pixels; without it, the task is MNIST, which
    shows a picture as one row of 784. `mnist_dir` may hold other pictures of the same form (Fashion-MNIST, KMNIST); the
    task's label and `content` then say that they are not MNIST's own.

    Raises:
        MnistUnavailable: `mnist_dir` lacks a file, or the cache lacks one and the download fails.
        ValueError: a file's content does not match its name.
        OSError: a file or the cache can't be read or written.
    """
    folder = find_mnist(mnist_dir, download=True)
    assert folder is not None
    pictures = _read_pictures(folder)
    content = _content(pictures)
    name = "sMNIST" if rows else "MNIST"
    return RowDigits(
        name,
        name if content is None else f"{name} on {other_pictures(content)}",
        batch_size=200,
        brightest=255,
        pictures=pictures if rows else as_one_row(pictures),
        content=content,
    )


def pictures_content(mnist_dir: str | os.PathLike[str]) -> str | None:
    """Return the `content` of the task with a folder's pictures, which is None if they are MNIST's own.

    Raises:
        MnistUnavailable: a file is missing.
        ValueError: a file's content does not match its name.
        OSError: a file can't be read.
    """
    return _content(_read_pictures(_folder(Path(mnist_dir))))


def other_pictures(content: str) -> str:
    """Describe pictures that are not MNIST's own, for titles and messages."""
    return f"other pictures than MNIST's own (SHA-256 {content})"


def _content(pictures: Pictures) -> str | None:
    """Return the first 16 hexadecimal digits of the pictures' SHA-256, or None for MNIST's own pictures."""
    digest = hashlib.sha256()
    for images, labels in pictures.values():
        digest.update(images.data)
        digest.update(labels.data)
    found = digest.hexdigest()
    return None if found == _PICTURES else found[:16]


def _read_pictures(folder: Path) -> Pictures:
    return {split: _pictures(folder, stem) for split, stem in _STEMS.items()}


def _pictures(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split's images uint8 [n, 28, 28] and labels uint8 [n]."""
    where = _file(folder, f"{stem}-images-idx3-ubyte.gz")
    images = read_idx(where, 3)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(f"{where}: expected images of 28 x 28, got {images.shape[1:]}")
    where = _file(folder, f"{stem}-labels-idx1-ubyte.gz")
    labels = read_idx(where, 1)
    if len(labels) != len(images):
        raise ValueError(f"{where}: expected {len(images)} labels, one an image, got {len(labels)}")
    if len(labels) and labels.max() > 9:
        raise ValueError(f"{where}: expected labels from 0 to 9, got {labels.max()}")
    return images, labels


def _folder(given: Path) -> Path:
    """Return the folder of the four files: the given one, or a folder in it that torchvision makes."""
    folders = [given / inner for inner in ("", "raw", "MNIST/raw")]
    lacks = {folder: [name for name in _SHA256 if not _spelt(folder, name)] for folder in folders}
    folder = min(folders, key=lambda folder: len(lacks[folder]))
    if lacks[folder]:
        raise MnistUnavailable(
            f"mnist_dir: expected {lacks[folder][0]} or the same unzipped, got {folder}"
        )
    return folder


def _file(folder: Path, name: str) -> Path:
    """Return the path of one of the four files, which `_folder` has found to exist."""
    return _spelt(folder, name)[0]


def _spelt(folder: Path, name: str) -> list[Path]:
    """Return the existing files of `name` in one of its spellings: published, with a dot, in a folder of that name."""
    plain = name.removesuffix(".gz")
    spellings = (plain, plain.replace("-idx", ".idx"))
    paths = [folder / f"{spelling}{end}" for spelling in spellings for end in (".gz", "")]
    paths += [folder / spelling / spelling for spelling in spellings]
    return [path for path in paths if path.is_file()]


def _check_sha256(path: Path) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise unusable(path, "read", error) from error
    if found != _SHA256[path.name]:
        raise ValueError(
            f"{path}: expected the SHA-256 {_SHA256[path.name]}, got {found}: delete it"
        )


def _download(folder: Path) -> None:
    remedy = "give the folder of its four IDX files (--mnist-dir), or let it be downloaded"
    try:
        import pooch
    except ImportError as error:
        raise MnistUnavailable(
            f"MNIST is not in {folder}: {remedy} ({install('repro')})"
        ) from error
    for name, sha256 in _SHA256.items():
        failures = []
        for mirror in _MIRRORS:
            try:
                content = _retrieve(pooch, mirror + name, sha256)
                break
            # The mirror cannot be reached, or it sends a wrong file.
            except (OSError, ValueError) as error:
                failures.append(f"{mirror}: {textwrap.shorten(str(error), 100)}")
        else:
            raise MnistUnavailable(f"MNIST is not in {folder}: {remedy} ({'; '.join(failures)})")
        write_to_cache(folder / name, content)


def _retrieve(pooch: ModuleType, url: str, sha256: str) -> bytes:
    """Fetch a file's content, by way of a temporary folder: pooch writes files that only their owner can read."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=folder)).read_bytes()
