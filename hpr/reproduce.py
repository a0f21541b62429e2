"""`python -m hpr.reproduce`: reproduce the paper's figures."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from hpr.command_line import Parser, UsageError, counted, in_words, integer_between, path, positive
from hpr.experiment.execution import Failure, Outcome, Train, run_local
from hpr.experiment.plan import TaskOf, tasks
from hpr.experiment.provenance import version_lines
from hpr.experiment.run_log import RunLog
from hpr.experiment.run_outcome import disk_full
from hpr.experiment.running import (
    add_dry_run,
    add_running,
    chosen_device,
    chosen_running,
    chosen_workers,
    run_until_stopped,
)
from hpr.experiment.specification import VARIANTS, RunSpec, distinct
from hpr.experiment.store import Store
from hpr.figures import Figure, Settings, discover
from hpr.figures.claims import FEWEST
from hpr.figures.data_choice import choose_connectome, choose_smnist
from hpr.figures.forecast import dry_run, keeping_weights, listing, runs_of
from hpr.figures.settings import Profile
from hpr.figures.stand_ins import MNIST_TASKS
from hpr.system.devices import Device
from hpr.system.signals import Stopping

# At most this many seeds per setting are planned: a hundred times the paper's, 190,000 runs in `--all`.
SEEDS = 1000


def main(argv: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes the process's.
        train: stands in for `hpr.training.loop.train_pack`, for tests.

    Returns:
        0 when all ran, 1 when some run failed or nothing more can be written, 128 plus the number of the signal that
        stopped it (130 for Ctrl-C), 141 when the reader of the output has gone. Bad usage exits with 2.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(format=f"{parser.prog}: %(message)s")
    # Matplotlib warns of the user's settings, which the pictures do not follow, and of its cache of fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

    return run_until_stopped(parser, arguments, lambda *how: _main(arguments, train, *how))


def build_parser() -> Parser:
    """Return the parser of the command line's arguments."""
    parser = Parser(
        prog="hpr.reproduce",
        description="Reproduce the figures of Liu et al. (ICLR 2024). Finished runs are kept under "
        "--out and not run again.",
        epilog="Exit status: 0 all ran, 1 some run failed (each is named) or the output can't be written, "
        "2 bad usage, 130 interrupted, 129, 138 or 143 stopped by SIGHUP, SIGUSR1 or SIGTERM, 141 the "
        "output's reader has gone.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--all", action="store_true", help="every figure")
    what.add_argument(
        "--figure", nargs="+", metavar="NAME", help="these figures, as --list names them"
    )
    what.add_argument(
        "--list", action="store_true", help="list figures, their runs, time and claims"
    )
    what.add_argument(
        "--report", action="store_true", help="write report.html of --out again, without training"
    )
    what.add_argument(
        "--version", action="store_true", help="what a report of a bug needs: versions and commit"
    )
    parser.add_argument("--json", action="store_true", help="with --list: as JSON, with the claims")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--profile", choices=get_args(Profile), help="default: paper on CUDA, quick on the CPU"
    )
    parser.add_argument(
        "--variant", choices=tuple(VARIANTS), default="paper", help="default: paper"
    )
    parser.add_argument(
        "--seeds",
        type=integer_between(1, SEEDS),
        metavar="N",
        help=f"seeds of each setting, up to {SEEDS}; a verdict needs at least {FEWEST}",
    )
    parser.add_argument("--iterations", type=positive, metavar="N", help="training iterations")
    parser.add_argument(
        "--task-version", choices=("0.0.2", "2.3"), default="0.0.2", help="whose NeuroGym inputs"
    )
    parser.add_argument(
        "--out", type=path, default=Path("results"), metavar="DIR", help="default: results"
    )
    _add_data(parser)
    add_running(parser)
    parser.add_argument(
        "--keep-weights",
        action="store_true",
        help="save the trained weights beside each record, for hpr.load; runs without are trained again",
    )
    add_dry_run(parser)
    return parser


def _add_data(parser: Parser) -> None:
    """Add the options that say where data are."""
    parser.add_argument(
        "--mnist-dir", type=path, metavar="DIR", help="folder of MNIST's four IDX files"
    )
    parser.add_argument(
        "--em-dir",
        type=path,
        metavar="DIR",
        help="folder of a synapse table and its cells, as hpr.connectivity.cave fetches them",
    )
    parser.add_argument(
        "--stand-in", action="store_true", help="8 x 8 digits in MNIST's place, in any profile"
    )


def _main(
    arguments: argparse.Namespace, train: Train | None, stopping: Stopping, log: RunLog
) -> int:
    if arguments.version:
        print("\n".join(version_lines()))
        return 0
    if arguments.report:
        return _report_alone(arguments.out)
    figures = discover()
    chosen = _chosen(arguments, figures)
    device = chosen_device(arguments)
    # A listing and a dry run write nothing and download nothing.
    acts = not (arguments.list or arguments.dry_run)
    profile: Profile = arguments.profile or ("paper" if device.type == "cuda" else "quick")
    settings = Settings(
        profile=profile,
        variant=arguments.variant,
        task_version=arguments.task_version,
        seeds=arguments.seeds,
        iterations=arguments.iterations,
        smnist="sMNIST",
    )
    notes = []
    if any(figure.shows_connectome for figure in chosen):
        connectome, note = choose_connectome(arguments.em_dir, write=acts)
        settings = replace(settings, connectome=connectome)
        notes.append(note)
    # The tasks are the same for every number of seeds.
    few = replace(settings, seeds=1)
    if any(spec.task in MNIST_TASKS for figure in chosen for spec in figure.runs(few)):
        smnist, note, content = choose_smnist(
            arguments.mnist_dir, profile, download=acts, stand_in=arguments.stand_in
        )
        settings = replace(settings, smnist=smnist, smnist_content=content)
        notes.append(note)
    if arguments.list:
        return listing(chosen, settings, device, as_json=arguments.json)
    given = "" if arguments.profile else f" (the default on {device.type})"
    print(f"profile {profile}{given}, variant {settings.variant}, device {device}")
    for note in notes:
        print(note)
    if arguments.dry_run:
        return dry_run(
            chosen,
            settings,
            Store(arguments.out),
            device,
            keep_weights=arguments.keep_weights,
            mnist_dir=arguments.mnist_dir,
            workers=chosen_workers(arguments, device, stand_in=train is not None),
            cluster=arguments.cluster,
            timed=train is None and not arguments.untimed,
        )
    return _reproduce(chosen, settings, arguments, device, train, stopping, log)


def _chosen(arguments: argparse.Namespace, figures: dict[str, Figure]) -> list[Figure]:
    if arguments.json and not arguments.list:
        raise UsageError("--json: expected together with --list")
    if arguments.untimed and not arguments.dry_run:
        raise UsageError("--untimed: expected together with --dry-run")
    if not arguments.figure:
        return list(figures.values())
    for name in arguments.figure:
        if name not in figures:
            raise UsageError(f"--figure: expected some of {', '.join(figures)}, got {name!r}")
    return [figures[name] for name in dict.fromkeys(arguments.figure)]


def _reproduce(
    figures: Sequence[Figure],
    settings: Settings,
    arguments: argparse.Namespace,
    device: Device,
    train: Train | None,
    stopping: Stopping,
    log: RunLog,
) -> int:
    started = time.monotonic()
    # A missing package fails here, not after training. Drawing prepares matplotlib, so it precedes all that import it.
    for name in ("hpr.figures.draw", "scipy", "tqdm", "torch"):
        importlib.import_module(name)
    from hpr.figures.drawing import Drawing
    from hpr.figures.drawing_workers import write_figures
    from hpr.figures.summary import write_summary

    store = Store(arguments.out)
    specs = runs_of(figures, settings)
    how = chosen_running(arguments, device, stopping, log, stand_in=train is not None)
    trained = keeping_weights(specs) if arguments.keep_weights else specs
    outcome = _carry_out(trained, store, tasks(arguments.mnist_dir), device, train, how)
    records, reasons = outcome.of(specs)
    failures = list(outcome.failures.values())
    written = []
    drawing = Drawing(settings, records, reasons, store.out)
    for drawn in write_figures(figures, drawing, how["workers"]):
        if isinstance(drawn, OSError):
            raise drawn
        if isinstance(drawn, Failure):
            failures.append(drawn)
        else:
            written.append(drawn)
            _say(_verdicts(drawn, store.out))
    try:
        write_summary(settings, written, [asdict(failure) for failure in failures], store.out)
    except OSError as error:
        if disk_full(error):
            raise
        failures.append(Failure.of("summary", error))
    for failure in failures:
        print(f"hpr.reproduce: failed: {failure.what}: {failure.reason}", file=sys.stderr)
    done = "NOT DONE" if failures else "done"
    _say(
        f"{done} after {in_words(time.monotonic() - started)}: {_ending(specs, outcome, failures)}"
    )
    if outcome.failures and (store.out / "failures").is_dir():
        _say(
            f"reasons and tracebacks: {store.out / 'failures'}; --retry-failed tries these runs again"
        )
    if written:
        _report(store.out)
    _say(f"read {store.out / 'summary.md'}; it lists the runs that diverged or failed")
    return 1 if failures else 0


def _carry_out(
    specs: Sequence[RunSpec],
    store: Store,
    task_of: TaskOf,
    device: Device,
    train: Train | None,
    how: dict[str, Any],
) -> Outcome:
    """Train what the store lacks, after a check that the folder can be written and every task can be made."""
    import torch

    if train is None:
        from hpr.training.loop import sent_train_pack

        train = sent_train_pack()
    try:
        store.prepare()
        for shape in distinct(spec.shape for spec in specs):
            task_of(shape)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None
    return run_local(specs, store, task_of, train, torch.device(str(device)), _say, **how)


def _report_alone(out: Path) -> int:
    """Write `report.html` of a folder where runs have ended before."""
    if not any(out.glob("figure_*.json")):
        raise UsageError(f"--report: expected an --out with results of figures, got {str(out)!r}")
    return 0 if _report(out) else 1


def _report(out: Path) -> bool:
    """Write `report.html` and say where it is; a report that can't be written costs one line, and no result."""
    try:
        from hpr.report import write_report

        _say(f"open {write_report(out)} in a browser")
    except Exception as error:
        if disk_full(error):
            raise
        reason = Failure.of("report", error).reason
        print(f"hpr.reproduce: {out / 'report.html'} was not written: {reason}", file=sys.stderr)
        return False
    return True


def _ending(specs: Sequence[RunSpec], outcome: Outcome, failures: Sequence[Failure]) -> str:
    """Say how many runs ended how; a diverged run is a result like any other, and no failure."""
    endings = Counter(record["status"] for record in outcome.records.values())
    unfinished = len(specs) - endings.total()
    others = len(failures) - len(outcome.failures)
    counts = [
        *(f"{number} {status}" for status, number in sorted(endings.items())),
        f"{unfinished} failed",
        *([f"{others} of the figures and the summary failed"] if others else []),
    ]
    return f"{counted(len(specs), 'run')}: {', '.join(counts)}"


def _verdicts(figure: dict[str, Any], out: Path) -> str:
    counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(figure["verdicts"].items()))
    stem = out / f"figure_{figure['figure']}"
    return f"figure {figure['figure']}: {counts}: {stem}.md, .json, .png, .pdf, .svg"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
