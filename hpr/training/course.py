"""What happens to one run while its pack trains: its status, its curves, and its trajectory of measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hpr.experiment.provenance import Meter
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.cohort import Learner
from hpr.training.evaluation import Diverged, Evaluation, evaluation, not_finite
from hpr.training.pack import Pack


@dataclass(eq=False)
class Course:
    """The state of a run.

    `status` and `curves` are those of the run's record. `learner` is the network in training, and `losses` and
    `accuracies` are those of its iterations since the last window ended, in pieces. `evaluation` is made before
    training where the specification asks for a trajectory. `linearised` is the linearised network in training, and
    `lazy_distance` is set after that, where they are asked for. `seconds` and
    `cpu_seconds` are the run's share of the time of training (`spend`).
    """

    spec: RunSpec
    initial: Pack  # of this one network
    learner: Learner
    started: str
    status: str = "finished"
    iterations: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    accuracies: list[Tensor] = field(default_factory=list)
    evaluation: Evaluation | None = None
    trajectory: dict[str, list[float | None]] = field(default_factory=dict)
    linearised: Learner | None = None
    lazy_distance: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether training has ended."""
        last = self.learner.step == self.spec.iterations and not self.losses
        return self.status != "finished" or last

    def spend(self, meter: Meter, runs: int = 1) -> None:
        """Count the time of a meter, which `runs` runs share evenly."""
        wall, cpu = meter.spent()
        self.seconds += wall / runs
        self.cpu_seconds += cpu / runs

    def start(self, task: Task) -> None:
        """Evaluate the untrained network, the first point of a trajectory."""
        if self.spec.checkpoints and self.status != "diverged":
            self.evaluation = evaluation(self.spec, task, self.initial)
            if not self.trajectory:
                self.extend(0, self.evaluation.initial)

    def observe(self, pack: Pack) -> None:
        """Extend the trajectory by the state of the network now; `pack` holds this one network."""
        assert self.evaluation is not None
        step = self.learner.step
        if self.trajectory["iteration"][-1:] == [step]:
            return
        try:
            point = self.evaluation.trajectory_point(pack)
        except Diverged:
            # `close_window` will see the loss and settle the run.
            return
        self.extend(step, point)

    def extend(self, iteration: int, point: Mapping[str, float]) -> None:
        """Append a point to the trajectory, unless its last point is of the same iteration."""
        if self.trajectory.get("iteration", [])[-1:] != [iteration]:
            for name, value in finite_or_none({"iteration": iteration, **point}).items():
                self.trajectory.setdefault(name, []).append(value)

    def close_window(self) -> None:
        """Extend the curves by the means of `losses` and `accuracies`; the run may end by them."""
        losses = torch.cat(self.losses)
        accuracies = torch.cat(self.accuracies) if self.accuracies else None
        self.losses, self.accuracies = [], []
        start = self.learner.step - len(losses)
        finite = losses.isfinite()
        if not bool(finite.all()):
            self.status = "diverged"
            self.iterations = start + int(finite.logical_not().int().argmax())
            return
        self.iterations = start + len(losses)
        point = {"iteration": self.iterations, "loss": float(losses.double().mean())}
        if accuracies is not None:
            point["accuracy"] = float(accuracies.double().mean())
        for name, value in point.items():
            self.curves.setdefault(name, []).append(value)
        wanted = self.spec.stop_accuracy
        if wanted is not None and point["accuracy"] >= wanted:
            self.status = "stopped"

    def measure(self, task: Task) -> tuple[str, dict[str, float], list[str]]:
        """The status, measures and flags of the record, after training; no measures where the run diverged."""
        spec = self.spec
        if self.status == "diverged":
            return self.status, {}, [f"loss not finite at iteration {self.iterations}"]
        try:
            of_run = self.evaluation or evaluation(spec, task, self.initial)
            measures, flags = of_run.measures(self.learner.pack)
        except Diverged as error:
            # Only this network diverged. Any other error is no finding, and leaves no record.
            return "diverged", {}, [f"{error} after iteration {self.iterations}"]
        if spec.checkpoints:
            names = [name for name in self.trajectory if name != "iteration"]
            final = {
                name: measures[name if name in measures else f"{name}_final"] for name in names
            }
            self.extend(self.iterations, final)
        if self.lazy_distance is not None:
            own = {"lazy_distance": self.lazy_distance}
            measures |= own
            flags += not_finite(own)
        measures["final_loss"] = self.curves["loss"][-1]
        if "accuracy" in self.curves:
            measures["final_accuracy"] = self.curves["accuracy"][-1]
        return self.status, measures, flags


def checkpoints(spec: RunSpec) -> list[int]:
    """Iterations of the trajectory's points: the start, and `spec.checkpoints` evenly spaced in their logarithm."""
    spaced = np.geomspace(1, spec.iterations, spec.checkpoints)
    return sorted({0, *(round(float(iteration)) for iteration in spaced)})


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values, with None for each that is not a finite number: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
