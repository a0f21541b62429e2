"""A results folder made to do harm does none: nothing is written or removed outside it, and every answer is one line.

Each command runs in a process of its own with 1 GiB of address space for data and a limit of time.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_records import SEEDS, SPEC, folder_with, listing, planted, record_of

from hpr.experiment.record import LARGEST_RECORD, MOST_VALUES
from hpr.experiment.store import PROBE, Store

HEX = "0" * 32
OTHER = SEEDS[0]


def sparse(out: Path, size: int = 10 * 2**30) -> None:
    path = planted(Store(out).path(OTHER))
    os.truncate(path, size)


def large(out: Path) -> None:
    sparse(out, LARGEST_RECORD)


def many_values(out: Path) -> None:
    planted(Store(out).path(OTHER), "[" + "[]," * (2 * MOST_VALUES) + "[]]")


def nested(out: Path) -> None:
    planted(Store(out).path(OTHER), '{"a":' * 100_000 + "1" + "}" * 100_000)


def pipe(out: Path) -> None:
    os.mkfifo(Store(out).path(OTHER))


def folder(out: Path) -> None:
    Store(out).path(OTHER).mkdir()


def device(out: Path) -> None:
    Store(out).path(OTHER).symlink_to("/dev/zero")


def link_to_secret(out: Path) -> None:
    Store(out).path(OTHER).symlink_to(out.parent / "outside" / "secret.txt")


def link_up(out: Path) -> None:
    Store(out).path(OTHER).symlink_to("../../outside/runs")


def dots(out: Path) -> None:
    """File names that a careless program would take for a path upwards, or print over several lines."""
    for name in (
        "..json",
        "...json",
        "..\\..\\x.json",
        "a\nb.json",
        f"..{HEX}.tmp",
        "\x1b[2J.json",
    ):
        planted(out / "runs" / name, age=1e9)
    planted(out / "runs" / f"..\n..{HEX}.tmp", age=1e9)


def linked_folders(out: Path) -> None:
    """The folders that gc tidies lead outside, to files that are named like leftovers."""
    outside = out.parent / "outside"
    for name in ("checkpoints", "claims", "failures"):
        planted(outside / name / f"{SPEC.key}.safetensors")
        planted(outside / name / f"{SPEC.key}.json")
        planted(outside / name / f".x.{HEX}.tmp", age=1e9)
        (out / name).symlink_to(outside / name)


def linked_leftovers(out: Path) -> None:
    """The leftovers themselves are links to files outside, or folders with something in them."""
    secret = out.parent / "outside" / "secret.txt"
    for path in (out / "runs" / f".x.{HEX}.tmp", out / "checkpoints" / f"{SPEC.key}.safetensors"):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(secret)
    planted(out / "claims" / f"{SPEC.key}.json" / "inside")


HOSTS = (
    sparse, many_values, nested, pipe, folder, device, link_to_secret, link_up, dots,
    linked_folders, linked_leftovers,
)  # fmt: skip
COMMANDS = ("verify {out}", "export {out} --csv {to}/t.csv", "merge {out} --into {to}/m")
COMMANDS += ("gc {out} --corrupt",)
LOAD = "import sys; from hpr.experiment import Store; from store_records import SEEDS\n"
LOAD += "try: print(Store(sys.argv[1]).load(SEEDS[0]))\nexcept OSError as error: print(error)"


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    searched = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": searched},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        preexec_fn=limited,
    )


@pytest.mark.parametrize(
    "host",
    # Each command reads 256 MiB.
    [*HOSTS, pytest.param(large, marks=pytest.mark.nightly)],
    ids=lambda host: host.__name__,
)
def test_a_hostile_folder_does_no_harm(tmp_path: Path, host: Callable[[Path], None]) -> None:
    outside, to = tmp_path / "outside", tmp_path / "to"
    planted(outside / "secret.txt", '{"schema": "a secret"}', age=1e9)
    planted(outside / "runs" / f"{OTHER.key}.json", "{}")
    to.mkdir()
    out = folder_with(tmp_path / "out", SPEC)
    host(out)
    before = listing(outside)
    for command in COMMANDS:
        done = run("-m", "hpr.store", *command.format(out=out, to=to).split())
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert len(done.stderr.splitlines()) <= 1, done.stderr
    loaded = run("-c", LOAD, str(out))
    assert loaded.returncode == 0, loaded.stderr
    assert len(loaded.stdout.splitlines()) == 1
    assert listing(outside) == before
    # The good record is there still, and in what was made of the folder.
    assert Store(out).load(SPEC) == Store(to / "m").load(SPEC) == record_of(SPEC)
    assert SPEC.key in (to / "t.csv").read_text()
    assert {path.name for path in (to / "m" / "runs").iterdir()} == {f"{SPEC.key}.json"}
    if host is linked_leftovers:
        assert not (out / "checkpoints" / f"{SPEC.key}.safetensors").is_symlink()
        assert (out / "claims" / f"{SPEC.key}.json" / "inside").exists()


def test_a_record_too_large_to_be_read_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = store.save(record_of(SPEC))
    size = path.stat().st_size
    monkeypatch.setattr("hpr.experiment.store.LARGEST_RECORD", size)
    assert store.load(SPEC) == record_of(SPEC)
    monkeypatch.setattr("hpr.experiment.store.LARGEST_RECORD", size - 1)
    expected = f"expected at most {size - 1:,} bytes, got {size:,}"
    with pytest.raises(ValueError, match=f"record: {expected}"):
        store.save(record_of(SPEC))
    with pytest.raises(OSError, match=f"can't be read: {expected}; move it away"):
        store.load(SPEC)


PREPARE = """
import resource, sys
from hpr.experiment import Store
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    Store({out!r}).check_room()
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 4096, PROBE - 1, PROBE])
def test_a_start_finds_that_no_record_could_be_written(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails a write as a full disk does, after the file has been opened."""
    done = run("-c", PREPARE.format(limit=limit, out=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    too_small = f"the output folder {tmp_path} can't be written: {os.strerror(errno.EFBIG)}\n"
    assert done.stdout == (too_small if limit < PROBE else "")
    assert [*(tmp_path / "runs").iterdir()] == []


FULL = """
mount -t tmpfs -o size=256k tmpfs "$1" || exit 77
exec "$2" -c "
from hpr.experiment import Store
try: Store('$1').check_room()
except OSError as error: print(error)
"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare, of util-linux, is missing")
def test_a_start_finds_a_full_disk(tmp_path: Path) -> None:
    searched = os.pathsep.join(sys.path)
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", FULL, "sh", str(tmp_path), sys.executable],
        env={**os.environ, "PYTHONPATH": searched},
        capture_output=True,
        text=True,
    )
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    reason = os.strerror(errno.ENOSPC)
    assert done.stdout == f"the output folder {tmp_path} can't be written: {reason}\n"
