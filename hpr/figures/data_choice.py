"""Which pictures and which connectome a reproduction takes: the paper's own, those that are given, or the stand-ins."""

from __future__ import annotations

from pathlib import Path

from hpr.command_line import UsageError
from hpr.connectivity.connectome import keep, read_folder
from hpr.figures.settings import SMNIST
from hpr.figures.stand_ins import STAND_INS


def choose_smnist(
    mnist_dir: Path | None, profile: str, *, download: bool, stand_in: bool = False
) -> tuple[SMNIST, str, str | None]:
    """Return which task stands where the paper has sMNIST, a line that says so, and the task's `content`.

    The task is sMNIST if MNIST's files are given or cached. Otherwise the `paper` profile downloads them
    (without `download` it only says so), and `quick` takes the embedded stand-in, as do both with
    `stand_in`. Other pictures that are given are named by their content.

    Raises:
        UsageError: the given or cached files are broken, the download fails, or both real files
            and the stand-in are asked for.
    """
    from hpr.tasks import MnistUnavailable, find_mnist
    from hpr.tasks.mnist import other_pictures, pictures_content

    digits = STAND_INS["sMNIST"]
    if stand_in and mnist_dir is not None:
        raise UsageError(f"--stand-in: expected without --mnist-dir, got --mnist-dir {mnist_dir}")
    if stand_in:
        return "sDigits", f"{digits.announcement}, as asked for", None
    try:
        folder = find_mnist(mnist_dir)
        content = None if mnist_dir is None else pictures_content(mnist_dir)
    except (MnistUnavailable, ValueError, OSError) as error:
        raise UsageError(f"--mnist-dir: {error}" if mnist_dir else str(error)) from None
    if content is not None:
        return "sMNIST", f"sMNIST: replaced by {other_pictures(content)} in {folder}", content
    if folder is not None:
        return "sMNIST", f"sMNIST: the files in {folder}", None
    if profile != "paper":
        return "sDigits", f"{digits.announcement}; {digits.remedy}", None
    if not download:
        return "sMNIST", "sMNIST: to be downloaded", None
    try:
        return "sMNIST", f"sMNIST: downloaded to {find_mnist(download=True)}", None
    except (MnistUnavailable, ValueError, OSError) as error:
        how = "give --mnist-dir DIR, or ask for the 8 x 8 digits in its place with --stand-in"
        raise UsageError(f"sMNIST: {error}; {how}") from None


def choose_connectome(em_dir: Path | None, *, write: bool = True) -> tuple[str, str]:
    """Return which connectome stands where the paper has electron microscopy, and a line that says so.

    With `write` off the cache is left as it is.

    Raises:
        UsageError: the given tables are missing or broken, or can't be kept in the cache.
    """
    if em_dir is None:
        worm = STAND_INS["EM"]
        return worm.name, f"{worm.announcement}; {worm.remedy}"
    try:
        connectome = read_folder(em_dir)
        name = keep(connectome, write=write)
    except (ValueError, OSError) as error:
        raise UsageError(f"--em-dir: {error}") from None
    return name, f"EM: the {len(connectome.cells)} cells in {em_dir}; {connectome.share}"
