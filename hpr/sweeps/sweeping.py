"""Run a sweep: from Python, and for the command line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from hpr.command_line import counted
from hpr.experiment.execution import Outcome, Train, run_local
from hpr.experiment.kinds import DOWNLOADED
from hpr.experiment.store import Store
from hpr.fields import as_path
from hpr.sweeps.expansion import Experiment, expand
from hpr.sweeps.outcome import SweepResult
from hpr.sweeps.toml_form import write_sweep
from hpr.system.devices import Device, choose_device
from hpr.tasks import find_mnist
from hpr.training.outlook import ahead


def run_sweep(
    task: Any = None,
    *,
    connectivity: Any = None,
    out: str | os.PathLike[str] = "results",
    device: str = "auto",
    mnist_dir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = print,
    train: Train | None = None,
    **values: Any,
) -> SweepResult:
    """`hpr.sweep`: train the product of all given values, and keep each run's record.

    A run that is in `out` is not run again.

    Args:
        task: a name such as "2AF" or "module:Class", "file:trials.npz", a class, a `hpr.tasks.Task`, or a list of them.
        connectivity: a structure such as `LowRank(rank=1)`, a kind such as "svd", "file:matrix.npy", an array [N, N],
            "module:Class", or a list of them. None: the structure that has the other names, such as `rank`.
        out: the folder of the records; `sweep.toml` in it makes the same runs again.
        device: "auto", "cpu", "cuda" or "cuda:N".
        mnist_dir: the folder of MNIST's four IDX files.
        say: prints a line; called once per pack of runs.
        train: stands in for `hpr.training.loop.train_pack`.
        **values: by its name, one value or a list of values for any field of `hpr.experiment.RunSpec` and of the
            structures, and `seeds`, the number of seeds (default: 1).

    Raises:
        ValueError, TypeError: one line that names the argument, before anything is trained.
        OSError: one line; a file can't be read, or `out` can't be written.
    """
    try:
        chosen = choose_device(device)
    except ValueError as error:
        raise ValueError(f"device: {error}") from None
    store = Store(as_path("out", out))
    if mnist_dir is not None:
        mnist_dir = as_path("mnist_dir", mnist_dir)
    named = {"task": task, "connectivity": connectivity}
    given = {name: value for name, value in named.items() if value is not None}
    experiment = expand({**given, **values}, mnist_dir=mnist_dir)
    return carry_out(experiment, store, chosen, say, train)


def carry_out(
    experiment: Experiment,
    store: Store,
    device: Device,
    say: Callable[[str], None],
    train: Train | None = None,
    **how: Any,
) -> SweepResult:
    """Train what the store lacks of a sweep, and write the sweep's file; `how` goes to `run_local`.

    Raises:
        OSError: one line; the folder can't be written.
        ModuleNotFoundError: a package is missing that training needs.
    """
    for name in ("scipy", "tqdm", "torch"):
        importlib.import_module(name)
    import torch

    if train is None:
        from hpr.training.loop import sent_train_pack

        train = sent_train_pack()
    store.prepare()
    path = write_sweep(experiment, store.out)
    for name, run in {run.task: run for run in experiment.runs}.items():
        if not experiment.task_of(run).one_length:
            say(
                f"{name}: trials differ in length; at the last step, where the representation alignment is measured, a "
                "shorter one is over and the next one has begun"
            )
    outcome: Outcome = run_local(
        experiment.runs, store, experiment.task_of, train, torch.device(str(device)), say, **how
    )
    reasons = {key: failure.reason for key, failure in outcome.failures.items()}
    return SweepResult(tuple(experiment.settings), outcome.records, reasons, store.out, path)


def forecast(
    experiment: Experiment,
    store: Store,
    device: Device,
    *,
    mnist_dir: str | os.PathLike[str] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """What a sweep would train, and the time and memory that it takes; nothing is written.

    `how` goes to `hpr.training.outlook.ahead`.
    """
    runs = experiment.runs
    needs = any(run.task in DOWNLOADED for run in runs)
    told = ahead(
        runs,
        store,
        experiment.task_of,
        device,
        mnist_there=not needs or find_mnist(mnist_dir) is not None,
        **how,
    )
    left = told.left
    return {
        "settings": len(experiment.settings),
        "runs": len(runs),
        "stored": left.stored,
        "unreadable": [str(error) for error in left.unreadable.values()],
        "to_train": left.runs,
        "packs": len(left.packs),
        "flops": left.flops,
        **told.plain(),
        "device": str(device),
        "records": str(store.runs),
        "lines": told.lines(),
    }


def forecast_lines(told: dict[str, Any]) -> list[str]:
    """A forecast in words."""
    return [
        f"{counted(told['runs'], 'run')} in {counted(told['settings'], 'setting')}",
        *told["unreadable"],
        *told["lines"],
    ]
