"""Files of the cache and of results: other users, planted links, concurrent writers, full disks, the umask."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpr.connectivity.connectome import Connectome, keep, open_connectome
from hpr.system.files import write_atomically

NOBODY = 65534
CONNECTOME = Connectome(("a", "b"), np.array([[0.0, 1.0], [-2.0, 0.0]]))
CONTENT = f"""
import io, os, resource
from pathlib import Path
import numpy as np
from hpr.connectivity.cave import _write
from hpr.connectivity.connectome import Connectome, keep, open_connectome
from hpr.system.files import write_atomically
from hpr.tasks import find_mnist
connectome = Connectome(("a", "b"), np.array({CONNECTOME.weights.tolist()}))
np.savez_compressed(archive := io.BytesIO(), connectome.weights)
archive.seek(0)
np.load(archive)["arr_0"]
"""
# The other user may not be able to read Python's modules, so the program uses them all before it changes user.
AS_NOBODY = f"{CONTENT}\nif os.getuid() == 0:\n    os.setgid({NOBODY})\n    os.setuid({NOBODY})\n"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach; pytest's folders are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def child(program: str, cache: Path) -> str:
    """The output of a program in a new process whose cache is `cache`."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "HPR_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lock(folder: Path) -> None:
    """Make all folders read-only for every user but root."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)


def test_another_user_reads_a_shared_cache_and_writes_nothing(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPR_CACHE", str(shared / "cache"))
    before = os.umask(0o022)
    try:
        name = keep(CONNECTOME)
    finally:
        os.umask(before)
    lock(shared)
    program = f"{AS_NOBODY}\nname = keep(connectome)\nprint(name, len(open_connectome(name).cells))"
    assert child(program, shared / "cache") == f"{name} 2\n"
    [path] = (shared / "cache" / "connectomes").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


WRITERS = {
    "connectome": "keep(connectome)",
    "other results": "write_atomically(Path(os.environ['HPR_CACHE']) / 'a' / 'b', b'content')",
    "CAVE's tables": "_write(Path(os.environ['HPR_CACHE']) / 'a.csv', ('id',), [(7,)])",
}
SAY = """
try:
    {writer}
except OSError as error:
    print(error)
else:
    print('written')
"""


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_cannot_be_written_is_told_in_one_line(shared: Path, writer: str) -> None:
    (shared / "cache").mkdir()
    lock(shared)
    said = child(AS_NOBODY + SAY.format(writer=writer), shared / "cache")
    assert said.count("\n") == 1
    assert "Permission denied" in said
    assert str(shared / "cache") in said
    if "keep" in writer:
        assert said.endswith("HPR_CACHE names another folder for the cache\n")
    assert list((shared / "cache").iterdir()) == []


def test_a_folder_in_a_files_place_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_atomically(tmp_path, b"content")
    assert str(caught.value).endswith(f"Is a directory: {str(tmp_path)!r}")


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, writer: str) -> None:
    """A limit of 0 bytes per file acts like a full disk: a file can be created but not written."""
    full = f"{CONTENT}\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    before = {path: path.read_bytes() for path in written(tmp_path, writer)}
    for path in before:
        path.write_bytes(b"old")
    said = child(full + SAY.format(writer=writer), tmp_path)
    assert "File too large" in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in files(tmp_path)} == dict.fromkeys(before, b"old")


def written(folder: Path, writer: str) -> list[Path]:
    assert child(CONTENT + SAY.format(writer=writer), folder) == "written\n"
    found = files(folder)
    assert len(found) == 1
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("empty_cache")
def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "cache" / "connectomes"
    folder.mkdir(parents=True)
    file = folder / f"em-{CONNECTOME.digest}.npz"
    # One link is at the file's name, one at a temporary name that contains only the process number.
    for link in (file, folder / f".{file.name}.{os.getpid()}"):
        link.symlink_to(victim)
    name = keep(CONNECTOME)
    assert victim.read_text() == "precious"
    assert not file.is_symlink()
    assert open_connectome(name).cells == CONNECTOME.cells


@pytest.mark.usefixtures("empty_cache")
def test_ten_writers_of_one_number_at_once(tmp_path: Path) -> None:
    """The threads share one process number, as processes in several containers may do."""
    failures: list[Exception] = []
    for repetition in range(30):
        connectome = Connectome(("a", "b"), CONNECTOME.weights * (repetition + 1))
        gate = threading.Barrier(10)

        def write(connectome: Connectome = connectome, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                keep(connectome)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (open_connectome(keep(connectome)).weights == connectome.weights).all()
    assert failures == []
    assert len(list((tmp_path / "cache" / "connectomes").iterdir())) == 30


@pytest.mark.usefixtures("empty_cache")
def test_what_is_cached_is_not_written_again_and_what_is_spoilt_is(tmp_path: Path) -> None:
    keep(CONNECTOME)
    [path] = (tmp_path / "cache" / "connectomes").iterdir()
    content, inode = path.read_bytes(), path.stat().st_ino
    keep(CONNECTOME)
    assert path.stat().st_ino == inode
    rng = np.random.default_rng(0)
    for _ in range(40):
        spoilt = bytearray(content)
        spoilt[rng.integers(len(spoilt))] ^= 255
        path.write_bytes(spoilt[: rng.integers(len(spoilt))])
        keep(CONNECTOME)
        assert path.read_bytes() == content
    path.unlink()
    os.mkfifo(path)
    keep(CONNECTOME)
    assert path.read_bytes() == content


def test_a_file_has_the_umasks_mode(tmp_path: Path) -> None:
    modes = {}
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / oct(mask), b"content")
        finally:
            os.umask(before)
        modes[mask] = stat.S_IMODE((tmp_path / oct(mask)).stat().st_mode)
    assert modes == {0o022: 0o644, 0o077: 0o600, 0o002: 0o664}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_read_is_told_in_one_line(shared: Path) -> None:
    """The files exist, but only another user can read them."""
    file = shared / "mnist" / "train-images-idx3-ubyte.gz"
    connectome = shared / "connectomes" / f"em-{CONNECTOME.digest}.npz"
    for path in (file, connectome):
        path.parent.mkdir()
        path.write_bytes(b"content")
        path.chmod(0)
    for reader, path in (
        (f"open_connectome('em-{CONNECTOME.digest}')", connectome),
        ("find_mnist()", file),
    ):
        said = child(AS_NOBODY + SAY.format(writer=reader), shared)
        reason = "Permission denied; HPR_CACHE names another folder for the cache"
        assert said == f"{path} can't be read: {reason}\n"
