"""What happens to one run while its pack trains: its status, its curves, and its trajectory of measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.evaluation import Diverged, Evaluation, evaluation, not_finite
from hpr.training.pack import Pack


@dataclass
class Course:
    """The state of a run besides its weights, which are in the pack that trains.

    `status` and `curves` are those of the run's record. `trained` is a pack of this one network, set when its training
    has ended. `evaluation` is made before training where the specification asks for a trajectory. `lazy_distance` is
    set after training where it is asked for.
    """

    spec: RunSpec
    status: str = "finished"
    iterations: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    trained: Pack | None = None
    evaluation: Evaluation | None = None
    trajectory: dict[str, list[float | None]] = field(default_factory=dict)
    lazy_distance: float | None = None

    def start(self, task: Task, initial: Pack) -> None:
        """Evaluate the untrained network, the first point of a trajectory; `initial` holds this one network."""
        if self.spec.checkpoints:
            self.evaluation = evaluation(self.spec, task, initial)
            self.extend(0, self.evaluation.initial)

    def observe(self, pack: Pack, iteration: int) -> None:
        """Extend the trajectory by the state of the network after `iteration` iterations."""
        assert self.evaluation is not None
        try:
            point = self.evaluation.trajectory_point(pack)
        except Diverged:
            # `close_window` will see the loss and settle the run.
            return
        self.extend(iteration, point)

    def extend(self, iteration: int, point: Mapping[str, float]) -> None:
        """Append a point to the trajectory, unless its last point is of the same iteration."""
        if self.trajectory.get("iteration", [])[-1:] != [iteration]:
            for name, value in finite_or_none({"iteration": iteration, **point}).items():
                self.trajectory.setdefault(name, []).append(value)

    def close_window(self, start: int, losses: Tensor, accuracies: Tensor | None) -> bool:
        """Extend the curves by a window's means and return whether the run goes on.

        Args:
            start: iterations before the window.
            losses: the loss of each iteration, [count].
            accuracies: the accuracy of each iteration, [count]; None for a regression.
        """
        finite = losses.isfinite()
        if not bool(finite.all()):
            self.status = "diverged"
            self.iterations = start + int(finite.logical_not().int().argmax())
            return False
        self.iterations = start + len(losses)
        point = {"iteration": self.iterations, "loss": float(losses.double().mean())}
        if accuracies is not None:
            point["accuracy"] = float(accuracies.double().mean())
        for name, value in point.items():
            self.curves.setdefault(name, []).append(value)
        wanted = self.spec.stop_accuracy
        if wanted is not None and point["accuracy"] >= wanted:
            self.status = "stopped"
            return False
        return True

    def measure(self, task: Task, initial: Pack) -> tuple[dict[str, float], list[str]]:
        """The measures of the record and its flags; none where the run diverged. `initial` as in `start`."""
        spec = self.spec
        if self.trained is None:
            return {}, [f"loss not finite at iteration {self.iterations}"]
        try:
            of_run = self.evaluation or evaluation(spec, task, initial)
            measures, flags = of_run.measures(self.trained)
        except Diverged as error:
            # Only this network diverged. Any other error is no finding, and fails the pack without a record.
            self.status = "diverged"
            return {}, [f"{error} after iteration {self.iterations}"]
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
        return measures, flags


def checkpoints(spec: RunSpec) -> list[int]:
    """Iterations of the trajectory's points: the start, and `spec.checkpoints` evenly spaced in their logarithm."""
    spaced = np.geomspace(1, spec.iterations, spec.checkpoints)
    return sorted({0, *(round(float(iteration)) for iteration in spaced)})


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values, with None for each that is not a finite number: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
