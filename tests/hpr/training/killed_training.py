"""Train packs in processes that are killed again and again: `python killed_training.py OUT SEED MOST`.

Each process trains what OUT/runs lacks of one pack, with checkpoints after every piece of training, and is killed by
SIGKILL at a random moment. After MOST kills a pack's next process is left alone. What each process trained is added to
OUT/trained, a line "network-iterations" per piece. The last line of the output is the number of kills.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment import provenance
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.tasks import make_task
from hpr.training import watch
from hpr.training.cohort import Cohort
from hpr.training.loop import train_pack

BASE = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=32, batch=8, iterations=230, trials=16, kernel_trials=4
)
DIGITS = replace(BASE, task="sDigits", task_version="1", batch=32)
TEACHER = replace(DIGITS, seed=7, connectivity=Dense(), iterations=120, keep_weights=True)
# Each name's pack, and how it is trained.
PACKS: dict[str, tuple[list[RunSpec], dict[str, Any]]] = {
    "trajectory": (
        [replace(BASE, connectivity=LowRank(rank=r), checkpoints=6) for r in (1, 2, 32)],
        {},
    ),
    "regression": (
        [
            replace(
                BASE, task="pattern generation", task_version="1", dt=20.0, batch=1, trials=1,
                kernel_trials=1, iterations=150, seed=seed,
            )
            for seed in (0, 1)
        ],
        {},
    ),
    "Dale throughout": (
        [
            replace(BASE, connectivity=structure, iterations=130, seed=seed)
            for structure in (Dale(dale_throughout=True), Dense())
            for seed in (0, 1)
        ],
        {},
    ),
    "two layers": (
        [
            replace(
                BASE, task="student-teacher(d=16,kappa=3)", task_version="1", model="two_layer",
                activation="linear", readout_deviation=0.01, checkpoints=4, seed=seed,
                connectivity=Dense(gain=0.1), learning_rate=1e-3,
            )
            for seed in (0, 1)
        ],
        {},
    ),
    "teacher": (
        [
            replace(DIGITS, teacher=TEACHER, aligned="features", seed=s, iterations=130)
            for s in (0, 1)
        ],
        {},
    ),
    "stop": (
        [
            replace(DIGITS, connectivity=LowRank(rank=32, gain=g), stop_accuracy=0.4, iterations=330)
            for g in (0.01, 1.5)
        ],
        {},
    ),
    "lazy distance": (
        [replace(BASE, seed=seed, iterations=120) for seed in (0, 1)],
        {"lazy_distance": True},
    ),
}  # fmt: skip


def train_left(name: str, out: Path, checkpoints: Checkpoints) -> None:
    """Train what the store lacks of a pack."""
    store = Store(out)
    specs, how = PACKS[name]

    def keep(spec: RunSpec, record: dict[str, Any]) -> None:
        store.save(record)

    left = [spec for spec in specs if store.load(spec) is None]
    # A process may have been killed between keeping a record and removing the checkpoint.
    for spec in specs:
        if spec not in left:
            checkpoints.drop(spec)
    if left:
        task = make_task(left[0].task, version=left[0].task_version, dt=left[0].dt)
        how = {**how, "checkpoints": checkpoints, "keep": keep}
        train_pack(left, task, device=torch.device("cpu"), **how)
    checkpoints.drop(TEACHER)


def child(name: str, out: Path) -> None:
    """One process: pieces of a few milliseconds, and checkpoints after each."""
    watch.SECONDS, watch.SHARE = 0.005, math.inf
    # Somebody may commit meanwhile.
    provenance.git_commit = lambda: None  # type: ignore[assignment]
    advance = Cohort.advance

    def counted(cohort: Cohort, ends: Any) -> Any:
        before = cohort.active[0].step
        result = advance(cohort, ends)
        count = (cohort.active[0].step - before) * len(cohort.active)
        with open(out / "trained", "a") as file:
            file.write(f"{count}\n")
        return result

    Cohort.advance = counted  # type: ignore[method-assign]
    train_left(name, out, Checkpoints(out / "checkpoints", period=0))


def killed(name: str, out: Path, moments: random.Random, most: int) -> int:
    """Kill the processes of one pack until one ends; return the number of kills."""
    kills = 0
    while True:
        process = os.fork()
        if process == 0:
            child(name, out)
            os._exit(0)
        if kills < most:
            time.sleep(moments.uniform(0, 1))
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise SystemExit("a process failed")
            return kills
        kills += 1


def main(out: Path, seed: int, most: int) -> None:
    """Start processes, kill them, and print the number of kills."""
    torch.set_num_threads(1)
    moments = random.Random(seed)
    kills = 0
    for name in PACKS:
        kills += killed(name, out, moments, most)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
