"""The store: whole files or none, nothing trusted unread, nothing run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpr.connectivity import SVD
from hpr.runs import RunSpec
from hpr.store import Store, identity

SPEC = RunSpec(task="2AF", connectivity=SVD(rank=30), seed=3)


def record_of(spec: RunSpec, /, **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {"iteration": [1], "loss": [1.0], "accuracy": [0.5]},
        "measures": {"kernel_alignment": 0.25, "final_loss": None},
        "flags": [],
        "provenance": {"versions": {}, "device": "cpu", "git": "0" * 40},
        "timings": {"training_s": 1.0},
        **changes,
    }


def test_a_saved_run_is_found_again_and_another_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load(SPEC) is None
    assert SPEC not in store
    path = store.save(record_of(SPEC))
    assert path == tmp_path / "runs" / f"{SPEC.key}.json"
    assert store.load(SPEC) == record_of(SPEC)
    assert SPEC in store
    assert store.load(RunSpec(task="2AF", connectivity=SVD(rank=30), seed=4)) is None
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
    """The file is whole, strict JSON of the right run; one measure was edited."""
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


OTHER = RunSpec(task="2AF", connectivity=SVD(rank=1), seed=3)


@pytest.mark.parametrize(
    "error", [IsADirectoryError(21, "Is a directory"), PermissionError(13, "no")]
)
def test_what_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    store = Store(tmp_path)
    path = store.save(record_of(SPEC))

    def fail(_: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert SPEC not in store
    with pytest.raises(
        OSError, match=f"{path.name} can't be read: {error.strerror}; move"
    ) as caught:
        store.load(SPEC)
    assert "\n" not in str(caught.value)


BAD_FILES = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "truncated": json.dumps(record_of(SPEC)).encode()[:-40],
    "not an object": b"[]",
    "a NaN token": json.dumps(record_of(SPEC, measures={"final_loss": float("nan")})).encode(),
    "an overflowing number": json.dumps(record_of(SPEC)).replace("0.25", "1e999").encode(),
    "another schema": json.dumps(record_of(SPEC, schema=2)).encode(),
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
from hpr.store import Store
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
        # Another point of the work in each attempt.
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
