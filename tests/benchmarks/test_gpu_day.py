"""The day of the card: what was finished is kept, and the probes run under the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_day
from benchmarks.gpu_day import DayStage, run_stages

CPU = torch.device("cpu")


def test_what_was_finished_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [
        DayStage("first", ("-c", "print('one'); print('a | b')"), 30),
        DayStage("fails", ("-c", "raise SystemExit('no such card')"), 30),
        DayStage("slow", ("-uc", "import time; print('begun'); time.sleep(60)"), 2),
        DayStage("last", ("-c", "print('{out}')"), 30),
    ]
    assert run_stages(stages, tmp_path, 60, "a card") == 1
    found = json.loads((tmp_path / "day.json").read_text())
    assert [(stage["status"], stage["last_line"]) for stage in found["stages"]] == [
        ("done", "a | b"),
        ("failed", "no such card"),
        ("out of time", "begun"),
        ("done", str(tmp_path)),
    ]
    page = (tmp_path / "day.md").read_text()
    assert page.startswith("# a card")
    assert "    begun" in page.splitlines()
    assert "| fails | failed |" in page


def test_the_time_ends_the_day(tmp_path: Path) -> None:
    stages = [DayStage(name, ("-c", "import time; time.sleep(60)"), 60) for name in "ab"]
    assert run_stages(stages, tmp_path, 1, "a card") == 0
    found = json.loads((tmp_path / "day.json").read_text())
    assert [stage["status"] for stage in found["stages"]] == ["out of time"]
    assert found["left"] == ["b"]
    assert "Not begun: b." in (tmp_path / "day.md").read_text()


def test_every_stage_is_a_command_of_this_project() -> None:
    """Its files exist, and its options are known to the command's parser."""
    from benchmarks.__main__ import build_parser as benchmarks_parser
    from hpr.reproduce import build_parser as reproduce_parser

    for stage in gpu_day.STAGES:
        module, *words = stage.arguments[1:]
        if module == "pytest":
            named = [word for word in words if word.startswith("tests")]
            assert all((Path(__file__).parents[2] / word).exists() for word in named)
            assert named
        elif module == "benchmarks":
            benchmarks_parser().parse_args(words)
        elif module == "hpr.reproduce":
            reproduce_parser().parse_args(words)
        else:
            assert module == "torch.utils.collect_env"


@pytest.mark.interpreter
def test_the_probes_ask_the_kernels() -> None:
    """The interpreter rounds each product's sum once, to nearest; its errors are those of fp32."""
    from benchmarks import gpu_probes

    assert int(gpu_probes.sum_of_two(CPU, 1)) - 2**24 in (2, 4)
    for line in gpu_probes.rounding(CPU):
        assert "does neither" not in line
    ours, torchs = gpu_probes.sweep_errors(CPU, "tf32x3", R=2, T=3, B=5, N=17)
    assert all(0 < error < 1e-6 for error in (*ours, *torchs))
