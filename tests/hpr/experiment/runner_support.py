"""Stand-ins for training, and a process that runs them: `python runner_support.py OUT RUNS [option=value …]`.

Each training is a line in `<out>.log`: what happened, the run's key, the process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpr.connectivity import Dense
from hpr.experiment import run_claims as claims
from hpr.experiment.execution import run_local
from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Outcome
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.system.devices import Device
from hpr.system.signals import Stopping, stop_status

PAUSE = float(os.environ.get("RUNNER_PAUSE", "0.002"))


def runs(count: int, **fields: Any) -> list[RunSpec]:
    return [
        RunSpec("2AF", Dense(), seed, **{"N": 4, "iterations": 10, **fields})
        for seed in range(count)
    ]


def task_of(spec: RunSpec) -> Any:
    return SimpleNamespace(name=spec.task, version=spec.task_version, content=None)


def record_of(spec: RunSpec) -> Record:
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {},
        "measures": {"final_loss": 1.0 + spec.seed},
        "flags": [],
        "provenance": {},
        "timings": {},
    }


def note(what: str, spec: RunSpec) -> None:
    number = os.open(os.environ["RUNNER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(number, f"{what} {spec.key} {os.getpid()}\n".encode())
    finally:
        os.close(number)


def train(
    specs: Sequence[RunSpec],
    task: Any,
    *,
    device: Any,
    progress: Callable[[int], None],
    keep: Callable[[RunSpec, Record], None],
    fail: Callable[[RunSpec, Exception], None],
    stop: Callable[[], bool],
) -> list[Record]:
    """Each network takes `PAUSE` seconds, one after the other; seeds of special meaning fail in their own way."""
    done = []
    for spec in specs:
        if stop():
            raise InterruptedError("stopped")
        note("start", spec)
        time.sleep(PAUSE)
        if spec.seed == 1_000_001:
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.seed == 1_000_002:
            fail(spec, ValueError("this network fails"))
            continue
        if spec.seed == 1_000_003 and len(specs) > 1:
            raise MemoryError("no room")
        done.append(record_of(spec))
        progress(spec.iterations // len(specs))
        try:
            keep(spec, done[-1])
        except OSError as error:
            fail(spec, error)
    return done


def carry(specs: Sequence[RunSpec], out: Path, **options: Any) -> Outcome:
    say = options.pop("say", lambda line: None)
    function = options.pop("train", train)
    device = options.pop("device", Device("cpu"))
    return run_local(specs, Store(out), task_of, function, device, say, **options)


def main() -> int:
    out, count = Path(sys.argv[1]), int(sys.argv[2])
    options: dict[str, Any] = dict(word.split("=") for word in sys.argv[3:])
    os.environ["RUNNER_LOG"] = f"{out}.log"
    if "workers" in options:
        options["workers"] = int(options["workers"])
    if "expiry" in options:
        claims.BEAT, claims.EXPIRY = 0.2, float(options.pop("expiry"))
    line = options.pop("say", "")
    with Stopping(lambda number: f"stopped by {number}") as stopping:
        try:
            say = print if line else (lambda text: None)
            outcome = carry(runs(count), out, stopping=stopping, say=say, **options)
        except KeyboardInterrupt as error:
            print(f"stopped by {stop_status(error) - 128}", file=sys.stderr)
            return stop_status(error)
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
    assert {spec.key for spec in outcome.runs} == outcome.records.keys() | outcome.failures.keys()
    print("complete", len(outcome.records), len(outcome.failures))
    return 0


if __name__ == "__main__":
    # The functions of this module have the same name in every process.
    import runner_support

    sys.exit(runner_support.main())
