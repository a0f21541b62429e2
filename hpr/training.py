"""Train a pack of networks together and measure each: SGD with momentum on the cross-entropy (Appendix C.2).

Networks of a pack never see each other: every product is batched over the pack, every reduction stays inside a network,
and trials depend on (task, seed, step) alone. So a run's result is the same alone, in a pack, and in any order, and a
network that is done (accuracy reached, or a loss that is not finite) simply leaves the pack.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpr.laziness import measure
from hpr.model import Pack, initial_pack
from hpr.runs import RunSpec
from hpr.store import SCHEMA
from hpr.tasks import Task
from hpr_kernels.backend import uses_triton
from hpr_kernels.leaky_rnn import cpu
from hpr_kernels.loss import readout_cross_entropy
from hpr_kernels.update import momentum_step

if TYPE_CHECKING:
    from hpr.cuda import FusedStep

# Iterations whose mean loss and accuracy make one point of a curve; at the end of each, stops and
# divergence are looked for.
WINDOW = 100
# Bytes of trials drawn ahead.
TRIAL_BYTES = 64 << 20


def train_pack(
    specs: Sequence[RunSpec],
    task: Task,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda iterations: None,
) -> list[dict[str, Any]]:
    """Train runs of one shape together; return each one's record, in order (see `hpr.store` for its form).

    `progress(k)` is called as iterations pass, k of them since the last call.
    """
    if len({spec.shape for spec in specs}) != 1:
        raise ValueError("specs: expected runs of one shape, got several; see hpr.runs.packs")
    asked, given = (specs[0].task, specs[0].task_version), (task.name, task.version)
    if asked != given:
        raise ValueError(
            f"task: expected {asked[0]} version {asked[1]}, got {given[0]} version {given[1]}"
        )
    started = datetime.now(timezone.utc)
    source = provenance(device)
    clock = time.perf_counter()
    pack = initial_pack(specs, task.N_in, task.N_out, device)
    initial = pack.select(range(len(specs)))
    runs = [_Run() for _ in specs]
    with torch.no_grad():
        _train(specs, task, pack, runs, progress)
        training = time.perf_counter() - clock
        records = []
        for index, (spec, run) in enumerate(zip(specs, runs, strict=True)):
            clock = time.perf_counter()
            measures, flags = _measure(spec, task, initial.select([index]), run)
            records.append(
                {
                    "schema": SCHEMA,
                    "key": spec.key,
                    "spec": spec.to_dict(),
                    "status": run.status,
                    "iterations": run.iterations,
                    "curves": run.curves,
                    "measures": {k: v if v == v else None for k, v in measures.items()},
                    "flags": flags,
                    "provenance": source,
                    "timings": {
                        "started": started.isoformat(timespec="seconds"),
                        "pack": len(specs),
                        "training_s": round(training / len(specs), 3),
                        "measures_s": round(time.perf_counter() - clock, 3),
                    },
                }
            )
    return records


@dataclass
class _Run:
    status: str = "finished"
    iterations: int = 0
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {"iteration": [], "loss": [], "accuracy": []}
    )
    trained: Pack | None = None


class Step:
    """One SGD iteration of a pack on buffers that are allocated once."""

    def __init__(self, pack: Pack, spec: RunSpec, task: Task) -> None:
        R, N, _ = pack.weights.shape
        T, B = task.T, spec.batch
        self.pack, self.spec, self.R, self.N = pack, spec, R, N
        self.trace = cpu.empty_trace(R, T, B, N, task.N_in, like=pack.weights)
        self.g = torch.empty(R, T, B, N, dtype=pack.weights.dtype, device=pack.weights.device)
        self.first = T - 1 if task.loss_steps == "last" else 0
        self.velocity = torch.zeros_like(pack.weights)
        self.readout_velocity = torch.zeros_like(pack.readout)

    def select(self, networks: list[int], task: Task) -> Step:
        """The step of the networks that go on."""
        step = Step(self.pack.select(networks), self.spec, task)
        step.velocity = self.velocity[networks]
        step.readout_velocity = self.readout_velocity[networks]
        return step

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one batch, x [R, T, B, N_in] and targets [R, T, B]; returns loss and accuracy [R] before it."""
        pack, spec, N = self.pack, self.spec, self.N
        self.trace[:, :-1, :, N : N + pack.N_in] = x
        cpu.forward(self.trace, pack.weights, spec.rho)

        rates = self.trace[:, 1:, :, :N]
        loss, accuracy, dy = readout_cross_entropy(
            rates, pack.readout, targets, self.g, first=self.first
        )
        scale = 1 / dy.shape[1]
        cpu.sweep(self.g, self.trace, pack.weights, spec.rho)
        sgd: dict[str, Any] = {"learning_rate": spec.learning_rate, "momentum": spec.momentum}
        counted = rates[:, self.first :].flatten(1, 2)
        momentum_step(pack.readout, self.readout_velocity, dy, counted, scale=scale, **sgd)
        scale *= 1 - spec.rho
        momentum_step(
            pack.weights,
            self.velocity,
            self.g[:, 1:].flatten(1, 2),
            self.trace[:, 1:-1].flatten(1, 2),
            scale=scale,
            **sgd,
        )
        # a_0 = 0: the first step has a gradient for the input weights alone.
        first = torch.bmm(self.g[:, 0].mT, self.trace[:, 0, :, N:])
        self.velocity[..., N:].add_(first, alpha=scale)
        pack.weights[..., N:].add_(first, alpha=-scale * spec.learning_rate)
        return loss, accuracy

    def window(
        self, specs: Sequence[RunSpec], task: Task, start: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """Train iterations start … start + count - 1 of the runs `specs`; returns losses and accuracies [R, count]."""
        losses = torch.empty(len(specs), count, device=self.g.device)
        accuracies = torch.empty_like(losses)
        for i, (x, targets) in enumerate(trials(specs, task, start, count, losses.device)):
            losses[:, i], accuracies[:, i] = self(x, targets)
        return losses, accuracies


def new_step(pack: Pack, spec: RunSpec, task: Task) -> Step | FusedStep:
    """What trains a pack: Triton's kernels where they serve its weights, else torch."""
    if uses_triton(pack.weights):
        from hpr.cuda import FusedStep

        return FusedStep(pack, spec, task)
    return Step(pack, spec, task)


def _train(
    specs: Sequence[RunSpec],
    task: Task,
    pack: Pack,
    runs: list[_Run],
    progress: Callable[[int], None],
) -> None:
    spec = specs[0]
    active = list(range(len(specs)))
    step = new_step(pack.select(_lanes(active)), spec, task)
    for start in range(0, spec.iterations, WINDOW):
        count = min(WINDOW, spec.iterations - start)
        lanes = [specs[r] for r in _lanes(active)]
        losses, accuracies = step.window(lanes, task, start, count)
        progress(count)
        going = _close_window(
            spec, [runs[r] for r in active], step.pack, start, losses.cpu(), accuracies.cpu()
        )
        if len(going) < len(active):
            active = [active[i] for i in going]
            if not active:
                progress(spec.iterations - start - count)
                return
            step = step.select(_lanes(going), task)
    for position, r in enumerate(active):
        runs[r].trained = step.pack.select([position])


def _lanes(networks: list[int]) -> list[int]:
    """A lone network trains beside its copy: MKL rounds a batched product of one otherwise."""
    return networks if len(networks) > 1 else networks * 2


def _close_window(
    spec: RunSpec, runs: list[_Run], pack: Pack, start: int, losses: Tensor, accuracies: Tensor
) -> list[int]:
    """Extend the curves; settle the runs that diverged or reached their accuracy; return who goes on."""
    going = []
    for position, run in enumerate(runs):
        finite = losses[position].isfinite()
        if not bool(finite.all()):
            run.status = "diverged"
            run.iterations = start + int(finite.logical_not().int().argmax())
            continue
        accuracy = float(accuracies[position].double().mean())
        run.iterations = start + losses.shape[1]
        run.curves["iteration"].append(run.iterations)
        run.curves["loss"].append(float(losses[position].double().mean()))
        run.curves["accuracy"].append(accuracy)
        if spec.stop_accuracy is not None and accuracy >= spec.stop_accuracy:
            run.status = "stopped"
            run.trained = pack.select([position])
            continue
        going.append(position)
    return going


def trials(
    specs: Sequence[RunSpec], task: Task, start: int, count: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `count` iterations: inputs [R, T, B, N_in] and targets [R, T, B] each."""
    seeds = sorted({spec.seed for spec in specs})
    index = torch.tensor([seeds.index(spec.seed) for spec in specs], device=device)
    batch = specs[0].batch
    bytes_each = len(seeds) * task.T * batch * (4 * task.N_in + 8)
    chunk = max(1, TRIAL_BYTES // bytes_each)
    for first in range(start, start + count, chunk):
        size = min(chunk, start + count - first)
        drawn = [task.draw(seed, first, size, batch) for seed in seeds]
        x = torch.from_numpy(np.stack([part.inputs for part in drawn])).to(device)
        targets = torch.from_numpy(np.stack([part.targets for part in drawn])).to(device)
        for i in range(size):
            yield x[index, i], targets[index, i]


def _measure(
    spec: RunSpec, task: Task, before: Pack, run: _Run
) -> tuple[dict[str, float], list[str]]:
    if run.trained is None:
        return {}, [f"loss not finite at iteration {run.iterations}"]
    finite = [w.isfinite().all() for w in (run.trained.weights, run.trained.readout)]
    if not all(finite):
        run.status = "diverged"
        return {}, [f"weights not finite after iteration {run.iterations}"]
    drawn = task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    device = before.weights.device
    x, targets = (torch.from_numpy(a[0]).to(device) for a in (drawn.inputs, drawn.targets))
    try:
        measures, flags = measure(spec, before, run.trained, x, targets, task.loss_steps == "last")
    except (ValueError, ArithmeticError, RuntimeError) as error:
        # Weights so large that a kernel overflows: this network's failure, not its pack's.
        run.status = "diverged"
        return {}, [f"not measurable: {' '.join(str(error).split())}"]
    measures["final_loss"] = run.curves["loss"][-1]
    measures["final_accuracy"] = run.curves["accuracy"][-1]
    return measures, flags


@cache
def provenance(device: torch.device) -> dict[str, Any]:
    """What produced a record: versions, device, git commit of this source tree (None outside a checkout)."""
    versions = {"python": platform.python_version()}
    for name in ("hpr-richlazy", "torch", "numpy", "scipy", "neurogym"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cuda = device.type == "cuda"
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
        # Sums over kernels may round otherwise with another number of threads.
        "threads": torch.get_num_threads(),
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__)
    tracked = ["git", "ls-files", "--error-unmatch", here.name]
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (tracked, commit):
            done = subprocess.run(
                command, cwd=here.parent, capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
