"""Command lines run in child processes without a home, a user's name, room on the disk or a wide encoding."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import hpr

HEAVY = (
    "torch",
    "matplotlib",
    "scipy",
    "neurogym",
    "gymnasium",
    "tqdm",
    "pooch",
    "hpr.figures.draw",
)
SMALL = ["--figure", "17", "--seeds", "1", "--iterations", "2", "--device", "cpu"]
LIGHT = {
    "help": ["--help"],
    "list": ["--list"],
    "list as JSON": ["--list", "--json", "--profile", "paper"],
    "dry run": ["--all", "--dry-run"],
    "dry run, untimed": [
        "--all",
        "--dry-run",
        "--untimed",
        "--device",
        "cpu",
        "--profile",
        "paper",
    ],
}
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="uses Linux's namespaces and capabilities"
)


def surroundings(**more: str) -> dict[str, str]:
    """Return the smallest environment in which the package is found, and `more` variables."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


def call(
    arguments: Sequence[str | bytes],
    cwd: Path,
    environment: dict[str, str],
    before: str = "",
    module: str = "hpr.reproduce",
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line; `before` is a program that the child runs before it becomes the command."""
    command = [sys.executable, *options, "-m", module, *arguments]
    if before:
        become = f"{before}\nimport os, sys\nos.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", become, *command]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=300)


# This user has no passwd entry, though the files are still its own.
STRANGER = """
import ctypes, os, sys
user = os.getuid()
if ctypes.CDLL(None).unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit(77)
open("/proc/self/uid_map", "w").write(f"12345 {user} 1")
"""
# Without these capabilities, permissions hold for the superuser too.
BOUND = """
import ctypes, os
if os.getuid() == 0:
    for capability in (1, 3):  # CAP_DAC_OVERRIDE, CAP_FOWNER
        assert not ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
"""
# Files cannot grow beyond a size, as on a full disk.
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a small reproduction."""
    folder = tmp_path_factory.mktemp("trained")
    done = call([*SMALL, "--out", "out"], folder, surroundings(HOME=str(folder)))
    assert (done.returncode, done.stderr) == (0, b"")
    return folder / "out"


def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "out"))


def files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*"))


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT.keys())
def test_what_only_lists_imports_numpy_alone(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from hpr.reproduce import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    status = main()\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"found = set({HEAVY!r}) & set(sys.modules)\n"
        "assert (status, found) == (0, set()), (status, found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=surroundings(HOME=str(tmp_path)), capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "theory" in done.stdout or "--dry-run" in done.stdout
    assert files(tmp_path) == []


@pytest.mark.parametrize("module", ["hpr.reproduce", "hpr.connectivity.cave"])
def test_a_command_line_with_torch_alone_names_what_is_missing(module: str) -> None:
    """NumPy is missing, as after an install of the kernels: torch can do without it."""
    run = f"import runpy, sys; sys.modules['numpy'] = None; sys.argv = ['-m']; runpy.run_module('{module}')"
    done = subprocess.run(
        [sys.executable, "-c", run], env=surroundings(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("hpr: expected numpy, which is not installed; install what hpr needs: ")
    assert "neurogym" in line


def test_a_listing_tells_minutes(tmp_path: Path) -> None:
    done = call(["--list", "--json"], tmp_path, surroundings(HOME=str(tmp_path)))
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert figures["16"]["seconds"] == figures["theory"]["seconds"] == 0
    rates = {
        round(figure["flops"] / figure["seconds"]) for figure in figures.values() if figure["flops"]
    }
    # All figures use one rate, between those of an old laptop's core and a large server.
    assert max(rates) - min(rates) <= 1
    assert 1e9 < min(rates) < 1e14
    plain = call(["--list"], tmp_path, surroundings(HOME=str(tmp_path))).stdout.decode()
    first = plain.splitlines()[0]
    assert ": 90 runs, about " in first
    assert "FLOP" not in first
    assert first.split("about ")[1].split(",")[0].split()[1] in ("s", "min", "h")


@linux
@pytest.mark.parametrize("arguments", [*LIGHT.values(), SMALL], ids=[*LIGHT.keys(), "small"])
@pytest.mark.nightly
def test_a_user_without_a_home_and_a_name_is_served(arguments: list[str], tmp_path: Path) -> None:
    """In some containers a user is only a number; the run needs only a temporary folder and leaves it as it was."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = surroundings(TMPDIR=str(temporary))
    done = call(arguments, tmp_path, environment, STRANGER)
    if done.returncode == 77:
        pytest.skip("this system forbids user namespaces, in which a process is nobody it knows")
    assert (done.returncode, done.stderr) == (0, b"")
    if arguments is SMALL:
        assert (tmp_path / "results" / "figure_17.pdf").is_file()
        assert b"2 runs: 2 finished, 0 failed\n" in done.stdout
    # PyTorch makes a folder of its own in the temporary one.
    assert [path for path in files(temporary) if "torchinductor" not in path.name] == []


def test_a_listing_and_a_dry_run_write_nothing_anywhere(tmp_path: Path) -> None:
    """Neither keeps the connectome that it is given."""
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "cells.csv").write_text(
        "pt_root_id,classification_system\n7,e\n8,i\n9,e\n", encoding="utf-8"
    )
    (tables / "synapses.csv").write_text(
        "pre_pt_root_id,post_pt_root_id,size\n7,8,1\n8,9,2\n9,7,3\n", encoding="utf-8"
    )
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "HPR_CACHE", "XDG_CACHE_HOME")}
    for name in ("HOME", "TMPDIR"):
        places[name].mkdir()
    environment = surroundings(**{name: str(place) for name, place in places.items()})
    before = files(tmp_path)
    for arguments in (
        ["--list"],
        ["--all", "--dry-run", "--untimed"],
        ["--figure", "2", "19", "--dry-run"],
    ):
        done = call(
            [*arguments, "--em-dir", str(tables), "--out", str(tmp_path / "out")],
            tmp_path, environment,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
    assert b"x 2AF, N = 3, " in done.stdout
    assert files(tmp_path) == before


NARROW = {
    "C, no coercion": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII streams": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C.UTF-8"},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
}
NAMES = {"not ASCII": "Ergebnisse für κ".encode(), "no UTF-8": b"out-\xff\xfe"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("narrow", NARROW.values(), ids=NARROW.keys())
def test_no_name_of_a_folder_breaks_the_output(
    narrow: dict[str, str], name: bytes, tmp_path: Path
) -> None:
    environment = surroundings(HOME=str(tmp_path), **narrow)
    out = tmp_path / os.fsdecode(name)
    options = ["-X", "warn_default_encoding"]
    for arguments, status in (
        (["--all", "--dry-run", "--untimed", "--out", os.fsencode(out)], 0),
        (["--all", "--dry-run", "--mnist-dir", os.fsencode(out)], 2),
        (["--all", "--dry-run", "--em-dir", os.fsencode(out)], 2),
        (["--figure", name], 2),
    ):
        done = call(arguments, tmp_path, environment, options=options)
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (status == 2), done.stderr
    done = call([os.fsencode(out)], tmp_path, environment, module="hpr.connectivity.cave")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_reproduction_into_a_folder_with_any_name_tells_failures_in_it(
    trained: Path, tmp_path: Path
) -> None:
    """The summaries name a record that can't be read, whatever bytes are in its folder's name."""
    out = tmp_path / os.fsdecode(NAMES["no UTF-8"])
    environment = surroundings(HOME=str(tmp_path), **NARROW["ASCII streams"])
    arguments = [*SMALL, "--out", os.fsencode(out)]
    shutil.copytree(trained, out)
    record = next((out / "runs").glob("*.json"))
    record.unlink()
    record.mkdir()
    done = call(arguments, tmp_path, environment)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert rb"out-\udcff\udcfe" in line
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert str(record) in summary["failures"][0]["reason"]
    assert r"out-\udcff\udcfe" in (out / "summary.md").read_text(encoding="utf-8")


def test_every_text_file_and_pipe_names_its_encoding() -> None:
    nameless = []
    for path in sorted(Path(hpr.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            )
            named = {keyword.arg for keyword in node.keywords}
            modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
            binary = any(isinstance(mode, str) and "b" in mode for mode in modes[-1:])
            text = name in ("read_text", "write_text") or {"text", "universal_newlines"} & named
            opens = name in ("open", "opener", "fdopen") and getattr(
                getattr(function, "value", None), "id", ""
            ) not in ("os", "webbrowser", "archive")
            if (text or (opens and not binary)) and "encoding" not in named:
                nameless.append(f"{path}:{node.lineno}")
    assert nameless == []


@linux
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["--list"], ["--help"]], ids=["list", "help"])
def test_output_on_a_full_disk_is_one_line(
    arguments: list[str], buffered: bool, tmp_path: Path
) -> None:
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "hpr.reproduce", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, cwd=tmp_path, env=surroundings(HOME=str(tmp_path)), stdout=full,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    if arguments == ["--help"] and not buffered:
        # argparse itself ignores that its help could not be written.
        assert done.stderr == b""
        return
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert b"No space left on device" in line


@linux
def test_a_folder_that_may_not_be_written_is_one_line_and_loses_nothing(
    trained: Path, tmp_path: Path
) -> None:
    out = copied(trained, tmp_path)
    environment = surroundings(HOME=str(tmp_path))
    before = {path: path.read_bytes() for path in files(out) if path.is_file()}
    # One more seed must write its record; a repeated call must write its pictures.
    more = [*SMALL, "--seeds", "2"]
    for closed, arguments, status in ((out / "runs", more, 2), (out, SMALL, 1)):
        closed.chmod(0o555)
        try:
            done = call([*arguments, "--out", str(out)], tmp_path, environment, BOUND)
        finally:
            closed.chmod(0o755)
        assert done.returncode == status, done.stderr
        lines = done.stderr.decode().splitlines()
        assert all(line.startswith("hpr.reproduce: ") for line in lines), lines
        assert len(lines) == (1 if status == 2 else 2)
        assert all("Permission denied" in line for line in lines)
    assert {path: path.read_bytes() for path in files(out) if path.is_file()} == before


@linux
def test_a_full_disk_is_a_line_a_file_and_loses_nothing(trained: Path, tmp_path: Path) -> None:
    """There is room for records, but for no picture."""
    out = copied(trained, tmp_path)
    environment = surroundings(HOME=str(tmp_path), MPLCONFIGDIR=str(tmp_path / "matplotlib"))
    (tmp_path / "matplotlib").mkdir()
    before = {path: path.read_bytes() for path in files(out) if path.is_file()}
    done = call([*SMALL, "--out", str(out)], tmp_path, environment, FULL)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    refused = f"OSError: [Errno 27] File too large: '{out / 'figure_17.png'}'"
    assert lines == [f"hpr.reproduce: failed: figure 17: {refused}"], lines
    assert b"NOT DONE after" in done.stdout
    after = {path: path.read_bytes() for path in files(out) if path.is_file()}
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"summary.md", "summary.json"}
    assert set(after) == set(before)


@pytest.mark.parametrize("place", ["figure_17.png", "summary.md", "figure_17.json"])
def test_a_folder_in_a_files_place_is_one_line(place: str, trained: Path, tmp_path: Path) -> None:
    out = copied(trained, tmp_path)
    (out / place).unlink()
    (out / place).mkdir()
    done = call([*SMALL, "--out", str(out)], tmp_path, surroundings(HOME=str(tmp_path)))
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("hpr.reproduce: failed: ")
    assert "Is a directory" in line
    assert not list(out.glob(".*.tmp"))
