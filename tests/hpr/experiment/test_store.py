"""The store writes whole files or none, trusts no file before checking it, and runs nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from store_records import SPEC, record_of

from hpr.connectivity import LowRank
from hpr.experiment.plan import plan, tasks
from hpr.experiment.record import checksum, identity
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store


def test_a_saved_run_is_found_again_and_another_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load(SPEC) is None
    assert SPEC not in store
    path = store.save(record_of(SPEC))
    assert path == tmp_path / "runs" / f"{SPEC.key}.json"
    assert store.load(SPEC) == record_of(SPEC)
    assert SPEC in store
    assert store.load(RunSpec(task="2AF", connectivity=LowRank(rank=30), seed=4)) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_looking_up_a_run_does_not_list_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save(record_of(SPEC))

    def refuse(*_: object) -> None:
        raise AssertionError("the folder was listed")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    assert store.load(SPEC) is not None
    assert SPEC in store


def test_a_changed_number_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is whole, strict JSON of the right run, but one measure was edited."""
    store = Store(tmp_path)
    path = store.save(record_of(SPEC))
    path.write_text(path.read_text().replace("0.25", "0.75"))
    assert SPEC not in store
    assert store.load(SPEC) is None
    assert "checksum: expected that of the content, got another; set aside" in caplog.text
    assert not path.exists()


def test_identity_leaves_out_the_timings_alone() -> None:
    quick, slow = record_of(SPEC), record_of(SPEC, timings={"training_s": 99.0})
    assert identity(quick) == identity(slow)
    assert identity(quick) != identity(record_of(SPEC, iterations=9))


OTHER = RunSpec(task="2AF", connectivity=LowRank(rank=1), seed=3)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def later_schema(path: Path) -> None:
    path.write_text(json.dumps({"schema": 2, "format": "binary", "checksum": "?"}))


def sealed(record: dict[str, Any]) -> str:
    return json.dumps({**record, "checksum": checksum(record)})


def unknown_kind(path: Path) -> None:
    spec = {**SPEC.to_dict(), "connectivity": {"kind": "ring", "gain": 1.5}}
    path.write_text(sealed(record_of(SPEC, spec=spec)))


def unknown_field(path: Path) -> None:
    path.write_text(sealed(record_of(SPEC, spec={**SPEC.to_dict(), "colour": "red"})))


UNREADABLE = {
    folder: "Is a directory; move it away",
    pipe: "it is no regular file",
    device: "it is no regular file",
    link_to_itself: "(Too many levels of symbolic links|Symbolic link loop)",
    later_schema: "schema: expected 1, got 2; update hpr",
    unknown_kind: "connectivity kind: expected one of .* got 'ring'; .*register",
    unknown_field: "run specification: expected the fields .*; update hpr",
}


@pytest.mark.parametrize(
    ("make", "reason"), UNREADABLE.items(), ids=[make.__name__ for make in UNREADABLE]
)
def test_what_is_not_to_be_read_is_refused_in_one_line_and_stays(
    tmp_path: Path, make: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is not trained, nor planned to be: another version of hpr may be able to read the record."""
    store = Store(tmp_path)
    path = store.path(SPEC)
    path.parent.mkdir()
    make(path)
    before = path.lstat()
    for ask in (store.load, store.__contains__):
        with pytest.raises(OSError, match=f"{path.name} can't be read.*{reason}") as caught:
            ask(SPEC)
        assert "\n" not in str(caught.value)
    assert (path.lstat(), caplog.messages) == (before, [])
    assert list(path.parent.iterdir()) == [path]
    left = plan([SPEC, OTHER], store.__contains__, tasks(), torch.device("cpu"))
    assert (left.stored, left.packs) == (0, [[OTHER]])
    assert list(left.unreadable) == [SPEC]


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no users to become")
def test_a_record_that_may_not_be_read_is_named_in_one_line() -> None:
    """A child process without root's rights reads the record, in a folder that every user can reach."""
    with tempfile.TemporaryDirectory() as out:
        Path(out).chmod(0o755)
        path = Store(out).save(record_of(SPEC))
        path.chmod(0)
        program = (
            "import os, sys\n"
            f"sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
            "from test_store import SPEC, Store\n"
            "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
            "try:\n"
            f"    Store({out!r}).load(SPEC)\n"
            "except OSError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    assert done.stdout == f"{path} can't be read: Permission denied; move it away\n"


def sealed_text(value: str) -> bytes:
    """Return a record with that text as a measure, and a checksum in the right form."""
    whole = sealed(record_of(SPEC, measures={"final_loss": 12345.5}))
    return whole.replace("12345.5", value).encode()


BAD_FILES = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "truncated": json.dumps(record_of(SPEC)).encode()[:-40],
    "not an object": b"[]",
    "a NaN token": json.dumps(record_of(SPEC, measures={"final_loss": float("nan")})).encode(),
    "an overflowing number": json.dumps(record_of(SPEC)).replace("0.25", "1e999").encode(),
    "no schema of anyone's": json.dumps(record_of(SPEC, schema=0)).encode(),
    "a schema in words": json.dumps(record_of(SPEC, schema="2")).encode(),
    "deeply nested, for the parser": b"[" * 100_000,
    "deeply nested, for the checksum": sealed_text(f"{'[' * 993}{']' * 993}"),
    "a number of 400 digits": sealed(
        record_of(SPEC, measures={"final_loss": int("1" * 400)})
    ).encode(),
    "a number of 5,000 digits": sealed_text("1" * 5000),
    "a measure that is true": sealed(record_of(SPEC, measures={"final_loss": True})).encode(),
    "another run under this name": json.dumps(record_of(OTHER)).encode(),
    "an edited specification": json.dumps(
        record_of(SPEC, spec={**SPEC.to_dict(), "learning_rate": 1.0})
    ).encode(),
    "an unknown status": json.dumps(record_of(SPEC, status="fine")).encode(),
    "no measures": json.dumps(record_of(SPEC, measures=None)).encode(),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_set_aside_with_one_warning_and_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    store = Store(tmp_path)
    path = store.path(SPEC)
    path.parent.mkdir()
    path.write_bytes(content)

    # Asking whether the run is there, as a dry run does, touches nothing.
    assert SPEC not in store
    assert path.read_bytes() == content

    assert store.load(SPEC) is None
    [warning] = caplog.messages
    assert str(path) in warning
    assert "\n" not in warning
    assert not path.exists()
    [aside] = path.parent.iterdir()
    assert aside.name.startswith(f"{path.name}.corrupt-")
    assert aside.read_bytes() == content

    store.save(record_of(SPEC))
    assert store.load(SPEC) == record_of(SPEC)
    assert aside.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": {"final_loss": float("nan")}}, "not JSON compliant"),
        ({"key": "0" * 16}, "specification: expected that of"),
        ({"schema": 0}, "schema: expected 1, got 0"),
    ],
    ids=["NaN", "key", "schema"],
)
def test_an_invalid_record_is_not_saved(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=message):
        store.save(record_of(SPEC, **changes))
    assert not store.path(SPEC).exists()


def test_a_failed_write_leaves_the_old_record_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = store.save(record_of(SPEC))

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        store.save(record_of(SPEC, iterations=7))
    assert store.load(SPEC) == record_of(SPEC)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("inside", ["out", "out/deeper"])
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, inside: str
) -> None:
    # A file where a folder should be stops root as well.
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match=r"the output folder .* can't be written: ") as caught:
        Store(tmp_path / inside).prepare()
    assert "\n" not in str(caught.value)


SAVE_FOR_EVER = """
import itertools, sys
sys.path[:0] = {path!r}
from test_store import SPEC, record_of
from hpr.experiment.store import Store
from dataclasses import replace
store = Store({out!r})
padding = ["x" * 1000] * 200
for i in itertools.count():
    store.save(record_of(replace(SPEC, seed=i % 5), flags=[str(i), *padding]))
    if i == 10:
        print("going", flush=True)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_process_leaves_whole_files_only(tmp_path: Path, attempt: int) -> None:
    program = SAVE_FOR_EVER.format(path=[str(Path(__file__).parent), *sys.path], out=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        # Each attempt kills the process at another point of its work.
        time.sleep(0.013 * attempt)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    files = sorted((tmp_path / "runs").glob("*.json"))
    assert len(files) == 5
    for file in files:
        assert len(json.loads(file.read_text())["flags"]) == 201

    # The next process finds all of them and goes on.
    store = Store(tmp_path)
    record = store.load(SPEC)
    assert record is not None
    store.save(record)
    assert not list((tmp_path / "runs").glob("*.corrupt-*"))
