"""Time the costliest packs of a plan for a few seconds, in as many processes at once as will train.

Nothing here imports torch, which the timing processes do (`hpr.training.timing`).
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpr.experiment.cluster import ask_workers
from hpr.experiment.cost import Cost
from hpr.experiment.plan import Plan, TaskOf, pack_cost
from hpr.experiment.specification import RunSpec
from hpr.experiment.speed import Request, Speed, Timing
from hpr.system.devices import Device, cores
from hpr.system.paths import cache_folder

if TYPE_CHECKING:
    from hpr.tasks import Task

# Kinds of packs are timed until they hold this share of the FLOPs, and at most this many.
SHARE = 0.95
KINDS = 6
# Seconds after which no other kind is timed, and after which a process that has not answered is ended.
TIMING = 4.0
LONGEST = 30.0
# At most so many processes are timed at once.
PROCESSES = 8
# Tasks that are downloaded where they are not on this machine.
DOWNLOADED = ("sMNIST", "MNIST")
PROGRAM = "import sys; sys.path[:] = {path!r}; from hpr.training.timing import serve; serve()"
# Variables that say how many threads a library takes.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class SentTasks:
    """A function that gives a run's task, and tasks that only the planning process can make."""

    task_of: TaskOf
    made: dict[str, Task]

    def __call__(self, spec: RunSpec) -> Task:
        """The task of a run."""
        return self.made[spec.task] if spec.task in self.made else self.task_of(spec)


def calibrated(
    left: Plan,
    task_of: TaskOf,
    device: Device,
    workers: int,
    *,
    mnist_there: bool,
    time_there: Callable[[Request], list[list[Any]]] | None = None,
) -> Speed | None:
    """Time packs of a plan; None where none could be timed.

    Args:
        left: the plan.
        task_of: from a run to its task.
        device: where training will be.
        workers: how many processes will train; 1: one with all threads.
        mnist_there: whether MNIST's files are on this machine. Tasks that need a download are not timed.
        time_there: carries a request out on a cluster, and gives the answers of its workers; None: this machine does.
    """
    kinds = costliest(left, mnist_there=mnist_there)
    if not kinds:
        return None
    clock = time.perf_counter()
    given = {pack[0].task for pack in kinds if pack[0].task.startswith("trials:")}
    made = {pack[0].task: task_of(pack[0]) for pack in kinds if pack[0].task in given}
    threads = 1 if workers > 1 or time_there else cores()
    request = Request(kinds, SentTasks(task_of, made), str(device), threads, TIMING)
    if time_there is not None:
        start, answers = 0.0, time_there(request)
    else:
        count = 1 if device.type == "cuda" else min(workers, PROCESSES, max(1, left.runs))
        start, answers = _timed_here(request, count)
    return _speed(kinds, task_of, start, answers, time.perf_counter() - clock)


def timed_there(address: str) -> Callable[[Request], list[list[Any]]]:
    """A function that gives what workers of a cluster answer to a request."""
    return lambda request: ask_workers(address, _all_timings, request, PROCESSES, LONGEST)


def _all_timings(request: Request) -> list[Any]:
    from hpr.training.timing import timings

    return list(timings(request))


def costliest(left: Plan, *, mnist_there: bool) -> list[list[RunSpec]]:
    """The largest pack of each of the kinds that have most of the FLOPs of a plan, the costliest kind first."""
    flops: dict[RunSpec, float] = {}
    largest: dict[RunSpec, list[RunSpec]] = {}
    for pack, price in zip(left.packs, left.costs, strict=True):
        shape = pack[0].shape
        if shape.task in DOWNLOADED and not mnist_there:
            continue
        flops[shape] = flops.get(shape, 0.0) + price.flops
        if len(pack) > len(largest.get(shape, ())):
            largest[shape] = pack
    chosen: list[list[RunSpec]] = []
    missing = sum(flops.values())
    enough = (1 - SHARE) * missing
    for shape in sorted(flops, key=lambda shape: -flops[shape])[:KINDS]:
        if missing < enough:
            break
        chosen.append(largest[shape])
        missing -= flops[shape]
    return chosen


def _speed(
    kinds: Sequence[Sequence[RunSpec]],
    task_of: TaskOf,
    start: float,
    answers: list[list[Any]],
    took: float,
) -> Speed | None:
    """The mean of what several processes have answered to one request."""
    timings: dict[RunSpec, Timing] = {}
    costs: dict[RunSpec, Cost] = {}
    for place, pack in enumerate(kinds, start=1):
        found = [answer[place] for answer in answers if len(answer) > place]
        of_kind = [timing for timing in found if isinstance(timing, Timing)]
        if of_kind:
            shape = pack[0].shape
            timings[shape] = Timing.mean(of_kind)
            costs[shape] = pack_cost(pack[:1], task_of)
    if not timings:
        return None
    base = max(answer[0].memory for answer in answers if answer)
    return Speed(timings, costs, start, base, len(answers), took)


def _timed_here(request: Request, count: int) -> tuple[float, list[list[Any]]]:
    """The seconds until the last of `count` processes has started, and what each has answered."""
    with contextlib.ExitStack() as stack:
        # Torch makes folders in the temporary one.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hpr-"))
        try:
            message = pickle.dumps(request)
        except (pickle.PicklingError, AttributeError, TypeError):
            # Something of the user's own is known in this process alone.
            return 0.0, []
        clock = time.perf_counter()
        processes = [stack.enter_context(_process(folder, request.threads)) for _ in range(count)]
        for process in processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.write(message)
                process.stdin.close()
        answers, start = _answers(processes, clock)
    return start, [answer for answer in answers if answer]


def _answers(
    processes: Sequence[subprocess.Popen[bytes]], clock: float
) -> tuple[list[list[Any]], float]:
    """What processes send until they end or are too late, and when the last has sent its first answer."""
    answers: list[list[Any]] = [[] for _ in processes]
    buffers = [b"" for _ in processes]
    start = 0.0
    with selectors.DefaultSelector() as selector:
        for place, process in enumerate(processes):
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, place)
        while selector.get_map() and (left := clock + LONGEST - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                place = key.data
                piece = os.read(key.fd, 2**16)
                if not piece:
                    selector.unregister(key.fileobj)
                if piece and not buffers[place]:
                    start = max(start, time.perf_counter() - clock)
                buffers[place] += piece
    for place, buffer in enumerate(buffers):
        answers[place] = list(_unpickled(buffer))
    return answers, start


def _unpickled(buffer: bytes) -> Iterator[Any]:
    stream = io.BytesIO(buffer)
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            return


@contextlib.contextmanager
def _process(folder: str, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that times; it writes into `folder` alone, and is killed at the end."""
    environment = {**os.environ, "HPR_CACHE": str(cache_folder()), "HOME": folder, "TMPDIR": folder}
    if threads == 1:
        environment |= dict.fromkeys(THREADS, "1")
    process = subprocess.Popen(
        # -I: neither the folder nor variables of this process choose the modules; -B: none is compiled into a file.
        [
            sys.executable,
            "-I",
            "-B",
            "-c",
            PROGRAM.format(path=[os.path.abspath(part) for part in sys.path]),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=folder,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
