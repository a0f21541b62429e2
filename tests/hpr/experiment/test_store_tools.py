"""`python -m hpr.store`: verify, merge and gc, on good stores and on damaged ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from store_records import SEEDS, SPEC, folder_with, listing, planted, record_of

from hpr.experiment import inventory, leftovers
from hpr.experiment.record import checksum
from hpr.experiment.store import Store
from hpr.store import main
from hpr.system import files


def test_verify_passes_a_good_store_and_names_each_bad_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path, *SEEDS)
    assert main(["verify", str(out)]) == 0
    assert "4 good, 0 bad" in capsys.readouterr().out
    paths = [Store(out).path(spec) for spec in SEEDS]
    paths[0].write_text(paths[0].read_text().replace("0.25", "0.75"))
    shutil.copy(paths[2], paths[1])
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    before = listing(out)
    assert main(["verify", str(out)]) == 1
    told = capsys.readouterr()
    assert "1 good, 3 bad" in told.out
    lines = {line.split(": ")[2]: line for line in told.err.splitlines()}
    assert len(told.err.splitlines()) == 3
    assert "checksum: expected that of the content" in lines[str(paths[0])]
    assert f"name: expected {SEEDS[2].key}.json" in lines[str(paths[1])]
    assert "not strict JSON" in lines[str(paths[3])]
    assert listing(out) == before


def test_a_record_of_a_later_schema_is_not_vouched_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path, SPEC)
    Store(out).path(SEEDS[0]).write_text(json.dumps({"schema": 2}))
    assert main(["verify", str(out)]) == 1
    assert "schema: expected 1, got 2" in capsys.readouterr().err


def leftover_files(out: Path) -> dict[str, Path]:
    """Plant a leftover of each kind in a store that holds `SPEC`, and what is no leftover."""
    other, hexes = SEEDS[0].key, "0" * 32
    return {
        "temporary": planted(out / "runs" / f".{SEEDS[2].key}.json.{hexes}.tmp", age=1e4),
        "temporary checkpoint": planted(out / "checkpoints" / f".a.{hexes}.tmp", age=1e4),
        "temporary picture": planted(out / f".figure_1.png.{hexes}.tmp", age=1e4),
        "young temporary": planted(out / "runs" / f".{SPEC.key}.json.{hexes}.tmp"),
        "corrupt": planted(out / "runs" / f"{other}.json.corrupt-01234567"),
        "checkpoint": planted(out / "checkpoints" / f"{SPEC.key}.safetensors"),
        "checkpoint in use": planted(out / "checkpoints" / f"{other}.safetensors", age=1e9),
        "claim": planted(out / "claims" / f"{SPEC.key}.json"),
        "claim in use": planted(out / "claims" / f"{other}.json", age=1e4),
        "claim of nobody": planted(out / "claims" / f"{SEEDS[1].key}.json", age=1e5),
        "failure": planted(out / "failures" / f"{SPEC.key}.json"),
        "failure that stands": planted(out / "failures" / f"{other}.json"),
        "stranger": planted(out / "runs" / "notes.txt", age=1e9),
        "hidden stranger": planted(out / "runs" / ".hidden.tmp", age=1e9),
    }


STAY = {"young temporary", "checkpoint in use", "claim in use", "failure that stands"}
STAY |= {"stranger", "hidden stranger"}


@pytest.mark.parametrize("corrupt", [False, True])
def test_gc_removes_leftovers_and_nothing_else(
    tmp_path: Path, corrupt: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path, SPEC)
    planted_files = leftover_files(out)
    option = ["--corrupt"] if corrupt else []
    before = listing(out)
    assert main(["gc", str(out), "--dry-run", *option]) == 0
    would = {line for line in capsys.readouterr().out.splitlines() if "would remove /" in line}
    assert listing(out) == before
    assert main(["gc", str(out), *option]) == 0
    did = {line for line in capsys.readouterr().out.splitlines() if "removed /" in line}
    assert {line.replace("would remove", "removed") for line in would} == did
    left = {name for name, path in planted_files.items() if path.exists()}
    assert left == STAY | (set() if corrupt else {"corrupt"})
    assert Store(out).load(SPEC) == record_of(SPEC)


def test_verify_tells_about_leftovers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder_with(tmp_path, SPEC)
    leftover_files(out)
    assert main(["verify", str(out)]) == 0
    told = capsys.readouterr().out
    for line in (
        "3 x temporary file", "1 x damaged record, set aside", "1 x checkpoint of a finished run",
        "1 x claim of a finished run", "1 x claim without an owner", "1 x failure of a finished run",
    ):  # fmt: skip
        assert line in told


def test_a_checkpoint_whose_record_is_damaged_stays(tmp_path: Path) -> None:
    out = folder_with(tmp_path, SPEC)
    checkpoint = planted(out / "checkpoints" / f"{SPEC.key}.safetensors")
    Store(out).path(SPEC).write_text("{}")
    assert main(["gc", str(out)]) == 0
    assert checkpoint.exists()


def test_merge_joins_folders_and_equal_records_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder_with(tmp_path / "a", *SEEDS[:3])
    elsewhere = {"timings": {"training_s": 9.0}, "provenance": {"device": "another"}}
    second = folder_with(tmp_path / "b", *SEEDS[1:], **elsewhere)
    into = tmp_path / "c"
    assert main(["merge", str(first), str(second), "--into", str(into)]) == 0
    assert "6 records: 4 copied, 2 there already, 0 conflicts, 0 bad" in capsys.readouterr().out
    store = Store(into)
    assert store.load(SEEDS[1]) == record_of(SEEDS[1])
    assert store.load(SEEDS[3]) == record_of(SEEDS[3], **elsewhere)
    assert sorted(listing(into)) == sorted(f"runs/{spec.key}.json" for spec in SEEDS)


def test_a_conflict_is_shown_and_both_records_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder_with(tmp_path / "a", SPEC)
    measures = {"kernel_alignment": 0.5, "sign_similarity": 1.0}
    curves = {"iteration": [100, 200], "loss": [1.0, 0.25], "accuracy": [0.5, 1.0]}
    second = folder_with(tmp_path / "b", SPEC, measures=measures, curves=curves)
    assert main(["merge", str(second), "--into", str(first)]) == 1
    told = capsys.readouterr().out
    for line in (
        "  curves.loss: 1 of 2 entries differ, by at most 0.25",
        "  measures.final_loss: in the first alone",
        "  measures.kernel_alignment: 0.25 and 0.5, apart by 0.25",
        "  measures.sign_similarity: in the second alone",
        "1 record: 0 copied, 0 there already, 1 conflict, 0 bad",
    ):
        assert line in told.splitlines()
    assert Store(first).load(SPEC) == record_of(SPEC)
    [aside] = (first / "conflicts").iterdir()
    assert aside.read_bytes() == Store(second).path(SPEC).read_bytes()
    assert main(["merge", str(second), "--into", str(first)]) == 1
    assert [*(first / "conflicts").iterdir()] == [aside]
    capsys.readouterr()
    assert main(["verify", str(first)]) == 0
    assert "1 record in" in capsys.readouterr().out


def test_merge_replaces_no_file_not_even_a_damaged_one(tmp_path: Path) -> None:
    first, second = folder_with(tmp_path / "a", SPEC), folder_with(tmp_path / "b", SPEC)
    target = Store(second).path(SPEC)
    target.write_text("{}")
    assert main(["merge", str(first), "--into", str(second)]) == 1
    assert target.read_text() == "{}"
    [aside] = (second / "conflicts").iterdir()
    assert aside.read_bytes() == Store(first).path(SPEC).read_bytes()


def test_merge_names_bad_records_and_refuses_its_own_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder_with(tmp_path / "a", *SEEDS[:2])
    Store(first).path(SEEDS[0]).write_text("{}")
    assert main(["merge", str(first), "--into", str(tmp_path / "b")]) == 1
    assert "1 copied, 0 there already, 0 conflicts, 1 bad" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["merge", str(first), "--into", str(first)])
    assert stopped.value.code == 2
    assert "--into: expected another folder" in capsys.readouterr().err


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_no_others_place(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another process makes the file in the meantime, and where the file system has no links."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    files.write_new(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a", b"second")
    written = files._temporary

    def late(path: Path, content: bytes) -> Path:
        (tmp_path / "b").write_bytes(b"another's")
        return written(path, content)

    monkeypatch.setattr(files, "_temporary", late)
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "b", b"ours")
    assert listing(tmp_path) == {"a": b"first", "b": b"another's"}


@pytest.mark.parametrize("command", ["verify", "gc", "export --csv t", "merge --into t"])
def test_a_folder_without_runs_is_one_line(
    tmp_path: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command.split()
    with pytest.raises(SystemExit) as stopped:
        main([name, "here", *options])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert (
        told
        == "hpr.store: error: DIR: expected a results folder, with a folder runs in it, got here\n"
    )
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_no_target_of_a_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, target = folder_with(tmp_path / "out", SPEC), tmp_path / "target"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["merge", str(out), "--into", str(target)])
    assert stopped.value.code == 2
    told = f"hpr.store: error: --into: expected a folder, got the file {target}\n"
    assert capsys.readouterr().err == told
    assert target.read_text(encoding="utf-8") == "mine"


def test_the_ages_allow_for_a_writer_at_work() -> None:
    assert 60 < leftovers.WRITING < leftovers.ABANDONED < leftovers.FORGOTTEN


def test_a_sealed_record_with_a_deep_value_is_bad(tmp_path: Path) -> None:
    """Such a record could only be made by hand."""
    record = record_of(SPEC, flags=json.loads("[" * 60 + "]" * 60))
    content = json.dumps({**record, "checksum": checksum(record)}, indent=1, sort_keys=True)
    path = planted(Store(tmp_path).path(SPEC), content)
    found = inventory.read_kept(path)
    assert isinstance(found, inventory.Bad)
    assert "nested deeper than 50 levels" in found.reason
