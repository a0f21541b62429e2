"""The records of twenty small runs were kept before the code was rearranged, and their numbers must not change.

Torch made them, so only HPR_KERNELS_BACKEND=torch gives their bits again. On a machine like the one that wrote them
(processor, torch, NumPy, SciPy) such records are equal bit for bit, except for timings and provenance. On others, and
by the C kernels, sums round differently, and numbers are compared to one in a thousand.
`HPR_KERNELS_BACKEND=torch python tests/hpr/test_sample_records.py` writes the file anew; do this on purpose only.
"""

from __future__ import annotations

import gzip
import json
import math
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch

from hpr.connectivity import EM, CellTypes, ChainMotif, Dale, Dense, LowRank, SoftRank
from hpr.experiment.binding import bind
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.loop import train_pack
from hpr_kernels.native import library

KEPT = Path(__file__).with_name("sample_records.json.gz")
RELATIVE = 1e-3
# Rounding may change the answer in one trial of a few, or the sign of a rate near zero.
ONE_OF_A_FEW = 0.1


def specimens() -> dict[str, RunSpec]:
    """Return small runs of every task, structure, variant and kind of training."""
    base = RunSpec(
        "2AF", LowRank(rank=3), seed=0, N=33, batch=8, iterations=120, trials=16, kernel_trials=4
    )
    released: dict[str, Any] = {
        "variant": "released", "leak": "euler", "ntk_parameters": ("recurrent",),
    }  # fmt: skip
    rows: dict[str, Any] = {"task": "sDigits", "task_version": "1", "iterations": 20}
    flat: dict[str, Any] = {
        "task": "student-teacher(d=5,kappa=3)", "task_version": "1", "model": "two_layer",
        "activation": "linear", "readout_deviation": 0.01, "momentum": 0.0,
    }  # fmt: skip
    teacher = replace(base, **rows, keep_weights=True, connectivity=Dense(), seed=7)
    return {
        "low rank": base,
        "low rank, another seed": replace(base, seed=11),
        "leading eigenvalue": replace(base, connectivity=LowRank(rank=30, rescale="eigenvalue")),
        "uniform": replace(base, connectivity=Dense(distribution="uniform")),
        "soft rank": replace(base, connectivity=SoftRank(k=4.0)),
        "cell types": replace(base, connectivity=CellTypes(connections="within"), task="DMS"),
        "chain motif": replace(base, connectivity=ChainMotif(tau_chn=0.03), task="CXT"),
        "Dale at the start": replace(base, connectivity=Dale()),
        "Dale throughout": replace(base, connectivity=Dale(dale_throughout=True)),
        "EM": replace(base, connectivity=EM(), N=297, iterations=20),
        "EM, shuffled": replace(base, connectivity=EM(shuffled=True), N=297, iterations=20),
        "released": replace(base, **released, connectivity=LowRank(gain=1.25, rank=3)),
        "NeuroGym 2.3": replace(base, task_version="2.3", task="CXT"),
        "short steps": replace(base, dt=20.0, iterations=20),
        "rows of digits": replace(base, **rows, stop_accuracy=0.97, keep_weights=True),
        "digits at once": replace(
            base, task="Digits", task_version="1", model="two_layer", connectivity=LowRank(rank=8)
        ),
        "linear, trajectory": replace(base, **flat, checkpoints=5, connectivity=Dense(gain=0.01)),
        "aligned": replace(base, **flat, connectivity=Dense(gain=0.01), aligned="directions"),
        "student": replace(
            base, **rows, teacher=teacher, aligned="dominant features", connectivity=Dense()
        ),
        "pattern": replace(
            base,
            task="pattern generation",
            task_version="1",
            dt=20.0,
            batch=1,
            trials=1,
            kernel_trials=1,
        ),
    }


def records() -> dict[str, dict[str, Any]]:
    """Train every run now, and return the records without what differs from run to run."""
    found = {}
    for name, spec in specimens().items():
        task = make_task(spec.task, version=spec.task_version, dt=spec.dt)
        [record] = train_pack([bind(spec, task)], task, device=torch.device("cpu"))
        found[name] = {k: v for k, v in record.items() if k not in ("timings", "provenance")}
    return found


def machine() -> dict[str, str]:
    """Return what rounding depends on."""
    try:
        cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        model = next(line for line in cpu.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return {
        "processor": model.partition(":")[2].strip() or model,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def differences(got: Any, kept: Any, where: str, exact: bool) -> list[str]:
    """List the places where two plain values differ."""
    if isinstance(kept, dict) and isinstance(got, dict) and set(kept) == set(got):
        return [d for k in kept for d in differences(got[k], kept[k], f"{where}/{k}", exact)]
    if isinstance(kept, list) and isinstance(got, list) and len(kept) == len(got):
        pairs = enumerate(zip(got, kept, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}/{i}", exact)]
    if not exact and isinstance(kept, float) and isinstance(got, float):
        share = any(name in where for name in ("accuracy", "sign_similarity"))
        near = math.isclose(
            got, kept, rel_tol=RELATIVE, abs_tol=ONE_OF_A_FEW if share else RELATIVE
        )
        return [] if near else [f"{where}: {got!r} for {kept!r}"]
    return [] if type(got) is type(kept) and got == kept else [f"{where}: {got!r} for {kept!r}"]


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_the_records_of_twenty_runs_stay(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch wrote the records, so the bits are compared for torch alone."""
    if engine == "native" and library.obstacle():
        pytest.skip(library.obstacle())
    monkeypatch.setenv("HPR_KERNELS_BACKEND", engine)
    kept = json.loads(gzip.decompress(KEPT.read_bytes()))
    assert len(kept["records"]) == 20
    assert all(record["measures"] for record in kept["records"].values())
    exact = engine == "torch" and kept["machine"] == machine()
    got = json.loads(json.dumps(records()))
    if not exact:
        # Weights are base64 of fp32, which can only be compared exactly.
        for of in (got, kept["records"]):
            for record in of.values():
                record.pop("weights", None)
    assert not differences(got, kept["records"], "", exact)


@pytest.mark.parametrize("exact", [True, False])
def test_a_changed_record_shows(exact: bool) -> None:
    kept = json.loads(gzip.decompress(KEPT.read_bytes()))["records"]
    for name, record in kept.items():
        other = json.loads(json.dumps(record))
        measure = sorted(other["measures"])[0]
        other["measures"][measure] += 1e-9 if exact else 0.01
        assert differences(other, record, name, exact) != []


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {"machine": machine(), "records": records()}
    KEPT.write_bytes(gzip.compress(json.dumps(content, sort_keys=True).encode(), 9, mtime=0))
