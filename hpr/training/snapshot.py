"""The tensors and plain values of a run in training, from which a checkpoint restores it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hpr.experiment.record import STATUSES
from hpr.fields import shown
from hpr.tasks import Task
from hpr.training.cohort import Learner, Tensors
from hpr.training.course import Course
from hpr.training.evaluation import OF_KERNEL
from hpr.training.lazy_distance import linearised_learner
from hpr.training.trials import WINDOW

# The names of the linearised network's tensors begin with this.
LINEARISED = "linearised_"


def shapes(course: Course, task: Task) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that the checkpoint of a run may hold; the linearised network may be missing."""
    found = {name: tuple(tensor.shape) for name, tensor in course.learner.tensors.items()}
    found |= {LINEARISED + name: shape for name, shape in found.items()}
    found["losses"] = (WINDOW,)
    if task.loss == "cross_entropy":
        found["accuracies"] = (WINDOW,)
    return found


def snapshot(
    course: Course, tensors: Tensors, linearised: Tensors
) -> tuple[Tensors, dict[str, Any]]:
    """What a checkpoint holds of a run: tensors on the CPU, and plain values.

    Args:
        course: the run.
        tensors: those of its network now (`Cohort.tensors`).
        linearised: those of its linearised network; none where it has none.
    """
    held = {**tensors, **{LINEARISED + name: tensor for name, tensor in linearised.items()}}
    for name, pieces in (("losses", course.losses), ("accuracies", course.accuracies)):
        if pieces or name == "losses":
            # Whatever dtype this process makes tensors of by default.
            held[name] = torch.zeros(WINDOW, dtype=torch.float32)
            if pieces:
                window = torch.cat(pieces)
                held[name][: len(window)] = window
    state = {
        "step": course.learner.step,
        "window": sum(map(len, course.losses)),
        "status": course.status,
        "iterations": course.iterations,
        "curves": course.curves,
        "trajectory": course.trajectory,
        "linearised_step": course.linearised.step if course.linearised else 0,
        "seconds": course.seconds,
        "cpu_seconds": course.cpu_seconds,
        "started": course.started,
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in held.items()}, state


def restore(course: Course, task: Task, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Let a fresh run go on from what `snapshot` gave.

    Raises:
        ValueError: one line; this is no state of the run. The course is unchanged then.
    """
    spec, learner = course.spec, course.learner
    step = _whole(state, "step", spec.iterations)
    window = _whole(state, "window", min(step, WINDOW))
    iterations = _whole(state, "iterations", step)
    status, started = state.get("status"), state.get("started")
    seconds, cpu_seconds = (_duration(state, name) for name in ("seconds", "cpu_seconds"))
    if (step - window) % WINDOW and step - window < spec.iterations:
        raise ValueError(f"window: expected one that begins where the last ended, got {window}")
    if status not in STATUSES or (window and status != "finished"):
        raise ValueError(f"status: expected one of a run in training, got {shown(status)}")
    if not isinstance(started, str) or len(started) > 40:
        raise ValueError(f"started: expected a date, got {shown(started)}")
    classes = task.loss == "cross_entropy"
    closed = [min(end, step - window) for end in range(WINDOW, step - window + WINDOW, WINDOW)]
    if status == "diverged":
        closed = closed[:-1]
    curves = _series(state, "curves", ("iteration", "loss", *(["accuracy"] if classes else [])))
    if curves.get("iteration", []) != closed:
        raise ValueError(f"curves: expected points at {shown(closed)}, got {shown(curves)}")
    trajectory = state.get("trajectory")
    if trajectory != {}:
        trajectory = _series(state, "trajectory", ("iteration", *OF_KERNEL))
        if not spec.checkpoints or trajectory["iteration"][:1] != [0]:
            raise ValueError(f"trajectory: expected points from 0 on, got {shown(trajectory)}")
    wanted = {*learner.tensors, "losses", *(["accuracies"] if classes and window else [])}
    if missing := wanted - set(tensors):
        raise ValueError(f"tensors: expected {sorted(wanted)}, got none of {sorted(missing)}")
    ended = status == "stopped" or (status == "finished" and step == spec.iterations and not window)
    linearised_step = _whole(state, "linearised_step", step if ended else 0)
    linearised = _linearised(course, tensors, linearised_step, step)
    device = course.initial.weights.device
    learner.step = step
    learner.tensors = {name: tensors[name].to(device) for name in learner.tensors}
    course.losses = [tensors["losses"][:window]] if window else []
    course.accuracies = [tensors["accuracies"][:window]] if classes and window else []
    course.status, course.iterations, course.curves = str(status), iterations, curves
    course.trajectory, course.linearised = trajectory, linearised
    course.started = started
    course.seconds += seconds
    course.cpu_seconds += cpu_seconds


def _linearised(course: Course, tensors: Tensors, step: int, goal: int) -> Learner | None:
    """The linearised network that a checkpoint holds, after `step` of `goal` iterations; None before the first."""
    if step == 0:
        return None
    learner = linearised_learner(course.spec, course.initial, goal)
    if any(LINEARISED + name not in tensors for name in learner.tensors):
        raise ValueError("tensors: expected those of the linearised network, got none")
    device = course.initial.weights.device
    learner.tensors = {name: tensors[LINEARISED + name].to(device) for name in learner.tensors}
    learner.step = step
    return learner


def _whole(state: Mapping[str, Any], name: str, most: int) -> int:
    value = state.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name}: expected an integer from 0 to {most}, got {shown(value)}")
    return value


def _duration(state: Mapping[str, Any], name: str) -> float:
    value: Any = state.get(name)
    if not (_is_number(value) and value >= 0):
        raise ValueError(f"{name}: expected a number of at least 0, got {shown(value)}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _series(state: Mapping[str, Any], name: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """Columns of equal length of numbers, or None for a number that was not finite; {} before the first point."""
    value = state.get(name)
    if value == {}:
        return {}
    if not isinstance(value, dict) or set(value) != set(columns):
        raise ValueError(f"{name}: expected {sorted(columns)}, got {shown(value)}")
    lists = list(value.values())
    if not all(isinstance(column, list) and len(column) == len(lists[0]) for column in lists):
        raise ValueError(f"{name}: expected lists of one length, got {shown(value)}")
    if not all(number is None or _is_number(number) for column in lists for number in column):
        raise ValueError(f"{name}: expected numbers, got {shown(value)}")
    return value
