"""A checkpoint that is damaged, hostile or another's is one warning, and its run starts anew."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from hpr.connectivity import LowRank
from hpr.experiment import checkpoints
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.record import identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training import watch
from hpr.training.loop import Stopped, train_pack

CPU = torch.device("cpu")
SPEC = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=32, batch=8, iterations=130, trials=16, kernel_trials=4,
    checkpoints=3,
)  # fmt: skip


def train(spec: RunSpec = SPEC, **options: Any) -> dict[str, Any]:
    (record,) = train_pack([spec], make_task("2AF"), device=CPU, **options)
    return record


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """A checkpoint within the second window, and the record of an undisturbed run."""
    folder = Checkpoints(tmp_path_factory.mktemp("good"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch, "SECONDS", 0)
        patched.setattr(watch.Watch, "count", lambda self, most, unit: min(most, 13))
        times = iter(range(1000))
        with pytest.raises(Stopped):
            train(checkpoints=folder, stop=lambda: next(times) == 14)
    content = folder.path(SPEC).read_bytes()
    assert 100 < state_of(content)["step"] < 130
    return content, train()


def parts(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    (length,) = struct.unpack("<Q", content[:8])
    text = json.loads(content[8 : 8 + length])["__metadata__"]["hpr"]
    return load(content), json.loads(text)


def state_of(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = parts(content)[1]["state"]
    return state


def sealed(tensors: dict[str, torch.Tensor], content: Any) -> bytes:
    """A file with a right checksum, as one who knows the format can make it."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    digest = checkpoints._digest(text, {k: v for k, v in tensors.items() if v.dtype == torch.float})
    return save(tensors, {"hpr": text, "sha256": digest})


def with_state(**changes: Any) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        tensors, text = parts(content)
        text["state"].update(changes)
        return sealed(tensors, text)

    return changed


def with_content(**changes: Any) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        tensors, text = parts(content)
        return sealed(tensors, {**text, **changes})

    return changed


def with_made_by(**changes: Any) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        tensors, text = parts(content)
        text["made_by"].update(changes)
        return sealed(tensors, text)

    return changed


def with_tensors(**changes: Any) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        tensors, text = parts(content)
        tensors = {k: v for k, v in {**tensors, **changes}.items() if v is not None}
        return sealed(tensors, text)

    return changed


def flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def replaced(content: bytes) -> bytes:
    # A number within the state: the header stays one.
    return content.replace(b'\\"step\\": 1', b'\\"step\\": 0', 1)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "expected a whole safetensors file"),
    "cut": (lambda content: content[:-1], "expected a whole safetensors file"),
    "cut in the header": (lambda content: content[:100], "expected a whole safetensors file"),
    "no file of the kind": (lambda content: b"GIF89a" * 999, "header: expected at most"),
    "a header beyond the file": (
        lambda content: struct.pack("<Q", 2**24) + content[8:], "expected a whole safetensors file"
    ),
    "a huge header": (lambda content: struct.pack("<Q", 2**60) + content[8:], "header: expected at"),
    "a flipped bit": (flipped, "checksum: expected that of the content"),
    "a changed number": (replaced, "checksum: expected that of the content"),
    "no metadata": (lambda content: save(load(content)), "checksum: expected that of the content"),
    "too long": (lambda content: content + bytes(2**26), "expected at most"),
    "another schema": (with_content(schema=2), "schema: expected 1, got 2"),
    "another run": (
        with_content(spec=replace(SPEC, seed=1).to_dict()), "specification: expected that of"
    ),
    "another version": (with_made_by(hpr="0.0.0"), "'hpr': expected '"),
    "another torch": (with_made_by(torch="1.0"), "'torch': expected '"),
    "another engine": (with_made_by(engine="abacus"), "'engine': expected '"),
    "another commit": (with_made_by(git="0" * 40), "'git': expected '"),
    "no makers": (with_content(made_by=3), "made_by: expected versions, got 3"),
    "no state": (with_content(state=[]), "state: expected a dictionary, got"),
    "no JSON": (lambda content: sealed(parts(content)[0], "{"), "not strict JSON"),
    "deep JSON": (lambda content: sealed(parts(content)[0], "[" * 10**5), "not strict JSON"),
    "NaN": (lambda content: sealed(parts(content)[0], '{"schema": NaN}'), "not strict JSON"),
    "a long number": (lambda content: sealed(parts(content)[0], "9" * 9999), "not strict JSON"),
    "another shape": (
        with_tensors(weights=torch.zeros(1, 32, 47)), "'weights': expected [1, 32, 48], got torch.fl"
    ),
    "another type": (
        with_tensors(weights=torch.zeros(1, 32, 48, dtype=torch.int32)),
        "'weights': expected [1, 32, 48], got torch.int32",
    ),
    "another tensor": (with_tensors(more=torch.zeros(1)), "'more': expected no such tensor"),
    "a missing tensor": (with_tensors(velocity=None), "tensors: expected"),
    "missing accuracies": (with_tensors(accuracies=None), "tensors: expected"),
    "a step beyond": (with_state(step=131), "step: expected an integer from 0 to 130, got 131"),
    "a step that is none": (with_state(step=True), "step: expected an integer from 0 to 130, got T"),
    "a window beyond": (with_state(window=101), "window: expected an integer from 0 to 100, got 101"),
    "a window elsewhere": (with_state(window=3), "window: expected one that begins where"),
    "another status": (with_state(status="done"), "status: expected one of a run in training"),
    "a stop within a window": (with_state(status="stopped"), "status: expected one of a run in trai"),
    "no date": (with_state(started=5), "started: expected a date, got 5"),
    "negative time": (with_state(seconds=-1), "seconds: expected a number of at least 0, got -1"),
    "no CPU time": (with_state(cpu_seconds=None), "cpu_seconds: expected a number of at least 0, got"),
    "no curves": (with_state(curves={}), "curves: expected points at [100]"),
    "other curves": (with_state(curves={"iteration": [100]}), "curves: expected ['accuracy', 'iter"),
    "curves of text": (
        with_state(curves={"iteration": [100], "loss": ["x"], "accuracy": [1]}),
        "curves: expected numbers",
    ),
    "curves of two lengths": (
        with_state(curves={"iteration": [100], "loss": [1, 2], "accuracy": [1]}),
        "curves: expected lists of one length",
    ),
    "another trajectory": (with_state(trajectory={"iteration": [0]}), "trajectory: expected ["),
    "no trajectory": (with_state(trajectory=5), "trajectory: expected ["),
    "linearised before its end": (
        with_state(linearised_step=5), "linearised_step: expected an integer from 0 to 0, got 5"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_bad_checkpoint_is_one_line_and_the_run_starts_anew(
    damage: Callable[[bytes], bytes],
    reason: str,
    good: tuple[bytes, dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, whole = good
    folder = Checkpoints(tmp_path)
    damaged = damage(content)
    assert damaged != content
    folder.path(SPEC).write_bytes(damaged)
    passed: list[int] = []
    # One iteration at a time would show in the progress.
    monkeypatch.setattr(watch.Watch, "count", lambda self, most, unit: min(most, 50))
    with caplog.at_level(logging.WARNING):
        record = train(checkpoints=folder, progress=passed.append)
    assert passed[0] <= 50
    (line,) = caplog.messages
    assert "\n" not in line
    assert line.startswith(f"{folder.path(SPEC)}: {reason}"), line
    assert line.endswith("; the run starts anew")
    assert identity(record) == identity(whole)
    assert list(tmp_path.iterdir()) == []


def test_a_good_checkpoint_is_gone_on_from(
    good: tuple[bytes, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Checkpoints(tmp_path)
    folder.path(SPEC).write_bytes(sealed(*parts(good[0])))
    passed: list[int] = []
    with caplog.at_level(logging.WARNING):
        record = train(checkpoints=folder, progress=passed.append)
    assert caplog.messages == []
    assert passed[0] == state_of(good[0])["step"]
    assert identity(record) == identity(good[1])


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link to a device", "a link to nothing"])
def test_what_is_no_file_is_not_read(
    kind: str,
    good: tuple[bytes, dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Checkpoints(tmp_path)
    path = folder.path(SPEC)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if "device" in kind else tmp_path / "nothing")
    with caplog.at_level(logging.WARNING):
        record = train(checkpoints=folder)
    assert identity(record) == identity(good[1])
    assert len(caplog.messages) == (kind != "a link to nothing")
    assert all(line.endswith("the run starts anew") for line in caplog.messages)
    assert not (tmp_path / "nothing").exists()


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    tensors = {"weights": torch.tensor([math.nan, -math.inf, -0.0, 1e-45])}
    folder.save(SPEC, tensors, {"step": 1}, {"hpr": "1"})
    found = folder.load(SPEC, {"weights": (4,)}, {"hpr": "1"})
    assert found is not None
    bits = [t.view(torch.int32).tolist() for t in (found[0]["weights"], tensors["weights"])]
    assert bits[0] == bits[1]
    assert found[1] == {"step": 1}
