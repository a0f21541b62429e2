"""The report has a row per kernel and target, floors as computed by hand, and one line where Triton is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from hpr_kernels import report
from hpr_kernels.compiled import CAPABILITIES, Specimen


def specimen(**change: object) -> Specimen:
    plain = Specimen(
        name="two products",
        kernel=None,
        arguments={"PRECISION": "tf32", "TILE_M": 64, "BLOCK_K": 32, "a": "*fp32"},
        grid=(1,),
        num_warps=4,
        num_stages=1,
        flops=int(494.7e6),
        bytes=3_350_000,
    )
    return replace(plain, **change)


@pytest.mark.parametrize(
    ("change", "floor"),
    [
        ({}, (1e-6, "memory")),
        ({"flops": int(2 * 494.7e6)}, (2e-6, "compute")),
        ({"arguments": {"PRECISION": "tf32x3"}}, (3e-6, "compute")),
        ({"arguments": {}, "flops": 0}, (1e-6, "memory")),
    ],
    ids=["balanced", "compute", "three products", "copy"],
)
def test_floor(change: dict[str, object], floor: tuple[float, str]) -> None:
    got = report.floor(specimen(**change))
    assert got == (pytest.approx(floor[0], rel=1e-6), floor[1])


def test_every_operation_with_a_kernel_is_listed() -> None:
    pytest.importorskip("triton")
    operations = {found.kernel.fn.__module__.split(".")[1] for found in report.specimens()}
    assert operations == {"gram", "recurrence", "loss", "trials", "update"}
    names = [found.name for found in report.specimens()]
    assert len(set(names)) == len(names)


def test_a_line_of_the_table() -> None:
    """The smallest kernel is compiled for every target."""
    pytest.importorskip("triton")
    from hpr_kernels.trials import triton

    (first, *_) = triton.specimens()
    lines = [dict(zip(report.COLUMNS, row, strict=True)) for row in report.rows([first])]
    assert [line["target"] for line in lines] == [f"{c / 10:.1f}" for c in CAPABILITIES]
    for line in lines:
        assert line["kernel"] == first.name
        assert line["tile"] == "32 x 4 x 1, 4 warps"
        assert line["spills"] == "0"
        assert int(line["registers"]) > 0
        assert line["bytes"] == "1.02e+04"
        assert line["bound"] == "memory"


@pytest.mark.parametrize(
    ("setup", "environment"),
    [("sys.modules['triton'] = None;", {}), ("", {"HPR_KERNELS_BACKEND": "interpret"})],
    ids=["missing", "interpreting"],
)
def test_one_line_where_nothing_can_be_compiled(setup: str, environment: dict[str, str]) -> None:
    run = f"import sys; {setup} from hpr_kernels import report; sys.exit(report.main())"
    done = subprocess.run(
        [sys.executable, "-c", run],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("CPU: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr.startswith("hpr_kernels.report: expected a Triton that compiles: ")
    assert done.stderr.count("\n") == 1


def test_what_serves_the_cpu_is_one_line_and_nothing_is_compiled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "rows", None)
    assert report.main(["--cpu"]) == 0
    said = capsys.readouterr().out
    assert said == f"CPU: {report.library.served_by()}\n"
    for words, status, told in ((["--help"], 0, "--cpu"), (["3"], 2, "unrecognized arguments: 3")):
        with pytest.raises(SystemExit) as stopped:
            report.main(words)
        assert stopped.value.code == status
        assert told in "".join(capsys.readouterr())


def test_a_reader_that_has_gone_ends_the_process_without_a_word() -> None:
    """The reader closes the pipe, as `| head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hpr_kernels.report"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_stream_that_is_not_utf_8_gets_the_table() -> None:
    """The header holds a µ, which ASCII cannot encode."""
    pytest.importorskip("triton")
    run = (
        "import sys, hpr_kernels.report as r; r.specimens = lambda: r.importlib.import_module("
        "'hpr_kernels.trials.triton').specimens()[:1]; sys.exit(r.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", run],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"floor on H100, \\xb5s" in done.stdout
