"""These tests check the command line before anything runs: what it lists and plans, on which data, at what cost."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpr.experiment import plan as planning
from hpr.figures import Settings, discover
from hpr.figures.data_choice import choose_smnist
from hpr.reproduce import main

pytestmark = pytest.mark.usefixtures("empty_cache")


def unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be trained")


@pytest.mark.parametrize(
    ("profile", "download", "downloads", "task"),
    [
        ("quick", True, 0, "sDigits"),
        ("paper", True, 1, "sMNIST"),
        # A listing or a dry run only says what would be done.
        ("paper", False, 0, "sMNIST"),
    ],
)
def test_only_the_paper_profile_downloads(
    profile: str, download: bool, downloads: int, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find_mnist(mnist_dir: Path | None = None, *, download: bool = False) -> Path | None:
        asked.append(download)
        return Path("/cache") if download else None

    monkeypatch.setattr("hpr.tasks.find_mnist", find_mnist)
    chosen, line, content = choose_smnist(None, profile, download=download)
    assert (chosen, content) == (task, None)
    assert sum(asked) == downloads
    assert ("--mnist-dir" in line) == (task == "sDigits")


def test_a_failed_download_stops_unless_the_stand_in_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    argv = [
        "--figure",
        "1",
        "--profile",
        "paper",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as caught:
        main(argv, train=unreachable)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--mnist-dir" in line
    assert "--stand-in" in line
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--stand-in", "--dry-run"], train=unreachable) == 0
    said = capsys.readouterr().out
    assert "sMNIST: replaced by the stand-in sDigits (8 x 8 digits), as asked for" in said
    assert "x sDigits, " in said
    with pytest.raises(SystemExit):
        main([*argv, "--stand-in", "--mnist-dir", str(tmp_path)], train=unreachable)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f"--stand-in: expected without --mnist-dir, got --mnist-dir {tmp_path}")


def test_other_pictures_of_mnists_form_are_never_called_mnist(tmp_path: Path) -> None:
    for stem, size in (("train", 30), ("t10k", 20)):
        for name, shape in (("images-idx3", (size, 28, 28)), ("labels-idx1", (size,))):
            head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
            (tmp_path / f"{stem}-{name}-ubyte").write_bytes(head + bytes(math.prod(shape)))
    chosen, line, content = choose_smnist(tmp_path, "paper", download=True)
    assert chosen == "sMNIST"
    # All pictures and labels are zeros, so this is the SHA-256 of zeros.
    assert content == hashlib.sha256(bytes(50 * 785)).hexdigest()[:16]
    assert line == (
        f"sMNIST: replaced by other pictures than MNIST's own (SHA-256 {content}) in {tmp_path}"
    )


def test_a_synapse_table_stands_where_the_paper_has_electron_microscopy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells.csv").write_text("pt_root_id,classification_system\n7,e\n8,i\n9,e\n")
    (tmp_path / "synapses.csv").write_text(
        "pre_pt_root_id,post_pt_root_id,size\n7,8,1\n8,9,2\n9,7,3\n9,10,5\n"
    )
    argv = ["--figure", "19", "--device", "cpu", "--dry-run", "--out", str(tmp_path / "out")]
    assert main([*argv, "--em-dir", str(tmp_path)], train=unreachable) == 0
    said = capsys.readouterr().out
    assert f"EM: the 3 cells in {tmp_path}; 3 of 4 synapses are between them\n" in said
    # A dry run writes nothing, not even into the cache.
    assert not (tmp_path / "cache").exists()
    assert "18 x 2AF, N = 3, " in said
    assert main(argv, train=unreachable) == 0
    said = capsys.readouterr().out
    assert "EM: replaced by the stand-in C. elegans" in said
    assert "18 x 2AF, N = 297, " in said


def test_a_listing_gives_runs_cost_and_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--json", "--device", "cpu"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [figure["name"] for figure in listed["figures"]] == list(discover())
    first = listed["figures"][0]
    assert first["runs"] == 90
    assert 1.5e13 < first["flops"] < 3e13
    assert len(first["claims"]) == 16
    assert {"panel", "measure", "kind", "says", "levels", "was"} == set(first["claims"][0])
    assert main(["--list", "--device", "cpu"]) == 0
    assert "90 runs" in capsys.readouterr().out


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--figure", "1", "--seeds", "2", "--iterations", "3", "--device", "cpu", "--dry-run"]
    argv += ["--out", str(tmp_path / "out")]
    assert main(argv, train=unreachable) == 0
    said = capsys.readouterr().out
    assert "0 runs already in" in said
    assert "30 to train in 4 packs: at most " in said
    # The plan has one line per shape.
    shapes = [line for line in said.splitlines() if line.endswith((" pack", " packs"))]
    assert [line.partition(":")[0] for line in shapes] == [
        *(f"8 x {task}, N = 300, 3 iterations" for task in ("2AF", "DMS", "CXT")),
        "6 x sDigits, N = 300, 3 iterations",
    ]
    assert "not counted" not in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_sums_the_packs_of_a_shape_and_names_what_has_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for size in (20, 3):
        monkeypatch.setattr(planning, "PACK", size)
        argv = ["--figure", "17", "theory", "--device", "cpu", "--seeds", "4", "--dry-run"]
        assert main([*argv, "--out", str(tmp_path)], train=unreachable) == 0
        said = capsys.readouterr().out
        assert "\ntheory: not counted\n" in said
        assert "\n17: not counted\n" not in said
        lines += [line for line in said.splitlines() if line.startswith("8 x 2AF")]
    whole, parts = lines
    assert whole.endswith(" FLOP, 1 pack")
    assert parts == whole.replace("1 pack", "3 packs")


def test_a_dry_run_names_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is in a record's place, so the run counts neither as stored nor as one to train."""
    spec = discover()["17"].runs(Settings(seeds=1))[0]
    (tmp_path / "runs" / f"{spec.key}.json").mkdir(parents=True)
    argv = ["--figure", "17", "--seeds", "1", "--dry-run", "--untimed", "--out", str(tmp_path)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert f"{spec}: " in said
    assert "0 runs already in" in said
    assert "1 unreadable there, 1 to train" in said
    assert "2 of them distinct" in said


def test_a_dry_run_counts_what_figures_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--figure", "2", "17", "--device", "cpu", "--seeds", "3", "--dry-run"]
    assert main([*argv, "--out", str(tmp_path)], train=unreachable) == 0
    # Figures 2 and 17 share the runs of the null.
    assert "33 runs in the figures, 30 of them distinct" in capsys.readouterr().out


def test_the_paper_profile_on_real_mnist_is_planned_without_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--figure", "1", "--profile", "paper", "--device", "cpu", "--dry-run"]
    argv += ["--out", str(tmp_path)]
    assert main(argv, train=unreachable) == 0
    said = capsys.readouterr().out
    assert "sMNIST: to be downloaded" in said
    assert "x sMNIST, N = 300, 10,000 iterations" in said
    assert "150 to train" in said


def test_help_needs_no_heavy_package() -> None:
    program = (
        "import sys\n"
        "from hpr.reproduce import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'matplotlib', 'scipy', 'neurogym', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout
