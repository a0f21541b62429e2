"""Time a few iterations and measures of packs, for a forecast; `hpr.training.calibration` starts this program."""

from __future__ import annotations

import contextlib
import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from hpr.experiment.cost import cost
from hpr.experiment.plan import TaskOf
from hpr.experiment.provenance import whereabouts
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import Base, PackTiming, Request
from hpr.tasks import Task
from hpr.training.evaluation import Diverged, Evaluation, evaluation
from hpr.training.initial import initial_pack
from hpr.training.pack import Pack, together
from hpr.training.trainer import Trainer, new_trainer
from hpr_kernels.internal import outside_autocast

Result = TypeVar("Result")

# Seconds that the timed iterations of a pack take, unless one iteration takes longer.
ITERATING = 0.2
# Measures for which a kernel takes more seconds are timed with fewer trials, and one in `FEW` trials tells of it.
LONG = 0.5
FEW = 8


def timings(request: Request) -> Iterator[Base | tuple[int, PackTiming | str]]:
    """The memory of the process, and then for each pack its place and its timing, or in words why it has none."""
    torch.set_num_threads(request.threads)
    device = torch.device(request.device)
    yield Base(_peak(device))
    end = math.inf
    for number in range(len(request.packs)):
        if time.perf_counter() > end:
            return
        place = (request.first + number) % len(request.packs)
        try:
            yield place, _timing(request.packs[place], request.task_of, device, fresh=not number)
        except Exception as error:
            yield place, " ".join(f"{type(error).__name__}: {error}".split())
        end = min(end, time.perf_counter() + request.seconds)


def serve_timings() -> None:
    """Time what the process that started this one asks for."""
    request = pickle.load(sys.stdin.buffer)
    out = sys.stdout.buffer
    # What a task prints must not come between.
    sys.stdout = sys.stderr
    for found in timings(request):
        pickle.dump(found, out)
        out.flush()


@outside_autocast
def _timing(
    pack: Sequence[RunSpec], task_of: TaskOf, device: torch.device, *, fresh: bool
) -> PackTiming:
    """The timing of a pack; `fresh`: it is the first of this process."""
    # Weights that are aligned with a teacher's take as long.
    specs = [replace(spec, aligned=None, teacher=None) for spec in pack]
    spec = specs[0]
    making, task = _timed(lambda: task_of(spec))
    R, lone = len(specs), [spec]
    try:
        initial_pack(lone, task, device)
    except (ValueError, OSError):
        # A matrix of the user's own may be known to the planning process alone.
        lone = [replace(spec, connectivity=spec.shape.connectivity, drawn=None)]
        initial_pack(lone, task, device)
    drawing, one = _timed(lambda: initial_pack(lone, task, device))
    with torch.no_grad():
        trainer = new_trainer(together([one] * R), spec, task)
        unit = trainer.unit(specs)
        count, iterating = _iterating(trainer, specs, unit)
        trained = trainer.pack.select([0])
        loading = 0.0
        if fresh:
            few = _with_trials(spec, FEW)
            once, _ = _timed(lambda: _measured(few, task, one, trained))
            again, _ = _timed(lambda: _measured(few, task, one, trained))
            loading = max(0.0, once - again)
        measuring, point = _measuring(spec, task, one, trained)
    iteration = iterating / count / R
    return PackTiming(making, loading, drawing, iteration, measuring, point, _peak(device))


def _iterating(trainer: Trainer, specs: Sequence[RunSpec], unit: int) -> tuple[int, float]:
    """A number of iterations, and the seconds that they took in one window.

    A window begins with a fixed cost, such as that of making each run's generator of trials, so it is lengthened until
    it takes half of `ITERATING` or more. The first one may compile or allocate, and tells the first length alone.
    """

    def taken(start: int, count: int) -> float:
        return _timed(lambda: _window(trainer.window(specs, start, count)))[0]

    start, count, seconds = unit, unit, taken(0, unit)
    while True:
        count = max(count, unit * int(count / unit * ITERATING / seconds))
        seconds = taken(start, count)
        if seconds >= ITERATING / 2:
            return count, seconds
        start += count


def _window(results: tuple[Tensor, Tensor | None]) -> None:
    """Wait for a GPU."""
    results[0].cpu()


def _measuring(spec: RunSpec, task: Task, before: Pack, after: Pack) -> tuple[float, float]:
    """Seconds of the measures of a run, and of a point of its trajectory; 0 where it has none.

    Where they take long, kernels of half of the trials are timed and scaled by their FLOPs.
    """

    def share(trials: RunSpec) -> float:
        return cost([spec], task).kernel_flops / cost([trials], task).kernel_flops

    few, half = (_with_trials(spec, part) for part in (FEW, 2))
    starting, run = _timed(lambda: evaluation(few, task, before))
    if starting * share(few) < LONG:
        measuring, run = _timed(lambda: _measured(spec, task, before, after))
        point = _timed(lambda: run.trajectory_point(after))[0] if spec.checkpoints else 0.0
        return measuring, point
    ending, _ = _timed(lambda: _measured(few, task, before, after))
    # What an evaluation does at its start for one kernel, the measures do for the other, and more.
    point = _timed(lambda: evaluation(half, task, before))[0] * share(half)
    more = max(0.0, ending - 2 * starting)
    return 2 * point + more, point if spec.checkpoints else 0.0


def _with_trials(spec: RunSpec, part: int) -> RunSpec:
    """The run with a kernel of one in `part` trials."""
    return replace(spec, kernel_trials=-(-spec.kernel_trials // part))


def _measured(spec: RunSpec, task: Task, before: Pack, after: Pack) -> Evaluation:
    run = evaluation(spec, task, before)
    # Weights of a few iterations may have diverged already, and then there are none.
    with contextlib.suppress(Diverged):
        run.measures(after)
    return run


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _peak(device: torch.device) -> float:
    return float(whereabouts(device).get("peak_memory", 0.0))
