"""The table of all records: CSV, Parquet and a data frame, of records of today and of older ones."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from store_records import SEEDS, SPEC, folder_with, planted

import hpr
from hpr.store import main

# Records that were made before timings held CPU seconds, host and memory, and provenance machine and environment.
OLD = Path(__file__).with_name("records_schema_1")


def rows_of(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))]


def test_old_records_are_read_and_shown_in_todays_form(tmp_path: Path) -> None:
    """Later versions add entries to timings and provenance, which an old record lacks; no schema has changed."""
    out = tmp_path / "out"
    shutil.copytree(OLD, out / "runs")
    assert main(["verify", str(out)]) == 0
    folder_with(out, SPEC, timings={"training_s": 1.0, "training_cpu_s": 2.0, "host": "here"})
    assert main(["export", str(out), "--csv", str(tmp_path / "t.csv")]) == 0
    rows = {row["key"]: row for row in rows_of(tmp_path / "t.csv")}
    assert len(rows) == 1 + len([*OLD.iterdir()]) == 6
    assert rows[SPEC.key]["timings.host"] == "here"
    for path in OLD.iterdir():
        record, row = json.loads(path.read_bytes()), rows[path.stem]
        assert row["timings.host"] == row["timings.training_cpu_s"] == ""
        assert float(row["timings.training_s"]) == record["timings"]["training_s"]
        assert row["provenance.versions.torch"] == record["provenance"]["versions"]["torch"]
        assert row["spec.task"] == record["spec"]["task"]
        assert row["spec.connectivity.kind"] == record["spec"]["connectivity"]["kind"]
        assert row["spec.ntk_parameters"] == " ".join(record["spec"]["ntk_parameters"])
        assert row["spec.checkpoints"] == str(record["spec"].get("checkpoints", 0))
        assert row["spec.teacher.key"] == (row["key"] == "8c04a7285967195a") * "866bf65e406cd8df"
        for name, value in record["measures"].items():
            assert float(row[f"measures.{name}"]) == value


def test_export_leaves_out_bad_records_and_keeps_odd_values_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {
        "a": {"b": {"c": {"d": {"e": 1}}}},
        "\ud800": "\ud800,\n",
        "mixed": 10**19,
        "list": [[1]],
    }
    out = folder_with(tmp_path / "out", SEEDS[0], provenance=odd, flags=["one", "two"])
    folder_with(out, SEEDS[1], provenance={"mixed": "text"})
    planted(out / "runs" / f"{SPEC.key}.json")
    assert main(["export", str(out), "--csv", str(tmp_path / "t.csv")]) == 1
    told = capsys.readouterr()
    assert "2 runs in" in told.out
    assert told.err.count("\n") == 1
    assert SPEC.key in told.err
    rows = {row["key"]: row for row in rows_of(tmp_path / "t.csv")}
    first, second = rows[SEEDS[0].key], rows[SEEDS[1].key]
    assert first["provenance.a.b.c.d"] == '{"e": 1}'
    assert first["provenance.\\ud800"] == "\\ud800,\n"
    assert (first["provenance.mixed"], second["provenance.mixed"]) == (str(10**19), "text")
    assert first["provenance.list"] == "[[1]]"
    assert first["flags"] == "one; two"
    assert second["provenance.a.b.c.d"] == ""


@pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow, of the extra table, is missing"
)
def test_parquet_holds_the_columns_of_csv(tmp_path: Path) -> None:
    import pyarrow.parquet

    out = folder_with(tmp_path / "out", SEEDS[0], provenance={"big": 10**19, "\ud800": "\ud800"})
    shutil.copytree(OLD, out / "runs", dirs_exist_ok=True)
    for option in ("csv", "parquet"):
        assert main(["export", str(out), f"--{option}", str(tmp_path / option)]) == 0
    found = pyarrow.parquet.read_table(tmp_path / "parquet")
    rows = rows_of(tmp_path / "csv")
    assert found.column_names == [*rows[0]]
    for row, kept in zip(rows, found.to_pylist(), strict=True):
        assert row == {name: "" if cell is None else str(cell) for name, cell in kept.items()}


@pytest.mark.skipif(
    importlib.util.find_spec("pandas") is None, reason="pandas, of the extra table, is missing"
)
def test_results_is_a_data_frame_of_the_same_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    shutil.copytree(OLD, out / "runs")
    assert main(["export", str(out), "--csv", str(tmp_path / "csv")]) == 0
    planted(out / "runs" / f"{SPEC.key}.json")
    table = hpr.results(out)
    header = (tmp_path / "csv").read_text().splitlines()[0]
    assert [*table] == header.split(",")
    assert len(table) == 5
    assert set(table["spec.task"]) == {"2AF", "sDigits", "student-teacher(d=5,kappa=3)"}
    assert table["measures.kernel_alignment"].dtype == float
    assert [f"{SPEC.key}.json" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path, SPEC)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "pandas":
        with pytest.raises(ImportError, match=r"^hpr.results: expected pandas, .*; install it: .*"):
            hpr.results(out)
        return
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(out), "--parquet", str(tmp_path / "t")])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "expected pyarrow, which is not installed" in told


def test_the_package_has_no_other_name_to_be_asked_for() -> None:
    with pytest.raises(AttributeError, match="no attribute 'result'"):
        _ = hpr.result


def test_a_table_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path / "out", SPEC)
    (tmp_path / "t").mkdir()
    for form in ("--csv", "--parquet"):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(out), form, str(tmp_path / "t")])
        assert stopped.value.code == 2
        told = f"hpr.store: error: {form}: expected a file, got the folder {tmp_path / 't'}\n"
        assert capsys.readouterr().err == told
    assert {*tmp_path.iterdir()} == {tmp_path / "out", tmp_path / "t"}


@pytest.mark.parametrize("other", [3, None, "", "here", "file"], ids=repr)
def test_what_is_no_results_folder_is_one_line(
    tmp_path: Path, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("file").touch()
    refusals = {3: "a path, got 3", None: "a path, got None", "": "a path, got ''"}
    told = refusals.get(other, f"a results folder, with a folder runs in it, got {other}")
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=f"^out: expected {told}$"):
        hpr.results(other)


def test_a_table_has_a_bounded_number_of_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder_with(tmp_path, SPEC, provenance={str(i): i for i in range(3000)})
    with pytest.raises(SystemExit):
        main(["export", str(out), "--csv", str(tmp_path / "t")])
    assert "columns: expected at most 2000" in capsys.readouterr().err
