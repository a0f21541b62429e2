"""Train a pack of networks together and measure each: SGD with momentum on the task's loss (Appendix C.2).

Networks of a pack never see each other: every product is batched over the pack, every reduction stays inside a network,
and trials depend on (task, seed, step) alone. So a run's result is the same alone, in a pack, and in any order, and a
network that is done (accuracy reached, or a loss that is not finite) simply leaves the pack.
"""

from __future__ import annotations

import base64
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpr import connectivity
from hpr.laziness import Diverged, Evaluation
from hpr.model import Pack, Weights, initial_pack
from hpr.runs import RunSpec
from hpr.step import Step
from hpr.store import SCHEMA, Record
from hpr.tasks import Task
from hpr_kernels.internal import available_cores, outside_autocast, uses_triton

if TYPE_CHECKING:
    from hpr.cuda import FusedStep

# Iterations whose mean loss and accuracy make one point of a curve; at the end of each, stops and
# divergence are looked for.
WINDOW = 100


@outside_autocast
def train_pack(
    specs: Sequence[RunSpec],
    task: Task,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda iterations: None,
    teachers: Mapping[str, Record] | None = None,
) -> list[Record]:
    """Train runs of one shape together; return each one's record, in order (see `hpr.store` for its form).

    `progress(k)` is called as iterations pass, k of them since the last call. `teachers`: records by key, in which the
    runs' teachers are looked for; one that is not there is trained here first, with the same result.

    Raises:
        ValueError: the runs are of several shapes, the task is not theirs (its content too: see `hpr.tasks.bind`), its
            trials are no data, or a structure draws no valid weights, or other weights each time.
    """
    if len({spec.shape for spec in specs}) != 1:
        raise ValueError("specs: expected runs of one shape, got several; see hpr.runs.packs")
    asked, given = (specs[0].task, specs[0].task_version), (task.name, task.version)
    if asked != given:
        raise ValueError(
            f"task: expected {asked[0]} version {asked[1]}, got {given[0]} version {given[1]}"
        )
    if task.dt not in (None, specs[0].dt):
        raise ValueError(f"task: expected time steps of {specs[0].dt} ms, got {task.dt} ms")
    if task.content != specs[0].content:
        raise ValueError(
            f"content: expected {task.content!r}, that of {task.name} as it is here, got {specs[0].content!r}; "
            "hpr.tasks.bind gives a run the content of its task"
        )
    if task.loss == "mse" and specs[0].stop_accuracy is not None:
        raise ValueError(
            f"stop_accuracy: expected None for a regression, got {specs[0].stop_accuracy}"
        )
    # What can't be kept is better refused now than after training.
    for spec in specs:
        weights = connectivity.drawn(spec.connectivity, spec.N, spec.seed)
        if weights != spec.drawn:
            raise ValueError(
                f"drawn: expected {weights!r}, what {spec.label} draws here, got {spec.drawn!r}; "
                "hpr.tasks.bind gives a run the digest of its weights"
            )
    pretrained = _pretrained(specs, task, device, teachers or {})
    started = datetime.now(timezone.utc)
    source = provenance(device)
    clock = time.perf_counter()
    pack = initial_pack(specs, task, device, pretrained)
    initial = pack.select(range(len(specs)))
    runs = [_Run() for _ in specs]
    with torch.no_grad():
        for index, (spec, run) in enumerate(zip(specs, runs, strict=True)):
            if spec.checkpoints:
                run.evaluation = evaluation(spec, task, initial.select([index]))
                run.extend(0, run.evaluation.initial)
        _train(specs, task, pack, runs, progress)
        training = time.perf_counter() - clock
        records = []
        for index, (spec, run) in enumerate(zip(specs, runs, strict=True)):
            clock = time.perf_counter()
            measures, flags = _measure(spec, task, initial.select([index]), run)
            record: Record = {
                "schema": SCHEMA,
                "key": spec.key,
                "spec": spec.to_dict(),
                "status": run.status,
                "iterations": run.iterations,
                "curves": run.curves,
                "measures": _plain(measures),
                "flags": flags,
                "provenance": source,
                "timings": {
                    "started": started.isoformat(timespec="seconds"),
                    "pack": len(specs),
                    "training_s": round(training / len(specs), 3),
                    "measures_s": round(time.perf_counter() - clock, 3),
                },
            }
            if spec.checkpoints:
                record["trajectory"] = run.trajectory
            if spec.keep_weights and run.trained is not None:
                record["weights"] = _encoded(run.trained)
            records.append(record)
    return records


@dataclass
class _Run:
    status: str = "finished"
    iterations: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    trained: Pack | None = None
    evaluation: Evaluation | None = None
    trajectory: dict[str, list[float | None]] = field(default_factory=dict)

    def observe(self, pack: Pack, iteration: int) -> None:
        """Extend the trajectory by a pack of this one network."""
        assert self.evaluation is not None
        try:
            point = self.evaluation.trajectory_point(pack)
        except Diverged:
            # The window's end will find out that it diverged.
            return
        self.extend(iteration, point)

    def extend(self, iteration: int, point: dict[str, float]) -> None:
        """Take a point of the trajectory, unless there is one of that iteration."""
        if self.trajectory.get("iteration", [])[-1:] != [iteration]:
            for name, value in _plain({"iteration": iteration, **point}).items():
                self.trajectory.setdefault(name, []).append(value)


def checkpoints(spec: RunSpec) -> list[int]:
    """Iterations of the trajectory's points: the start, and `spec.checkpoints` evenly spaced in their logarithm."""
    spaced = np.geomspace(1, spec.iterations, spec.checkpoints)
    return sorted({0, *(round(float(iteration)) for iteration in spaced)})


def new_step(pack: Pack, spec: RunSpec, task: Task) -> Step | FusedStep:
    """What trains a pack: Triton's kernels where they serve its weights and its kind, else torch."""
    usual = spec.model == "leaky_rnn" and spec.activation == "relu" and spec.checkpoints == 0
    if usual and task.loss == "cross_entropy" and uses_triton(pack.weights):
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
    # Both ends are of the measures.
    points = set(checkpoints(spec)) - {0, spec.iterations} if spec.checkpoints else set()

    def observe(iteration: int) -> None:
        if iteration in points:
            for position, r in enumerate(active):
                runs[r].observe(step.pack.select([position]), iteration)

    for start in range(0, spec.iterations, WINDOW):
        count = min(WINDOW, spec.iterations - start)
        lanes = [specs[r] for r in _lanes(active)]
        losses, accuracies = step.window(lanes, start, count, observe)
        progress(count)
        if accuracies is not None:
            accuracies = accuracies.cpu()
        going = _close_window(
            spec, [runs[r] for r in active], step.pack, start, losses.cpu(), accuracies
        )
        if len(going) < len(active):
            active = [active[i] for i in going]
            if not active:
                progress(spec.iterations - start - count)
                return
            step = step.select(_lanes(going))
    for position, r in enumerate(active):
        runs[r].trained = step.pack.select([position])


def _lanes(networks: list[int]) -> list[int]:
    """A lone network trains beside its copy: MKL rounds a batched product of one otherwise."""
    return networks if len(networks) > 1 else networks * 2


def _close_window(
    spec: RunSpec,
    runs: list[_Run],
    pack: Pack,
    start: int,
    losses: Tensor,
    accuracies: Tensor | None,
) -> list[int]:
    """Extend the curves; settle the runs that diverged or reached their accuracy; return who goes on."""
    going = []
    for position, run in enumerate(runs):
        finite = losses[position].isfinite()
        if not bool(finite.all()):
            run.status = "diverged"
            run.iterations = start + int(finite.logical_not().int().argmax())
            continue
        run.iterations = start + losses.shape[1]
        point = {"iteration": run.iterations, "loss": float(losses[position].double().mean())}
        if accuracies is not None:
            point["accuracy"] = float(accuracies[position].double().mean())
        for name, value in point.items():
            run.curves.setdefault(name, []).append(value)
        if spec.stop_accuracy is not None and point["accuracy"] >= spec.stop_accuracy:
            run.status = "stopped"
            run.trained = pack.select([position])
            continue
        going.append(position)
    return going


def evaluation(spec: RunSpec, task: Task, before: Pack) -> Evaluation:
    """The measures of a run that starts as `before`, on its evaluation trials."""
    drawn = task.draw(spec.seed, 0, 1, spec.trials, split="evaluation")
    device = before.weights.device
    x, targets = (torch.from_numpy(a[0]).to(device) for a in (drawn.inputs, drawn.targets))
    return Evaluation(spec, task, before, x, targets)


def _measure(
    spec: RunSpec, task: Task, before: Pack, run: _Run
) -> tuple[dict[str, float], list[str]]:
    if run.trained is None:
        return {}, [f"loss not finite at iteration {run.iterations}"]
    try:
        of_run = run.evaluation or evaluation(spec, task, before)
        measures, flags = of_run.measures(run.trained)
    except Diverged as error:
        # This network's failure, not its pack's; all else is no finding, and fails the pack without a record.
        run.status = "diverged"
        return {}, [f"{error} after iteration {run.iterations}"]
    if spec.checkpoints:
        names = [name for name in run.trajectory if name != "iteration"]
        final = {name: measures[name if name in measures else f"{name}_final"] for name in names}
        run.extend(run.iterations, final)
    measures["final_loss"] = run.curves["loss"][-1]
    if "accuracy" in run.curves:
        measures["final_accuracy"] = run.curves["accuracy"][-1]
    return measures, flags


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """For strict JSON: None for what is not a finite number."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _pretrained(
    specs: Sequence[RunSpec], task: Task, device: torch.device, teachers: Mapping[str, Record]
) -> dict[str, Weights]:
    """The weights of the runs' teachers by key, from their records or from training them now."""
    found = {}
    for teacher in dict.fromkeys(spec.teacher for spec in specs if spec.teacher is not None):
        record = teachers.get(teacher.key)
        if record is None:
            (record,) = train_pack([teacher], task, device=device)
        if "weights" not in record:
            raise ValueError(f"teacher: expected a trained network, got {teacher}, which diverged")
        found[teacher.key] = _decoded(record["weights"])
    return found


def _encoded(pack: Pack) -> dict[str, dict[str, Any]]:
    """The weights of a pack of one network for its record: little-endian fp32 in base64."""
    weights = {"recurrent": pack.recurrent, "input": pack.input, "readout": pack.readout}
    arrays = {name: value[0].cpu().numpy().astype("<f4") for name, value in weights.items()}
    return {
        name: {"shape": list(a.shape), "float32": base64.b64encode(a.tobytes()).decode()}
        for name, a in arrays.items()
    }


def _decoded(weights: Mapping[str, Mapping[str, Any]]) -> Weights:
    return {
        name: torch.from_numpy(
            np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"]).copy()
        )
        for name, value in weights.items()
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """What produced a record: versions, device, git commit of this source tree (None outside a checkout)."""
    versions = {"python": platform.python_version()}
    for name in ("hpr-richlazy", "torch", "triton", "numpy", "scipy", "neurogym"):
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
        "cores": available_cores(),
        "git": _git_commit(),
    }


@cache
def _git_commit() -> str | None:
    """The commit of this source tree, `-dirty` where tracked files differ; None where it isn't tracked by git."""
    here = Path(__file__)
    # Another repository may be named in the environment. `git describe --dirty` would rewrite the index, whatever
    # the locks; `git status` asks a monitor of the repository's own, which is a program to be run.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    git = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false"]
    found = []
    for command in (
        ["ls-files", "--error-unmatch", here.name],
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    ):
        try:
            done = subprocess.run(
                [*git, *command],
                cwd=here.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found.append(done.stdout.decode("utf-8", "replace").strip())
    return f"{found[1]}-dirty" if found[2] else found[1]
