"""docs/benchmarks.md: it has every section, it names those that failed, and its sentences are the generator's."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from asv import util
from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult

from benchmarks import guards_table, tables
from benchmarks.__main__ import build_parser, main
from benchmarks.peers import ntk_table, training_table, trials_table

HERE = {**Machine.get_defaults(), "machine": "chosen"}
GUARD = "guards.Memory.track_ntk"


def script(title: str, code: str, **fields: Any) -> tables.Section:
    return tables.Section(title, f"About {title}.", ["-c", code], **fields)


def file_result(
    folder: Path, commit: str, values: Sequence[float | None], date: int = 0, **machine: str
) -> None:
    """File a guard of two parameters as asv does."""
    of = {**HERE, **machine}
    made = Results(of, {}, commit * 40, date, "3.11", "env", {})
    benchmark = {"name": GUARD, "version": "1", "params": [["'2AF'", "'other'"]]}
    nothing = [None, None]
    made.add_result(benchmark, BenchmarkResult([*values], nothing, nothing, 0, "", None))
    made.save(str(folder))
    util.write_json(str(folder / of["machine"] / "machine.json"), of, Machine.api_version)


def test_a_section_that_fails_is_named_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        script("First", "print('| a |'); print('|---|'); print('between'); print('| 1 |')"),
        script("Broken", "print('| a |'); raise SystemExit('no such shape')"),
        script("Silent", "print('seed 3')"),
        script("Around", "print('| a |'); print('2 of 3'); raise SystemExit(1)",
               table=False, statuses=(0, 1)),
        script("Crashed", "print('2 of 3'); 1 / 0", table=False, statuses=(0, 1)),
    ]  # fmt: skip
    out = tmp_path / "benchmarks.md"
    assert tables.write(out, chosen, tmp_path) == 1
    text = out.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "First", "Broken", "Silent", "Around", "Crashed", "The guards",
    ]  # fmt: skip
    assert "About First. `python -c " in text
    assert "| a |\n|---|\n| 1 |\n" in text
    assert "- 2 of 3\n" in text
    failed = [line for line in text.splitlines() if line.startswith("**Failed**")]
    assert [line.split(": ", 1)[1] for line in failed] == [
        "exit 1, no such shape",
        "exit 0, nothing on standard error",
        "exit 1, ZeroDivisionError: division by zero",
    ]
    assert "Broken failed: exit 1, no such shape" in capsys.readouterr().err


def test_the_status_is_0_when_all_is_well(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.md"
    assert tables.write(out, [script("Fine", "print('| a |')")], tmp_path / "none") == 0
    assert "nothing on this machine yet" in out.read_text()


def test_the_header_says_what_made_the_file_and_where() -> None:
    text = tables.header()
    assert "is generated" in text
    assert "`python -m benchmarks tables`" in text
    assert f"| torch | {version('torch')} |" in text
    assert f"| Python | {platform.python_version()} |" in text
    assert HERE["cpu"] in text
    assert "neural-tangents==" in text


def test_guards_are_those_of_the_newest_commit_on_this_machine(tmp_path: Path) -> None:
    file_result(tmp_path, "a", [1.0, 2.0], date=1)
    file_result(tmp_path, "b", [40529920, 0.123456], date=3)
    file_result(tmp_path, "c", [5.0, 6.0], date=2)
    file_result(tmp_path, "d", [7.0, 8.0], date=4, machine="other", ram="1")
    text = guards_table.guards_section(tmp_path)
    assert "at commit bbbbbbbb." in text
    assert f"| `{GUARD}('2AF')` | 40,529,920 |  |" in text
    assert f"| `{GUARD}('other')` | 0.1235 |  |" in text


def test_a_guard_that_failed_or_was_skipped_says_so(tmp_path: Path) -> None:
    file_result(tmp_path, "a", [None, float("nan")])
    text = guards_table.guards_section(tmp_path)
    assert "('2AF')` | failed |" in text
    assert "('other')` | skipped |" in text


def test_a_guard_stands_beside_its_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floors = tmp_path / "floors.json"
    floors.write_text(f'{{"{GUARD}(\'2AF\')": {{"at_most": 2.5, "because": "…"}}}}')
    monkeypatch.setattr(guards_table, "FLOORS", floors)
    file_result(tmp_path, "a", [1.0, 2.0])
    assert f"| `{GUARD}('2AF')` | 1 | 2.5 |" in guards_table.guards_section(tmp_path)


def test_a_broken_result_is_left_out(tmp_path: Path) -> None:
    file_result(tmp_path, "a", [1.0, 2.0])
    (tmp_path / "chosen" / "bbbbbbbb-env.json").write_text("{")
    assert "at commit aaaaaaaa." in guards_table.guards_section(tmp_path)


def test_the_commands_of_the_sections_are_there() -> None:
    for section in tables.sections(["2AF"], 1.0):
        option, package, *arguments = section.arguments
        assert (option, package) == ("-m", "benchmarks")
        assert callable(build_parser().parse_args(arguments).carry_out)


def test_the_page_has_the_sentences_of_its_generator(tmp_path: Path) -> None:
    """Numbers aside: the title, the rows of the header, the sections' texts and commands, the columns, the guards."""
    page = tables.PAGE.read_text(encoding="utf-8")
    title, rows = tables.header().split("\n|  |  |\n|---|---|\n")
    assert page.startswith(f"{title}\n|  |  |\n|---|---|\n")
    for row in rows.splitlines():
        assert f"\n{row.split(' | ')[0]} | " in page
    for section in tables.sections(ntk_table.USUAL, 1.0):
        assert f"\n{section.preface}\n" in page
    for heading in (ntk_table.HEADING, trials_table.HEADING):
        assert f"\n\n{heading}\n" in page
    assert f" | {' | '.join(training_table.COLUMNS)} |\n" in page
    file_result(tmp_path, "a", [1.0, 2.0])
    dated = r" on \S+ at commit [0-9a-f]{8}\."
    sentences = re.split(dated, guards_table.guards_section(tmp_path).split("\n| `")[0])
    assert len(sentences) == 2
    assert re.search(dated.join(map(re.escape, sentences)), page)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--seconds", "0"], "--seconds: expected a positive number of seconds, got '0'"),
        (["--seconds", "nan"], "--seconds: expected a positive number of seconds, got 'nan'"),
        (["--models", "3AF"], "--models: invalid choice: '3AF'"),
        (["--out", "/nowhere/benchmarks.md"], "--out: expected a file in a folder that exists"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tables", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert word in error
