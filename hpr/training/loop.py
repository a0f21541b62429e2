"""Train a pack of networks together and measure each: SGD with momentum on the task's loss (Appendix C.2).

Networks of a pack do not see each other: every product is batched over the pack, every reduction stays inside a
network, and trials depend on (task, seed, step) alone. So a run's result is the same alone, in a pack, and in any
order. A network that is done, because it reached its accuracy or its loss is not finite, leaves the pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial

import torch

from hpr import connectivity
from hpr.experiment.checkpoints import Checkpoints
from hpr.experiment.combinations import check_task
from hpr.experiment.provenance import Meter, provenance
from hpr.experiment.record import Record
from hpr.experiment.run_progress import PackState, unheard
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.training.alone import Alone, Fail
from hpr.training.autograd_step import by_autograd
from hpr.training.cohort import new_learner
from hpr.training.course import Course
from hpr.training.initial import initial_pack
from hpr.training.own_measures import OWN_MEASURES, Measure
from hpr.training.recovery import Recovery
from hpr.training.session import Keep, Session
from hpr.training.teachers import Pretrained
from hpr.training.trainer import engine, new_trainer
from hpr.training.watch import ASKED, Stopped, Watch
from hpr_kernels.internal import outside_autocast

__all__ = ["Stopped", "new_trainer", "sent_train_pack", "train_pack"]


def never() -> bool:
    """No."""
    return False


@outside_autocast
def train_pack(
    specs: Sequence[RunSpec],
    task: Task,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda iterations: None,
    teachers: Mapping[str, Record] | None = None,
    lazy_distance: bool = False,
    checkpoints: Checkpoints | None = None,
    keep: Keep | None = None,
    fail: Fail | None = None,
    state: Callable[[PackState], None] = unheard,
    stop: Callable[[], bool] = never,
    measures: Mapping[str, Measure] | None = None,
) -> list[Record]:
    """Train runs of one shape together; return the records of those that got one, in order (`hpr.experiment.record`).

    With `lazy_distance` the linearised networks are trained too, which about doubles the cost, and the measures have
    the value of `hpr.training.lazy_distance`; nothing else of a record changes.

    Args:
        specs: the runs.
        task: their task.
        device: where to train.
        progress: called as iterations pass, with the number of iterations since the last call.
        teachers: records by key, in which the runs' teachers are looked up; a teacher without a record there is
            trained here first, with the same result.
        lazy_distance: whether to measure it.
        checkpoints: where the runs' states are written every `checkpoints.period` seconds, and where runs that an
            earlier call left go on from. The records are those of an uninterrupted call, but for their timings.
        keep: called with a run and its record as soon as the run is measured, which is when it leaves the pack. The
            run's checkpoint is removed afterwards. If `keep` raises, the checkpoint stays, the other runs go on, and
            the error goes to `fail`, or without `fail` is raised at the end.
        fail: called with a run and an error that concerns this run alone, as one in drawing its weights, training its
            teacher or measuring it; the other runs go on. Without `fail` such an error is raised.
        state: called at the end of each window of iterations, at each point of a trajectory, and when checkpoints are
            written or a run is measured.
        stop: asked about once per second whether to stop.
        measures: your own measures, for a process in which they may not be registered (`sent_train_pack`).

    Raises:
        ValueError: the runs are of several shapes, the task is not theirs (its content too: see `hpr.experiment.bind`),
            its trials are no data, or a structure draws no valid weights, or other weights each time.
        MemoryError, torch.OutOfMemoryError: there is no memory for a pack of this size.
        Stopped: `stop` returned True; the checkpoints hold the state of all runs that have no record.
    """
    OWN_MEASURES.update(measures or {})
    return _train(
        specs, task, device, progress, teachers or {}, lazy_distance, checkpoints, keep, fail,
        state, stop,
    )  # fmt: skip


def sent_train_pack() -> Callable[..., list[Record]]:
    """`train_pack` for other processes, which brings them the measures that are registered here."""
    return partial(train_pack, measures=dict(OWN_MEASURES)) if OWN_MEASURES else train_pack


# Longer than 60 lines: a third of it passes the arguments on.
def _train(
    specs: Sequence[RunSpec],
    task: Task,
    device: torch.device,
    progress: Callable[[int], None],
    teachers: Mapping[str, Record],
    lazy_distance: bool,
    checkpoints: Checkpoints | None,
    keep: Keep | None,
    fail: Fail | None,
    state: Callable[[PackState], None],
    stop: Callable[[], bool],
    lasting: bool = False,
) -> list[Record]:
    """As `train_pack`; with `lasting`, the checkpoints stay when the records are made."""
    _check(specs, task, lazy_distance)
    alone = Alone(fail)
    sound = []
    for spec in specs:
        with alone(spec):
            _check_drawn(spec)
            sound.append(spec)

    def trained(teacher: RunSpec) -> Record:
        (record,) = _train(
            [teacher], task, device, lambda iterations: None, {}, False, checkpoints, None, None,
            unheard, stop, lasting=True,
        )  # fmt: skip
        return record

    pretrained = Pretrained(teachers, trained)
    known = []
    for spec in sound:
        with alone(spec):
            pretrained.find(spec)
            known.append(spec)
    watch = Watch(stop, checkpoints.period if checkpoints else math.inf)
    courses = _courses(known, task, device, pretrained, alone, watch)
    if not courses:
        return []
    source = provenance(device, engine(courses[0].initial, specs[0]))
    session = Session(
        courses=courses,
        task=task,
        size=len(specs),
        provenance=source,
        watch=watch,
        alone=alone,
        progress=progress,
        state=state,
        recovery=Recovery(checkpoints, source),
        keep=keep,
        with_lazy_distance=lazy_distance,
        lasting=lasting,
    )
    with torch.no_grad():
        records = session.run(partial(new_trainer, spec=specs[0], task=task))
    if checkpoints is not None and not lasting:
        for teacher in pretrained.trained:
            checkpoints.drop(teacher)
    return records


def _courses(
    specs: Sequence[RunSpec],
    task: Task,
    device: torch.device,
    pretrained: Pretrained,
    alone: Alone,
    watch: Watch,
) -> list[Course]:
    """The runs whose initial weights could be drawn."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    courses = []
    for spec in specs:
        if watch.stopping():
            raise Stopped(ASKED)
        meter = Meter()
        with alone(spec):
            initial = initial_pack([spec], task, device, pretrained.weights)
            learner = new_learner(spec, spec.iterations, initial)
            course = Course(spec, initial, learner, started)
            course.spend(meter)
            courses.append(course)
    return courses


def _check(specs: Sequence[RunSpec], task: Task, lazy_distance: bool) -> None:
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
    check_task(specs[0], task)
    if lazy_distance and by_autograd(specs[0]):
        raise ValueError(
            "lazy_distance: expected leaky units without biases and noise, all trained by plain SGD, "
            f"got {specs[0]}"
        )


def _check_drawn(spec: RunSpec) -> None:
    """Refuse a run whose structure draws other weights than when the run was bound to its task."""
    weights = connectivity.drawn(spec.connectivity, spec.N, spec.seed)
    if weights != spec.drawn:
        raise ValueError(
            f"drawn: expected {weights!r}, what {spec.label} draws here, got {spec.drawn!r}; "
            "hpr.experiment.bind gives a run the digest of its weights"
        )
