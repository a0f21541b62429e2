"""What a worker of a Dask cluster does: train a pack, if it runs the code of the process that sent it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hpr
from hpr.experiment.carrying import Loss, Train, train_and_keep
from hpr.experiment.plan import TaskOf
from hpr.experiment.provenance import git_commit
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure
from hpr.experiment.run_progress import unheard
from hpr.experiment.specification import RunSpec


@dataclass(frozen=True)
class Code:
    """What code a process runs: two processes with equal `version` and `sources` run the same."""

    version: str
    sources: str
    commit: str | None = field(compare=False)

    def __str__(self) -> str:
        return f"hpr {self.version}, commit {self.commit or 'unknown'}, sources {self.sources[:8]}"


@dataclass
class Answer:
    """What a worker sends back: records and failures of a pack's runs, or its code, where that is another."""

    worker: str
    other: Code | None = None
    records: list[Record] = field(default_factory=list)
    failures: list[tuple[RunSpec, Failure]] = field(default_factory=list)
    loss: Loss | None = None


@cache
def code_here() -> Code:
    """The code of this process: its version, a hash of its Python sources, its commit."""
    digest = hashlib.sha256()
    for package in ("hpr", "hpr_kernels"):
        found = find_spec(package)
        assert found is not None
        root = Path(found.origin or "").parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return Code(hpr.__version__, digest.hexdigest(), git_commit())


def train_there(
    pack: list[RunSpec],
    teachers: dict[str, Record],
    task_of: TaskOf,
    train: Train,
    device: str,
    expected: Code,
    key: str,
) -> Answer:
    """Train a pack in a worker of the cluster, if the worker runs the client's code."""
    import torch
    from distributed import get_worker

    worker = get_worker()
    answer = Answer(worker.address)
    if code_here() != expected:
        answer.other = code_here()
        return answer
    torch.set_num_threads(1)

    def stop() -> bool:
        # The client has cancelled the task or is gone. The worker knows without asking the scheduler.
        task = worker.state.tasks.get(key)
        return task is None or task.state in ("cancelled", "released", "forgotten")

    answer.loss = train_and_keep(
        pack,
        task_of(pack[0]),
        train,
        torch.device(device),
        teachers=teachers,
        checkpoints=None,
        keep=lambda spec, record: answer.records.append(record),
        fail=lambda spec, error: answer.failures.append((spec, Failure.of(str(spec), error))),
        progress=lambda count: None,
        state=unheard,
        stop=stop,
    )
    return answer
