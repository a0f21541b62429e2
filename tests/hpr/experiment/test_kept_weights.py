"""Trained weights beside a record: saved, read, checked, merged and refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from store_records import SPEC, listing, record_of

import hpr
from hpr.experiment import kept_weights
from hpr.experiment.checkpoints import _digest
from hpr.experiment.kept_weights import Arrays, content_hash, joined, separated, texts_of
from hpr.experiment.record import checksum, sealed, validate
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.store import main
from hpr.training.weights import decoded

N = 7
KEPT = replace(SPEC, N=N, connectivity=replace(SPEC.connectivity, rank=2), keep_weights=True)
OLD = Path(__file__).with_name("records_schema_1") / "72b5272768483996.json"


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"recurrent": (N, N), "input": (N, 3), "readout": (2, N)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def with_arrays(spec: RunSpec = KEPT, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return record_of(spec, weights=texts_of(arrays(seed)), **changes)


def test_weights_are_a_file_beside_the_record(tmp_path: Path) -> None:
    record, store = with_arrays(), Store(tmp_path)
    path = store.save(record)
    assert sorted(listing(tmp_path)) == [
        f"runs/{KEPT.key}.{end}" for end in ("json", "safetensors")
    ]
    on_disk = json.loads(path.read_bytes())
    assert on_disk["schema"] == 2
    assert on_disk["weights"]["shapes"] == {"recurrent": [N, N], "input": [N, 3], "readout": [2, N]}
    assert "float32" not in path.read_text()
    found = load(path.with_suffix(".safetensors").read_bytes())
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
    assert KEPT in store
    assert store.load(KEPT) == record
    for run in (path, record):
        network = hpr.load(run)
        for name, array in arrays().items():
            np.testing.assert_array_equal(getattr(network, name).detach(), array)
    assert main(["verify", str(tmp_path)]) == 0


def test_a_record_is_written_after_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed between the two leaves weights without a record, and the run is not done."""
    replaced: list[str] = []

    def killed(source: Path, target: Path) -> None:
        replaced.append(target.suffix)
        if target.suffix == ".json":
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).save(with_arrays())
    monkeypatch.undo()
    assert replaced == [".safetensors", ".json"]
    assert KEPT not in Store(tmp_path)
    Store(tmp_path).save(with_arrays(seed=1))
    assert Store(tmp_path).load(KEPT) == with_arrays(seed=1)


def test_a_record_of_the_old_form_is_read_as_it_is(tmp_path: Path) -> None:
    """This file was written when the weights were inside the record."""
    plain = json.loads(OLD.read_bytes())
    assert plain["schema"] == 1
    spec = RunSpec.from_dict(plain["spec"])
    (tmp_path / "runs").mkdir()
    shutil.copy(OLD, tmp_path / "runs")
    store = Store(tmp_path)
    assert spec in store
    record = store.load(spec)
    assert record is not None
    assert record["weights"] == plain["weights"]
    for run in (OLD, record):
        network = hpr.load(run)
        assert torch.equal(network.recurrent, decoded(plain["weights"])["recurrent"])
    assert main(["verify", str(tmp_path)]) == 0
    # Saved again it takes the new form, and both forms are one record to a merge.
    Store(tmp_path / "new").save(record)
    assert len(listing(tmp_path / "new")) == 2
    assert main(["merge", str(tmp_path), "--into", str(tmp_path / "new")]) == 0
    assert store.load(spec) == Store(tmp_path / "new").load(spec)


def test_an_older_version_refuses_the_new_form_by_name() -> None:
    """Such a version knows schema 1 alone; to it this is a record of a later version."""
    plain, weights = separated(with_arrays())
    assert weights is not None
    assert plain["schema"] == kept_weights.BESIDE > kept_weights.SCHEMA
    content = sealed({**plain, "schema": 3})
    with pytest.raises(ValueError, match=r"^schema: expected 1, got 3$"):
        validate(content, KEPT)


def other_shapes(path: Path) -> None:
    path.write_bytes(save({**arrays(), "input": np.zeros((N, 4), "f4")}))


def other_type(path: Path) -> None:
    path.write_bytes(save({name: array.view("i4") for name, array in arrays().items()}))


def other_names(path: Path) -> None:
    path.write_bytes(save({**arrays(), "bias": np.zeros(N, "f4")}))


def other_numbers(path: Path) -> None:
    path.write_bytes(save(arrays(1)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def long_header(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + b"{")


def huge(path: Path) -> None:
    os.truncate(path, 10**10)


def link(path: Path) -> None:
    outside = path.parents[2] / "outside.safetensors"
    shutil.move(path, outside)
    path.symlink_to(outside)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# What is done to a file, what is said of it, and whether the run is trained again then, or refused.
DAMAGES: dict[Callable[[Path], None], tuple[str, bool]] = {
    other_shapes: ("'input': expected ['float32', 7, 3], got ['float32', 7, 4]", True),
    other_type: ("'input': expected ['float32', 7, 3], got ['int32', 7, 3]", True),
    other_names: ("'bias': expected 'none', got ['float32', 7]", True),
    other_numbers: ("expected the record's digest, got another", True),
    cut: ("expected a whole safetensors file", True),
    long_header: ("expected a header of at most 65,536 bytes, got 1,099,511,627,776", True),
    os.unlink: ("beside the record, got none", True),
    huge: ("expected at most", False),
    link: ("it is a link", False),
    folder: ("Is a directory", False),
    pipe: ("it is no regular file", False),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    store, (said, again) = Store(out), DAMAGES[damage]
    path = store.save(with_arrays())
    weights = path.with_suffix(".safetensors")
    damage(weights)
    assert main(["verify", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hpr.store: bad: {path}: weights: ")
    assert said in line
    with pytest.raises(ValueError, match=r"^run: expected a valid record, got [^\n]*$") as refused:
        hpr.load(path)
    assert said in str(refused.value)
    # The table has no weights, and needs none.
    assert main(["export", str(out), "--csv", str(tmp_path / "csv")]) == 0
    assert "sha256" not in (tmp_path / "csv").read_text()
    assert main(["merge", str(out), "--into", str(tmp_path / "into")]) == 1
    assert not (tmp_path / "into").exists() or listing(tmp_path / "into") == {}
    if again:
        assert KEPT not in store
        assert store.load(KEPT) is None
        assert said in caplog.text
        store.save(with_arrays())
        assert store.load(KEPT) == with_arrays()
    else:
        with pytest.raises(OSError, match=r"safetensors can't be read: [^\n]*; move it away$"):
            store.load(KEPT)
    if damage is link:
        assert weights.is_symlink()
        before = (tmp_path / "outside.safetensors").read_bytes()
        store.save(with_arrays(seed=1))
        # The link was replaced, and what it led to stays.
        assert not weights.is_symlink()
        assert (tmp_path / "outside.safetensors").read_bytes() == before


NAMED: dict[str, tuple[Any, str]] = {
    "no digest": ({"sha256": "x", "shapes": {"a": [1]}}, "weights: expected a SHA-256, got 'x'"),
    "no shapes": ({"sha256": "0" * 64, "shapes": {}}, "weights: expected shapes, got {}"),
    "a negative size": (
        {"sha256": "0" * 64, "shapes": {"a": [-1]}}, "weights: expected shapes, got {'a': [-1]}",
    ),
    "a true size": (
        {"sha256": "0" * 64, "shapes": {"a": [True]}}, "weights: expected shapes, got {'a': [True]}",
    ),
    "many names": (
        {"sha256": "0" * 64, "shapes": {str(i): [1] for i in range(65)}}, "weights: expected shapes, got {'0': [1]",
    ),
    "huge": (
        {"sha256": "0" * 64, "shapes": {"a": [2**15, 2**14]}},
        "weights: expected at most 1,073,741,824 bytes, got 2,147,483,648",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("named", "said"), NAMED.values(), ids=NAMED)
def test_a_record_that_names_no_weights_is_bad(tmp_path: Path, named: Any, said: str) -> None:
    """Such a record could only be made by hand; its checksum is right."""
    record = {**record_of(KEPT), "schema": 2, "weights": named}
    path = Store(tmp_path).path(KEPT)
    path.parent.mkdir()
    path.write_text(json.dumps({**record, "checksum": checksum(record)}))
    with pytest.raises(ValueError, match=r"^run: expected a valid record") as refused:
        hpr.load(path)
    assert said in str(refused.value)
    assert Store(tmp_path).load(KEPT) is None


def test_weights_of_another_size_than_the_runs_are_refused(tmp_path: Path) -> None:
    small = {name: array[:, :-1] for name, array in arrays().items()}
    path = Store(tmp_path).save(record_of(KEPT, weights=texts_of(small)))
    with pytest.raises(ValueError, match=r"^run: expected weights of 7 units, got {'input'"):
        hpr.load(path)
    none = record_of(KEPT, weights={"recurrent": {"float32": "!"}})
    with pytest.raises(ValueError, match=r"^weights: expected shapes and numbers, got "):
        hpr.load(none)
    with pytest.raises(ValueError, match=r"^run: expected the file .*, got its content"):
        hpr.load(json.loads(path.read_bytes()))


def test_merge_carries_weights_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, into = (tmp_path / name for name in ("a", "b", "into"))
    Store(first).save(with_arrays())
    Store(second).save(with_arrays(seed=1))
    # A merge that was killed has left the weights alone.
    (into / "runs").mkdir(parents=True)
    left = f"{KEPT.key}.safetensors"
    shutil.copy(first / "runs" / left, into / "runs" / left)
    assert main(["merge", str(first), "--into", str(into)]) == 0
    assert listing(into) == listing(first)
    assert main(["merge", str(first), "--into", str(into)]) == 0
    assert "1 there already" in capsys.readouterr().out
    assert main(["merge", str(second), "--into", str(into)]) == 1
    assert "weights.input.float32" in capsys.readouterr().out
    assert listing(into / "runs") == listing(first / "runs")
    aside = sorted((into / "conflicts").iterdir())
    assert [path.suffix for path in aside] == [".json", ".safetensors"]
    np.testing.assert_array_equal(hpr.load(aside[0]).input.detach(), arrays(1)["input"])
    assert main(["verify", str(into)]) == 0
    assert "1 record in" in capsys.readouterr().out


def test_merge_overwrites_no_weights_of_another_writer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "a").save(with_arrays())
    strange = tmp_path / "b" / "runs" / f"{KEPT.key}.safetensors"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"x")
    assert main(["merge", str(tmp_path / "a"), "--into", str(tmp_path / "b")]) == 1
    assert "has other weights, without a record" in capsys.readouterr().out
    assert strange.read_bytes() == b"x"
    assert len(listing(tmp_path / "b" / "conflicts")) == 2


def test_the_hash_is_of_names_shapes_and_numbers() -> None:
    found = {content_hash("", arrays()), content_hash("", arrays(1)), content_hash("a", arrays())}
    found.add(content_hash("", {f"{name}_": array for name, array in arrays().items()}))
    found.add(content_hash("", {name: array.T.copy() for name, array in arrays().items()}))
    assert len(found) == 5
    empty = {"recurrent": np.zeros((3, 0), "f4")}
    assert content_hash("", empty) != content_hash("", {"recurrent": np.zeros((0, 3), "f4")})


def test_weights_without_columns_are_kept(tmp_path: Path) -> None:
    """Two-layer networks have no recurrent weights."""
    held = {**arrays(), "recurrent": np.zeros((N, 0), "f4")}
    path = Store(tmp_path).save(record_of(KEPT, weights=texts_of(held)))
    plain = json.loads(path.read_bytes())
    del plain["checksum"]
    assert joined(plain, path)["weights"] == texts_of(held)


def test_checkpoints_keep_their_checksums() -> None:
    """They are hashed as before the hash was shared: a checkpoint of an older version is still good."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1)}
    assert (
        _digest("text", tensors)
        == "f19b0a118f7d544c69e860df8cd8698061860c668f173344048639e5705829f3"
    )
