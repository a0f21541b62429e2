"""`python -m hpr.rerun`: a record that its run gives again, and those that it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpr.connectivity import Dense, LowRank
from hpr.experiment.inventory import Kept, read_any, with_weights
from hpr.experiment.record import checksum
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.rerun import main
from hpr.tasks import make_task
from hpr.training.loop import train_pack

SMALL = RunSpec("2AF", LowRank(rank=2), seed=0, N=20, iterations=30, trials=16, kernel_trials=4)
TEACHER = replace(SMALL, connectivity=Dense(), seed=1, keep_weights=True)
STUDENT = replace(SMALL, connectivity=Dense(), aligned="features", teacher=TEACHER)


def kept(out: Path, spec: RunSpec, **options: Any) -> Path:
    task = make_task(spec.task, version=spec.task_version, dt=spec.dt)
    [record] = train_pack([spec], task, device=torch.device("cpu"), **options)
    return Store(out).save(record)


def altered(path: Path, to: Path, change: Any) -> Path:
    """A file of the same run with a right checksum, after `change(record)`; weights are inside, as once they were."""
    found = with_weights(read_any(path))
    assert isinstance(found, Kept)
    record = found.record
    change(record)
    to.write_text(json.dumps({**record, "checksum": checksum(record)}))
    return to


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (SMALL, {}),
        (replace(SMALL, checkpoints=3), {"lazy_distance": True}),
        (STUDENT, {}),
        (TEACHER, {}),
    ],
    ids=["usual", "trajectory and lazy distance", "student", "weights"],
)
def test_a_run_gives_its_record_again(
    tmp_path: Path, spec: RunSpec, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept(tmp_path, spec, **options)
    before = path.read_bytes()
    assert main([str(path), "--out", str(tmp_path / "again")]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "equal bit for bit"
    assert told.err == ""
    assert path.read_bytes() == before
    again, once = Store(tmp_path / "again").load(spec), Store(tmp_path).load(spec)
    assert again is not None
    assert once is not None
    assert again["measures"] == once["measures"]


def test_a_difference_is_shown_with_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["curves"]["loss"][0] += 0.5
        record["measures"]["sign_similarity"] = None
        record["weights"]["input"]["float32"] = "AAAA" + record["weights"]["input"]["float32"][4:]
        record["provenance"]["engine"] = "triton"
        record["provenance"]["versions"]["torch"] = "2.0"
        del record["provenance"]["machine"]

    path = altered(kept(tmp_path, TEACHER), tmp_path / "any name", change)
    assert main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 fields differ"
    assert "curves.loss: 1 of 1 entry differs, by at most 0.5" in lines
    assert any(line.startswith("measures.sign_similarity: None and ") for line in lines)
    assert any(
        line.startswith("weights.input: 1 of 60 entries differ, by at most") for line in lines
    )
    engine = next(line for line in lines if "value of engine" in line)
    assert engine.startswith("made with another value of engine: 'triton' and '")
    assert any("made with another value of versions.torch: '2.0' and " in line for line in lines)
    assert not any("machine" in line for line in lines)


def test_zero_and_minus_zero_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kept(tmp_path, SMALL)
    record = json.loads(path.read_bytes())

    def again(*_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{**record, "measures": {**record["measures"], "kernel_alignment": -0.0}}]

    zero = altered(path, tmp_path / "zero", lambda r: r["measures"].update(kernel_alignment=0.0))
    del record["checksum"]
    assert main([str(zero)], train=again) == 1
    assert "measures.kernel_alignment: 0.0 and -0.0, apart by 0" in capsys.readouterr().out


def test_weights_that_are_none_are_compared_as_they_stand(tmp_path: Path) -> None:
    path = kept(tmp_path, TEACHER)
    bad = altered(path, tmp_path / "bad", lambda r: r.update(weights={"input": {"float32": "!"}}))
    assert main([str(bad)]) == 1


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments, **options)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def never(*_: Any, **__: Any) -> list[dict[str, Any]]:
    raise AssertionError("it was trained")


def test_what_cannot_be_rerun_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept(tmp_path, SMALL)
    (tmp_path / "empty").write_text("")
    told = refused([str(tmp_path / "empty")], capsys)
    assert "FILE: expected a valid record" in told
    assert "can't be read: No such file" in refused([str(tmp_path / "none")], capsys)
    told = refused([str(path), "--out", str(tmp_path)], capsys, train=never)
    assert "--out: expected a folder without this run" in told
    told = refused([str(path), "--device", "tpu"], capsys, train=never)
    assert "expected auto, cpu, cuda or cuda:N" in told


@pytest.mark.parametrize("name", ["content", "drawn"])
def test_other_data_than_the_records_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = replace(SMALL, **{name: "0123456789abcdef"})

    def change(record: dict[str, Any]) -> None:
        record.update(spec=foreign.to_dict(), key=foreign.key)

    path = altered(kept(tmp_path, SMALL), tmp_path / "foreign", change)
    told = refused([str(path)], capsys, train=never)
    assert f"{name}: expected '0123456789abcdef'" in told
    assert "got None here" in told
