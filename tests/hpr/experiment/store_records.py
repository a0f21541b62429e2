"""Records that nobody trained, and folders of them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store

SPEC = RunSpec(task="2AF", connectivity=LowRank(rank=30), seed=3)
SEEDS = [replace(SPEC, seed=seed) for seed in range(4)]


def record_of(spec: RunSpec, /, **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {"iteration": [100, 200], "loss": [1.0, 0.5], "accuracy": [0.5, 1.0]},
        "measures": {"kernel_alignment": 0.25, "final_loss": None},
        "flags": [],
        "provenance": {"versions": {"torch": "2.6"}, "device": "cpu", "git": "0" * 40},
        "timings": {"training_s": 1.0},
        **changes,
    }


def folder_with(out: Path, *specs: RunSpec, **changes: Any) -> Path:
    for spec in specs:
        Store(out).save(record_of(spec, **changes))
    return out


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def planted(path: Path, content: str = "x", age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - age,) * 2)
    return path
