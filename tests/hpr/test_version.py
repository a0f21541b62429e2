"""`python -m hpr.reproduce --version`: what a report of a bug needs, as a record of the same process has it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hpr
from hpr.experiment import provenance
from hpr.reproduce import main

PROGRAM = """
import sys
from hpr.reproduce import main
assert main(["--version"]) == 0
heavy = {"torch", "triton", "scipy", "matplotlib", "neurogym"} & set(sys.modules)
assert not heavy, heavy
"""


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["--version"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return dict(line.split(" ", 1) for line in out.splitlines())


def test_a_record_and_the_command_line_name_the_same_versions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys)
    record = provenance.provenance(torch.device("cpu"), "torch")
    assert list(lines) == [
        *("hpr", "python", *provenance.DISTRIBUTIONS),
        *("platform", "CUDA", "commit"),
    ]
    named = {name: lines[name] for name in ("python", *provenance.DISTRIBUTIONS)}
    assert {k: v for k, v in named.items() if v != "not installed"} == record["versions"]
    assert lines["hpr"] == hpr.__version__
    assert torch.__version__.startswith(lines["torch"].partition("+")[0])
    assert platform.machine() in lines["platform"]
    assert lines["commit"] == record["git"] or record["git"] is None


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "DISTRIBUTIONS", ("torch", "no-such-distribution"))
    monkeypatch.setattr(provenance, "git_commit", lambda: None)
    lines = printed(capsys)
    assert lines["no-such-distribution"] == "not installed"
    assert lines["commit"] == "unknown: not a git checkout"
    assert "no-such-distribution" not in provenance.versions()


@pytest.mark.parametrize("card", [False, True])
def test_a_card_is_possible_where_driver_and_build_are_there(
    card: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "may_have_card", lambda: card)
    assert printed(capsys)["CUDA"].startswith("driver, and" if card else "no driver, or")


def test_neither_torch_nor_a_folder_is_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"hpr {hpr.__version__}\n")
    assert list(tmp_path.iterdir()) == []
