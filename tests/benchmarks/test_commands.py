"""`python -m benchmarks`: help measures nothing, a bad line is one line and status 2, and commands are run by name."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import COMMANDS, PEERS, main
from hpr.command_line import UsageError

WORDS = {
    **{(name,): command for name, command in COMMANDS.items()},
    **{("peers", name): command for name, command in PEERS.items()},
}
EVERY = pytest.mark.parametrize("words", WORDS, ids=" ".join)


@pytest.fixture
def ran(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What the command was run with, in place of running it."""
    found: list[argparse.Namespace] = []
    module = importlib.import_module(WORDS[words].module)
    monkeypatch.setattr(module, "run", lambda arguments: found.append(arguments))
    return found


@EVERY
def test_a_command_is_run_by_its_name(words: tuple[str, ...], ran: list[Any]) -> None:
    assert main([*words]) == 0
    assert len(ran) == 1


@EVERY
def test_help_measures_nothing(
    words: tuple[str, ...], ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert (ended.value.code, ran) == (0, [])
    assert capsys.readouterr().out.startswith(f"usage: benchmarks {' '.join(words)} [-h]")


@EVERY
def test_an_unknown_option_is_one_line(
    words: tuple[str, ...], ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--nope"])
    assert (ended.value.code, ran) == (2, [])
    [line] = capsys.readouterr().err.splitlines()
    assert line == "benchmarks: error: unrecognized arguments: --nope"


@EVERY
def test_a_command_cannot_be_run_past_the_parser(words: tuple[str, ...]) -> None:
    """Of the modules of commands only the gate's does anything when run itself: it fails."""
    source = Path(importlib.import_module(WORDS[words].module).__file__ or "").read_text("utf-8")
    assert ("__main__" in source) == (words == ("gate",))


def test_the_gate_run_by_its_module_does_not_pass() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gate"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected `python -m benchmarks gate`" in done.stderr


def test_the_help_lists_the_commands_and_imports_none_of_them() -> None:
    """It does so in an interpreter that can import neither torch nor asv."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['asv'] = None;"
        "from benchmarks.__main__ import main; main(sys.argv[1:])"
    )
    for words, listed in (((), (*COMMANDS, "peers")), (("peers",), PEERS)):
        line = [sys.executable, "-c", code, *words, "--help"]
        done = subprocess.run(line, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.findall(r"^    ([\w-]+)", done.stdout, re.M) == [*listed]


@pytest.mark.parametrize(("words", "said"), [([], "benchmarks"), (["peers"], "benchmarks peers")])
def test_no_command_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"{said}: error: the following arguments are required: COMMAND"


@pytest.mark.parametrize("error", [UsageError("--x: expected y,\ngot z"), FileNotFoundError("z")])
def test_what_a_command_cannot_do_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("benchmarks.planner"), "run", fail)
    try:
        status = main(["planner"])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == (2 if isinstance(error, UsageError) else 1)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks planner: error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["peers", "training", "--task", "sDigits"], "--task: expected one with a class at every"),
        (["peers", "training", "--task", "nope"], "--task: version: expected"),
        (["peers", "training", "--networks", "0"], "argument --networks: expected an integer"),
        (["peers", "ntk", "--models", "3AF"], "argument --models: invalid choice: '3AF'"),
        (["peers", "ntk", "--limit", "inf"], "argument --limit: expected a positive number"),
        (["planner", "--shapes", "0"], "argument --shapes: expected an integer"),
        (["planner", "--seed", "-1"], "argument --seed: expected"),
    ],
)
def test_a_bad_argument_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    [line] = capsys.readouterr().err.splitlines()
    assert f": error: {said}" in line
