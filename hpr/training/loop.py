"""Train a pack of networks together and measure each: SGD with momentum on the task's loss (Appendix C.2).

Networks of a pack do not see each other: every product is batched over the pack, every reduction stays inside a
network, and trials depend on (task, seed, step) alone. So a run's result is the same alone, in a pack, and in any
order. A network that is done, because it reached its accuracy or its loss is not finite, leaves the pack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hpr import connectivity
from hpr.experiment.provenance import provenance
from hpr.experiment.record import SCHEMA, Record
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.course import Course, checkpoints, finite_or_none
from hpr.training.initial import initial_pack
from hpr.training.lazy_distance import lazy_distances
from hpr.training.native_step import NativeStep
from hpr.training.pack import Pack, Weights, lanes
from hpr.training.step import Step
from hpr.training.trials import WINDOW
from hpr.training.weights import decoded, encoded
from hpr_kernels.internal import iterations, outside_autocast, uses_native, uses_triton


class Trainer(Protocol):
    """What trains a pack: `NativeStep` by C kernels, `FusedStep` by Triton's, `Step` by torch's operations."""

    pack: Pack

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advance by one batch, x [R, T, B, N_in]; returns the loss and, for classes, the accuracy before it, [R]."""

    def window(
        self, specs: Sequence[RunSpec], start: int, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """Train iterations start … start + count - 1 of the runs `specs`.

        Returns:
            losses and, for classes, accuracies, [R, count] each.
        """

    def select(self, networks: list[int]) -> Trainer:
        """A trainer of some of the networks, which go on from where they are."""


@outside_autocast
def train_pack(
    specs: Sequence[RunSpec],
    task: Task,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda iterations: None,
    teachers: Mapping[str, Record] | None = None,
    lazy_distance: bool = False,
) -> list[Record]:
    """Train runs of one shape together; return each one's record, in order (see `hpr.experiment.record`).

    `progress(k)` is called as iterations pass, with the k iterations since the last call. `teachers` holds records by
    key, in which the runs' teachers are looked up; a teacher without a record there is trained here first, with the
    same result. With `lazy_distance` the linearised networks are trained too, which about doubles the cost, and the
    measures have the value of `hpr.training.lazy_distance`; nothing else of a record changes.

    Raises:
        ValueError: the runs are of several shapes, the task is not theirs (its content too: see `hpr.experiment.bind`),
            its trials are no data, or a structure draws no valid weights, or other weights each time.
    """
    _check(specs, task)
    pretrained = _pretrained(specs, task, device, teachers or {})
    started = datetime.now(timezone.utc)
    clock = time.perf_counter()
    pack = initial_pack(specs, task, device, pretrained)
    source = provenance(device, engine(pack, specs[0]))
    initial = pack.select(range(len(specs)))
    courses = [Course(spec) for spec in specs]
    with torch.no_grad():
        for index, course in enumerate(courses):
            course.start(task, initial.select([index]))
        _train(courses, task, pack, progress)
        shared = {
            "started": started.isoformat(timespec="seconds"),
            "pack": len(specs),
            "training_s": round((time.perf_counter() - clock) / len(specs), 3),
        }
        if lazy_distance:
            _compare_with_linearised(courses, task, initial)
        return [
            _record(course, task, initial.select([index]), source, shared)
            for index, course in enumerate(courses)
        ]


def _check(specs: Sequence[RunSpec], task: Task) -> None:
    """Refuse what can't be trained, or can't be kept, before any training."""
    if len({spec.shape for spec in specs}) != 1:
        raise ValueError(
            "specs: expected runs of one shape, got several; see hpr.experiment.plan.packs"
        )
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
            "hpr.experiment.bind gives a run the content of its task"
        )
    if task.loss == "mse" and specs[0].stop_accuracy is not None:
        raise ValueError(
            f"stop_accuracy: expected None for a regression, got {specs[0].stop_accuracy}"
        )
    for spec in specs:
        weights = connectivity.drawn(spec.connectivity, spec.N, spec.seed)
        if weights != spec.drawn:
            raise ValueError(
                f"drawn: expected {weights!r}, what {spec.label} draws here, got {spec.drawn!r}; "
                "hpr.experiment.bind gives a run the digest of its weights"
            )


def _pretrained(
    specs: Sequence[RunSpec], task: Task, device: torch.device, teachers: Mapping[str, Record]
) -> dict[str, Weights]:
    """The weights of the runs' teachers by key, from their records or by training them now."""
    found = {}
    for teacher in dict.fromkeys(spec.teacher for spec in specs if spec.teacher is not None):
        record = teachers.get(teacher.key)
        if record is None:
            (record,) = train_pack([teacher], task, device=device)
        if "weights" not in record:
            raise ValueError(f"teacher: expected a trained network, got {teacher}, which diverged")
        found[teacher.key] = decoded(record["weights"])
    return found


def _compare_with_linearised(courses: Sequence[Course], task: Task, initial: Pack) -> None:
    """Measure the lazy distance of each run that has not diverged."""
    trained = {i: course.trained for i, course in enumerate(courses) if course.trained is not None}
    if not trained:
        return
    ended = [courses[i] for i in trained]
    distances = lazy_distances(
        [course.spec for course in ended],
        task,
        initial.select([*trained]),
        [*trained.values()],
        [course.iterations for course in ended],
    )
    for course, distance in zip(ended, distances, strict=True):
        course.lazy_distance = distance


def _record(
    course: Course,
    task: Task,
    initial: Pack,
    source: dict[str, Any],
    timings: dict[str, Any],
) -> Record:
    """Measure a run whose training has ended, and make its record."""
    clock = time.perf_counter()
    spec = course.spec
    measures, flags = course.measure(task, initial)
    record: Record = {
        "schema": SCHEMA,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": course.status,
        "iterations": course.iterations,
        "curves": course.curves,
        "measures": finite_or_none(measures),
        "flags": flags,
        "provenance": source,
        "timings": {**timings, "measures_s": round(time.perf_counter() - clock, 3)},
    }
    if spec.checkpoints:
        record["trajectory"] = course.trajectory
    if spec.keep_weights and course.trained is not None:
        record["weights"] = encoded(course.trained)
    return record


def engine(pack: Pack, spec: RunSpec) -> Literal["native", "triton", "torch"]:
    """What sums the products of training: C kernels, Triton's, or torch. Each rounds in its own way."""
    if uses_native(pack.weights) and spec.activation in iterations.ACTIVATIONS:
        return "native"
    return "triton" if uses_triton(pack.weights) else "torch"


def new_trainer(pack: Pack, spec: RunSpec, task: Task) -> Trainer:
    """The trainer of a pack by its `engine`. Triton has one for the paper's kind of network, and torch for all."""
    kind = engine(pack, spec)
    if kind == "native":
        return NativeStep(pack, spec, task)
    usual = spec.model == "leaky_rnn" and spec.activation == "relu"
    if usual and task.loss == "cross_entropy" and kind == "triton":
        from hpr.training.fused_step import FusedStep

        return FusedStep(pack, spec, task)
    return Step(pack, spec, task)


def _train(courses: list[Course], task: Task, pack: Pack, progress: Callable[[int], None]) -> None:
    """Train until every run has ended, window by window."""
    spec = courses[0].spec
    active = list(courses)
    # The C kernels train a lone network as they train it in a pack.
    together = list if engine(pack, spec) == "native" else lanes
    trainer = new_trainer(pack.select(together(range(len(active)))), spec, task)
    # The first and the last point of a trajectory are taken before and after training.
    points = set(checkpoints(spec)) - {0, spec.iterations} if spec.checkpoints else set()
    for start in range(0, spec.iterations, WINDOW):
        stop = min(start + WINDOW, spec.iterations)
        ends = sorted({stop, *(point for point in points if start < point < stop)})
        parts = []
        for first, last in zip([start, *ends], ends, strict=False):
            runs = [active[i].spec for i in together(range(len(active)))]
            parts.append(trainer.window(runs, first, last - first))
            if last in points:
                for position, course in enumerate(active):
                    course.observe(trainer.pack.select([position]), last)
        losses, accuracies = (_joined(part) for part in zip(*parts, strict=True))
        progress(stop - start)
        assert losses is not None
        going = []
        for position, course in enumerate(active):
            of_run = None if accuracies is None else accuracies[position]
            if course.close_window(start, losses[position], of_run):
                going.append(position)
            elif course.status == "stopped":
                course.trained = trainer.pack.select([position])
        if len(going) < len(active):
            active = [active[position] for position in going]
            if not active:
                progress(spec.iterations - stop)
                return
            trainer = trainer.select(together(going))
    for position, course in enumerate(active):
        course.trained = trainer.pack.select([position])


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Losses or accuracies of a window's parts, [R, count], on the CPU."""
    given = [part.cpu() for part in parts if part is not None]
    return torch.cat(given, 1) if given else None
