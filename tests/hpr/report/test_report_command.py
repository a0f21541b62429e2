"""The command line writes the report at its end, and again by `--report`; a report that fails costs one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from report_folder import record

from hpr.experiment.specification import RunSpec
from hpr.reproduce import main

pytestmark = pytest.mark.usefixtures("empty_cache")

RUN = ["--figure", "18", "--seeds", "2", "--iterations", "3", "--device", "cpu"]


def train(specs: Sequence[RunSpec], task: Any, **_: Any) -> list[dict[str, Any]]:
    return [record(spec) for spec in specs]


def unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be trained")


def test_a_report_that_fails_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path) -> Path:
        raise ZeroDivisionError("no\npage")

    monkeypatch.setattr("hpr.report.write_report", fail)
    assert main([*RUN, "--out", str(tmp_path)], train=train) == 0
    said = capsys.readouterr()
    page = tmp_path / "report.html"
    assert said.err == f"hpr.reproduce: {page} was not written: ZeroDivisionError: no page\n"
    assert "\ndone after " in said.out
    assert (tmp_path / "summary.md").exists()
    assert main(["--report", "--out", str(tmp_path)], train=unreachable) == 1
    assert capsys.readouterr().out == ""


def test_the_report_is_written_again_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--out", str(tmp_path)], train=train) == 0
    page = tmp_path / "report.html"
    assert f"\nopen {page} in a browser\n" in capsys.readouterr().out
    before = page.read_bytes()
    page.unlink()
    assert main(["--report", "--out", str(tmp_path)], train=unreachable) == 0
    assert capsys.readouterr().out == f"open {page} in a browser\n"
    assert page.read_bytes() == before


def test_a_folder_without_results_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--report", "--out", str(tmp_path)], train=unreachable)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"--report: expected an --out with results of figures, got {str(tmp_path)!r}"
    )
    assert list(tmp_path.iterdir()) == []
