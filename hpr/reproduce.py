"""`python -m hpr.reproduce`: reproduce the paper's figures."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from hpr.command_line import Parser, UsageError, integer_between, path, positive
from hpr.connectivity.connectome import keep, read_folder
from hpr.experiment.execution import Failure, Outcome, Train, run_local
from hpr.experiment.plan import plan, tasks
from hpr.experiment.provenance import version_lines
from hpr.experiment.specification import VARIANTS, RunSpec, distinct
from hpr.experiment.store import Store
from hpr.figures import Figure, Settings, discover
from hpr.figures.claims import FEWEST
from hpr.figures.settings import SMNIST, Profile
from hpr.figures.stand_ins import MNIST_TASKS, STAND_INS
from hpr.system.devices import Device, choose_device, training_rate
from hpr.system.extras import install

# At most this many seeds per setting are planned: a hundred times the paper's, 190,000 runs in `--all`.
SEEDS = 1000


def main(argv: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes the process's.
        train: stands in for `hpr.training.loop.train_pack`, for tests.

    Returns:
        0 when all ran, 1 when some run failed, 130 when interrupted, 141 when the reader of the output has gone. Bad
        usage exits with 2.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(format=f"{parser.prog}: %(message)s")
    # Matplotlib warns of the user's settings, which the pictures do not follow, and of its cache of fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        return parser.run(lambda: _main(arguments, train))
    except ModuleNotFoundError as error:
        parser.error(f"{error}; install what it needs: {install('repro')}")
    except ImportError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(
            f"{parser.prog}: interrupted: finished runs are kept in {arguments.out / 'runs'}; the "
            "same command goes on from there",
            file=sys.stderr,
        )
        return 130


def build_parser() -> Parser:
    """Return the parser of the command line's arguments."""
    parser = Parser(
        prog="hpr.reproduce",
        description="Reproduce the figures of Liu et al. (ICLR 2024). Finished runs are kept under "
        "--out and not run again.",
        epilog="Exit status: 0 all ran, 1 some run failed (each is named) or the output can't be written, "
        "2 bad usage, 130 interrupted, 141 the output's reader has gone.",
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
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run and what it costs; write nothing"
    )
    return parser


def choose_smnist(
    mnist_dir: Path | None, profile: str, *, download: bool, stand_in: bool = False
) -> tuple[SMNIST, str, str | None]:
    """Return which task stands where the paper has sMNIST, a line that says so, and the task's `content`.

    It is sMNIST if its files are given or cached. Otherwise the `paper` profile downloads them
    (without `download` it only says so), and `quick` takes the embedded stand-in, as do both with
    `stand_in`. Other pictures that are given are named by their content.

    Raises:
        UsageError: the given or cached files are broken, the download fails, or both real files
            and the stand-in are asked for.
    """
    from hpr.tasks import MnistUnavailable, find_mnist
    from hpr.tasks.mnist import other_pictures, pictures_content

    digits = STAND_INS["sMNIST"]
    if stand_in and mnist_dir is not None:
        raise UsageError(f"--stand-in: expected without --mnist-dir, got --mnist-dir {mnist_dir}")
    if stand_in:
        return "sDigits", f"{digits.announcement}, as asked for", None
    try:
        folder = find_mnist(mnist_dir)
        content = None if mnist_dir is None else pictures_content(mnist_dir)
    except (MnistUnavailable, ValueError, OSError) as error:
        raise UsageError(f"--mnist-dir: {error}" if mnist_dir else str(error)) from None
    if content is not None:
        return "sMNIST", f"sMNIST: replaced by {other_pictures(content)} in {folder}", content
    if folder is not None:
        return "sMNIST", f"sMNIST: the files in {folder}", None
    if profile != "paper":
        return "sDigits", f"{digits.announcement}; {digits.remedy}", None
    if not download:
        return "sMNIST", "sMNIST: to be downloaded", None
    try:
        return "sMNIST", f"sMNIST: downloaded to {find_mnist(download=True)}", None
    except (MnistUnavailable, ValueError, OSError) as error:
        how = "give --mnist-dir DIR, or ask for the 8 x 8 digits in its place with --stand-in"
        raise UsageError(f"sMNIST: {error}; {how}") from None


def choose_connectome(em_dir: Path | None, *, write: bool = True) -> tuple[str, str]:
    """Return which connectome stands where the paper has electron microscopy, and a line that says so.

    With `write` off the cache is left as it is.

    Raises:
        UsageError: the given tables are missing or broken, or can't be kept in the cache.
    """
    if em_dir is None:
        worm = STAND_INS["EM"]
        return worm.name, f"{worm.announcement}; {worm.remedy}"
    try:
        connectome = read_folder(em_dir)
        name = keep(connectome, write=write)
    except (ValueError, OSError) as error:
        raise UsageError(f"--em-dir: {error}") from None
    return name, f"EM: the {len(connectome.cells)} cells in {em_dir}; {connectome.share}"


def _main(arguments: argparse.Namespace, train: Train | None) -> int:
    if arguments.version:
        print("\n".join(version_lines()))
        return 0
    figures = discover()
    chosen = _chosen(arguments, figures)
    try:
        device = choose_device(arguments.device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
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
    if any(spec.task in MNIST_TASKS for figure in chosen for spec in figure.runs(settings)):
        smnist, note, content = choose_smnist(
            arguments.mnist_dir, profile, download=acts, stand_in=arguments.stand_in
        )
        settings = replace(settings, smnist=smnist, smnist_content=content)
        notes.append(note)
    if arguments.list:
        return _list(chosen, settings, device, as_json=arguments.json)
    given = "" if arguments.profile else f" (the default on {device.type})"
    print(f"profile {profile}{given}, variant {settings.variant}, device {device}")
    for note in notes:
        print(note)
    if arguments.dry_run:
        return _dry_run(chosen, settings, Store(arguments.out), device)
    return _reproduce(chosen, settings, arguments, device, train)


def _chosen(arguments: argparse.Namespace, figures: dict[str, Figure]) -> list[Figure]:
    if arguments.json and not arguments.list:
        raise UsageError("--json: expected together with --list")
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
) -> int:
    started = time.monotonic()
    # A missing package fails here, not after training. Drawing prepares matplotlib, so it precedes all that import it.
    for name in ("hpr.figures.draw", "scipy", "tqdm", "torch"):
        importlib.import_module(name)
    import torch

    from hpr.figures.summary import write_figure, write_summary
    from hpr_kernels.internal import available_cores

    # Torch counts the cores that the scheduler gives, and not a container's quota of them. The setting holds for the
    # whole process, so the program makes it here, and the training of a pack does not.
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))

    if train is None:
        from hpr.training.loop import train_pack

        train = train_pack
    store = Store(arguments.out)
    specs = _runs(figures, settings)
    task_of = tasks(arguments.mnist_dir)
    try:
        store.prepare()
        for shape in distinct(spec.shape for spec in specs):
            task_of(shape)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None
    outcome = run_local(specs, store, task_of, train, torch.device(str(device)), _say)
    reasons = {key: failure.reason for key, failure in outcome.failures.items()}
    failures = list(outcome.failures.values())
    written = []
    for figure in figures:
        try:
            written.append(write_figure(figure, settings, outcome.records, reasons, store.out))
        except Exception as error:
            failures.append(Failure.of(f"figure {figure.name}", error))
        else:
            _say(_verdicts(written[-1], store.out))
    try:
        write_summary(settings, written, [asdict(failure) for failure in failures], store.out)
    except OSError as error:
        failures.append(Failure.of("summary", error))
    for failure in failures:
        print(f"hpr.reproduce: failed: {failure.what}: {failure.reason}", file=sys.stderr)
    done = "NOT DONE" if failures else "done"
    _say(
        f"{done} after {_duration(time.monotonic() - started)}: {_ending(specs, outcome, failures)}"
    )
    _say(f"read {store.out / 'summary.md'}; it lists the runs that diverged or failed")
    return 1 if failures else 0


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
    return f"{len(specs)} runs: {', '.join(counts)}"


def _dry_run(figures: Sequence[Figure], settings: Settings, store: Store, device: Device) -> int:
    left = plan(_runs(figures, settings), store.__contains__, tasks(), device)
    shapes: dict[RunSpec, list[tuple[int, float]]] = {}
    for pack, price in zip(left.packs, left.costs, strict=True):
        shapes.setdefault(pack[0].shape, []).append((len(pack), price.flops))
    for shape, packs in shapes.items():
        runs, flops = (sum(column) for column in zip(*packs, strict=True))
        print(
            f"{runs} x {shape.task}, N = {shape.N}, {shape.iterations} iterations: "
            f"{flops:.2g} FLOP, {len(packs)} pack{'s' * (len(packs) > 1)}"
        )
    for figure in figures:
        if not figure.runs(settings):
            print(f"{figure.name}: not counted")
    asked = sum(len(figure.runs(settings)) for figure in figures)
    print(
        f"{asked} runs in the figures, {left.stored + left.runs + len(left.unreadable)} of them distinct"
    )
    rate = training_rate(device)
    for spec, error in left.unreadable.items():
        print(f"{spec}: {error}")
    unreadable = f", {len(left.unreadable)} unreadable there" if left.unreadable else ""
    print(
        f"{left.stored} runs already in {store.runs}{unreadable}, {left.runs} to train in {len(left.packs)} "
        f"packs: at most {left.flops:.2g} FLOP, about {_duration(left.seconds(device))} at "
        f"{rate:.2g} FLOP/s on {device}, {left.memory / 1e6:.0f} MB"
    )
    return 0


def _list(figures: Sequence[Figure], settings: Settings, device: Device, *, as_json: bool) -> int:
    task_of, rate = tasks(), training_rate(device)
    entries: list[dict[str, Any]] = []
    for figure in figures:
        whole = plan(figure.runs(settings), lambda _: False, task_of, device)
        entries.append(
            {
                "name": figure.name,
                "title": figure.title,
                "runs": whole.runs,
                "flops": whole.flops,
                "seconds": whole.flops / rate,
                "claims": [claim.to_dict() for claim in figure.claims(settings)],
            }
        )
    if as_json:
        print(json.dumps({"settings": asdict(settings), "figures": entries}, indent=1))
        return 0
    for entry in entries:
        runs = f"{entry['runs']} runs, about {_duration(entry['seconds'])}"
        print(
            f"{entry['name']:>6}  {entry['title']}: {runs if entry['runs'] else 'no runs'}, "
            f"{len(entry['claims'])} claims"
        )
    print(f"profile {settings.profile}; times are for {device} at {rate:.2g} FLOP/s")
    return 0


def _runs(figures: Sequence[Figure], settings: Settings) -> list[RunSpec]:
    return distinct(spec for figure in figures for spec in figure.runs(settings))


def _verdicts(figure: dict[str, Any], out: Path) -> str:
    counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(figure["verdicts"].items()))
    stem = out / f"figure_{figure['figure']}"
    return f"figure {figure['figure']}: {counts}: {stem}.md, .json, .png, .pdf"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
