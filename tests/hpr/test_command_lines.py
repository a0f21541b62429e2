"""A mistyped command line gives one line and exit status 2, or what was asked for, and never a traceback."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import hpr
from hpr import command_line, run
from hpr.command_line import Parser
from hpr.connectivity import cave
from hpr.reproduce import build_parser, main
from hpr.system.paths import cache_folder

# These modules, those of benchmarks too, parse their command lines with the package's own parser.
MODULES = (
    "hpr.reproduce", "hpr.run", "hpr.rerun", "hpr.store verify", "hpr.store merge", "hpr.store export",
    "hpr.store gc", "hpr.connectivity.cave", *(
        f"benchmarks.__main__ {command}"
        for command in ("tables", "gate", "planner", "gpu", "peers ntk", "peers training", "peers tasks")
    ),
)  # fmt: skip
# These options take any text, but no path.
NAMES = {"--figure", "--device", "--task", "new", "old"}


class Parsed(Exception):
    """This carries a parser that was made and has not parsed yet."""


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> Parser:
    """The parser of a module's `main`, or of the command that the words after the module name."""
    module, *words = command.split()
    parse, above = Parser.parse_known_args, len(words)

    def stop(parser: Parser, *arguments: Any) -> Any:
        nonlocal above
        if above:
            above -= 1
            return parse(parser, *arguments)
        raise Parsed(parser)

    monkeypatch.setattr(Parser, "parse_known_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed) as stopped:
        importlib.import_module(module).main()
    monkeypatch.undo()
    return stopped.value.args[0]


def paths(parser: Parser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.type is command_line.path]


@pytest.mark.parametrize("module", MODULES)
def test_whatever_takes_a_path_takes_it_as_a_shell_does(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        names = {*action.option_strings, action.dest}
        if action.type in (None, str, Path) and action.nargs != 0 and not action.choices:
            assert names & NAMES, f"{names}: expected its own type, or a name that is no path's"
    monkeypatch.setenv("HOME", str(tmp_path))
    for action in paths(parser):
        for text, expected in (
            ("~/results", tmp_path / "results"),
            ("~", tmp_path),
            ("~root/x", Path("~root/x").expanduser()),
            ("a~b/~c", Path("a~b/~c")),
        ):
            assert parser._get_value(action, text) == expected
        for text in ("~no such user/x", "", "a\0b"):
            with pytest.raises(argparse.ArgumentError, match="expected a path"):
                parser._get_value(action, text)


def test_the_command_lines_that_take_paths_are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [len(paths(parser_of(module, monkeypatch))) for module in MODULES]
    assert counts == [3, 3, 3, 1, 2, 3, 1, 1, 2, 1, 1, 0, 0, 0, 0]


def test_no_command_line_goes_without_the_packages_parser() -> None:
    """The package's parser writes each error as one line, in characters that every stream accepts."""
    bare = [
        path
        for path in Path(hpr.__file__).parent.rglob("*.py")
        if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8")
    ]
    assert bare == []


CACHE = {
    "HPR_CACHE": [
        ({"HPR_CACHE": "~/mine"}, "home/mine"),
        ({"HPR_CACHE": "~root/mine"}, "~root/mine"),
        ({"HPR_CACHE": "mine", "XDG_CACHE_HOME": "/x"}, "mine"),
    ],
    "XDG_CACHE_HOME": [
        ({"XDG_CACHE_HOME": "~/mine"}, "home/mine/hpr"),
        ({"XDG_CACHE_HOME": "~root/mine"}, "~root/mine/hpr"),
        # The XDG specification demands an absolute path.
        ({"XDG_CACHE_HOME": "mine"}, "home/.cache/hpr"),
        ({"XDG_CACHE_HOME": "~no such user/x"}, "home/.cache/hpr"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/hpr"),
    ],
    "none": [({}, "home/.cache/hpr")],
}


@pytest.mark.parametrize("cases", CACHE.values(), ids=CACHE.keys())
def test_every_variable_that_is_a_path_is_taken_as_a_shell_does(
    cases: list[tuple[dict[str, str], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variables, expected in cases:
        for name in ("HPR_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        home = expected.startswith("home/")
        assert cache_folder() == (tmp_path / expected if home else Path(expected).expanduser())


def test_no_other_variable_is_a_path() -> None:
    found = set()
    for path in Path(hpr.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', source))
    # The last two are Matplotlib's own folder and a number.
    assert found == {"HPR_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "OMP_NUM_THREADS"}


def test_an_unknown_user_in_hpr_cache_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPR_CACHE", "~no such user/cache")
    with pytest.raises(SystemExit) as ended:
        main(["--figure", "1", "--dry-run", "--device", "cpu", "--out", str(tmp_path)])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "HPR_CACHE: expected a path whose ~ is a known home, got '~no such user/cache'"
    )


def test_without_a_home_the_cache_is_a_temporary_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HPR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    # For a user number that the system's table lacks, `expanduser` returns the path unchanged.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder()
    assert (folder.parent, folder.exists()) == (tmp_path, False)
    folder.mkdir()
    assert cache_folder() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(OSError, match="is not a folder of yours: set HPR_CACHE"):
        cache_folder()


# The mistyped lines consist of these: 2,000 for hpr.reproduce, 10,000 nightly, and 1,000 for hpr.connectivity.cave.
ODD = (
    "", " ", "-", "--", "---", "-1", "0", "1", "2", "6", "007", "1.5", "1e3", "nan", "inf", "٣", "１", "9" * 7,
    "9" * 30, "9" * 5000, "None", "True", "theory", "18", "99", "figure 1", "cpu", "cuda", "cuda:1", "cuda:" + "9" * 30,
    "cuda:-1", "quick", "paper", "Paper", "released", "2.3", "0.0.2", ".", "/", "/dev/null", "/dev/null/x", "~",
    "~/x", "~nosuchuser", "~nosuchuser/x", "a\0b", "\0", "x" * 5000, "\udcff\udcfe", "für", "κ\n2", "\x1b[31m", "%s",
    "%(prog)s", "{0}", "\u2028", "@file", "results", "*", "$HOME", "\N{PILE OF POO}",
)  # fmt: skip


WRONG = ("--nope", "-x", "--out-dir", "--Seeds", "-seeds", "--no-list")
# Most lines ask for something that is cheap to plan, so that they reach all of the command.
BEGINNINGS = (
    *[["--figure", name] for name in ("16", "18", "theory")] * 5,
    *[["--figure", name] for name in ("1", "17", "19")],
    ["--figure"], ["--list", "--all"], [],
)  # fmt: skip


def pieces(parser: Parser) -> st.SearchStrategy[list[str]]:
    """Draw options with values, each right or wrong, in one word or two, whole or cut short, and each alone."""
    names = [name for action in parser._actions for name in action.option_strings]
    # Help is no error and fills a page, and to list everything takes long.
    names = [name for name in names if name not in ("-h", "--help", "--all", "--list")]
    short = [name[:n] for name in names for n in (3, 4, 6) if n < len(name)]
    options = st.sampled_from([*names, *names, *names, *short, *WRONG])
    choices = [str(one) for action in parser._actions for one in action.choices or ()]
    values = st.sampled_from((*ODD, *choices, *choices)) | st.text(max_size=8)
    return st.one_of(
        st.tuples(options, values).map(list),
        st.tuples(options, values).map(lambda pair: ["=".join(pair)]),
        options.map(lambda option: [option]),
        values.map(lambda value: [value]),
    )


def lines(parser: Parser, beginnings: Sequence[list[str]]) -> st.SearchStrategy[list[str]]:
    rest = st.lists(pieces(parser), min_size=1, max_size=3)
    return st.builds(
        lambda first, rest: [word for piece in (first, *rest) for word in piece],
        st.sampled_from(beginnings),
        rest,
    )


@contextlib.contextmanager
def narrow() -> Iterator[tuple[Callable[[], str], Callable[[], str]]]:
    """Redirect output and errors to streams of ASCII, and yield functions that return what was written to each."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]

    def read(stream: io.TextIOWrapper) -> str:
        stream.flush()
        raw = stream.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode("ascii")

    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield lambda: read(streams[0]), lambda: read(streams[1])


def endures(command: Callable[[], int | None]) -> None:
    with narrow() as (said, complained):
        try:
            status = command()
        except SystemExit as end:
            status = end.code  # type: ignore[assignment]
        if status == 0:
            assert (bool(said()), complained()) == (True, "")
        else:
            assert status == 2
            # `splitlines` splits where a terminal would, so no character in the message may break the line.
            assert len(complained().splitlines()) == 1, complained()


def unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be trained")


@pytest.fixture
def empty_place(
    tmp_path: Path, empty_cache: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The test has no card, and has a working folder, home and cache of its own, which stay empty."""
    monkeypatch.setattr("hpr.system.devices.may_have_card", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--out", "--o", "--task-version", "--seeds", "--em-dir"])
def test_an_option_that_equals_a_separator_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse of Python 3.10 to 3.12 turns `--` into an empty list, past the option's type and choices."""
    with pytest.raises(SystemExit) as ended:
        main(["--figure", "18", "--dry-run", f"{option}=--"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"hpr.reproduce: error: argument {option}: expected one argument, got '--'"


@pytest.mark.usefixtures("empty_place")
@pytest.mark.parametrize("batches", [400, pytest.param(2000, marks=pytest.mark.nightly)])
def test_thousands_of_bad_command_lines_are_a_line_or_a_listing(batches: int) -> None:
    parser = build_parser()

    @settings(
        max_examples=batches, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(lines(parser, BEGINNINGS), min_size=5, max_size=5))
    def check(batch: list[list[str]]) -> None:
        for line in batch:
            # A valid line must do nothing, so every line is a dry run.
            endures(lambda line=line: main(["--dry-run", *line], train=unreachable))

    check()


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("batches", [40, pytest.param(1000, marks=pytest.mark.nightly)])
def test_hundreds_of_bad_command_lines_of_a_sweep_are_a_line_or_a_forecast(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NeuroGym imports matplotlib, which makes folders in a new home, so the home is not a new one here.
    monkeypatch.setattr("hpr.system.devices.may_have_card", lambda: False)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    parser = run.build_parser()
    task = ["--task", "pattern generation", "--batch", "1"]

    @settings(
        max_examples=batches, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(
        st.lists(
            lines(parser, [task, task, [*task, "--rank", "1", "2"], []]), min_size=5, max_size=5
        )
    )
    def check(batch: list[list[str]]) -> None:
        for line in batch:
            endures(lambda line=line: run.main(["--dry-run", *line], train=unreachable))

    check()
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("empty_place")
def test_a_thousand_bad_command_lines_of_the_fetching_are_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'caveclient'")

    parser = parser_of("hpr.connectivity.cave", monkeypatch)
    monkeypatch.setattr(cave, "fetch", fetch)
    monkeypatch.setattr("hpr.system.devices.may_have_card", lambda: False)
    monkeypatch.chdir(os.environ["HOME"])

    @settings(max_examples=1000, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(lines(parser, [[], ["folder"], ["~nosuchuser"]]))
    def check(line: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cave", *line])
            endures(cave.main)

    check()
