"""`python -m hpr.run`: experiments of one's own, without code: a sweep over any fields of a run."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpr.command_line import Parser, UsageError, in_words, integer_between, path
from hpr.connectivity import KINDS
from hpr.connectivity.registry import GROUP
from hpr.experiment.execution import Train
from hpr.experiment.kinds import DOWNLOADED
from hpr.experiment.run_log import RunLog
from hpr.experiment.running import (
    add_dry_run,
    add_running,
    chosen_device,
    chosen_running,
    chosen_workers,
    run_until_stopped,
)
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.sweeps.expansion import Experiment, as_axes, expand
from hpr.sweeps.field_names import (
    all_names,
    did_you_mean,
    fields_of,
    from_text,
    hint_of,
)
from hpr.sweeps.outcome import SweepResult, text_table
from hpr.sweeps.parts import Sources, structure_choice
from hpr.sweeps.sweeping import carry_out, forecast, forecast_lines
from hpr.sweeps.toml_form import read_sweep
from hpr.system.devices import Device
from hpr.system.loading import entry_point_names, is_import_path
from hpr.system.signals import Stopping

SEEDS = 10_000
# The closing lines name at most this many runs with flags.
MOST_FLAGGED = 5
# The fields with an option of their own in --help; every other field has one that --help leaves out.
COMMON = {
    "task": "2AF, DMS, CXT, sMNIST, sDigits, a NeuroGym id, module:Class, file:TRIALS.npz",
    "connectivity": "kinds that --fields lists, file:MATRIX.npy, module:Class",
    "rank": "rank of a low-rank structure",
    "gain": "g of the initial weights",
    "N": "number of units; default: that of a matrix, else 300",
    "iterations": "SGD steps",
    "learning_rate": "step size of SGD",
    "variant": "paper (default) or released",
    "keep_weights": "save the trained weights beside each record, for hpr.load",
}
EXAMPLES = """examples:
  One setting per rank and gain, 8 seeds each:
    python -m hpr.run --task 2AF --rank 1 30 300 --gain 0.8 1.5 --seeds 8 --set learning_rate=0.01

  A matrix of your own beside the Gaussian null of its size and norm:
    python -m hpr.run --task DMS --connectivity file:matrix.npy dense --seeds 8 --out mine

A name with several values is an axis, and the runs are the product of all axes. SWEEP.toml holds the same names:
  task = "2AF"
  rank = [1, 30, 300]
  gain = [0.8, 1.5]
  seeds = 8

Exit status: 0 all ran, 1 some run failed (each is named) or the output can't be written, 2 bad usage, 130 interrupted,
129, 138 or 143 stopped by SIGHUP, SIGUSR1 or SIGTERM, 141 the output's reader has gone."""


def main(argv: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes the process's.
        train: stands in for `hpr.training.loop.train_pack`, for tests.

    Returns:
        0 when all ran, 1 when some run failed, 128 plus the number of the signal that stopped it (130 for Ctrl-C), 141
        when the reader of the output has gone. Bad usage exits with 2.
    """
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [word for action in parser._actions for word in action.option_strings]
        word = unknown[0].partition("=")[0]
        parser.error(
            f"{word}: expected an option, or a field as --fields lists them, got {unknown[0]!r}"
            f"{did_you_mean(word, options)}"
        )
    logging.basicConfig(format=f"{parser.prog}: %(message)s")
    return run_until_stopped(parser, arguments, lambda *how: _main(arguments, train, *how))


def build_parser() -> Parser:
    """Return the parser of the command line's arguments."""
    parser = Parser(
        prog="hpr.run",
        description="Train networks over the product of the values of any fields, and measure how lazy learning is. "
        "Finished runs are kept under --out and not run again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweep",
        nargs="?",
        type=path,
        metavar="SWEEP.toml",
        help="a sweep's file; options add to it and override it",
    )
    _add_fields(parser)
    parser.add_argument(
        "--seeds",
        type=integer_between(1, SEEDS),
        metavar="NUMBER",
        help="seeds per setting, from 0 on; default: 1",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=_assignment,
        default=[],
        metavar="NAME=VALUE[,VALUE]",
        help="any field by its name",
    )
    parser.add_argument(
        "--fields", action="store_true", help="list every field: type, default and meaning"
    )
    _add_place(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _add_place(parser: Parser) -> None:
    """Add the options that say where things are and how they run."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--out", type=path, default=Path("results"), metavar="DIR", help="default: results"
    )
    parser.add_argument(
        "--mnist-dir", type=path, metavar="DIR", help="folder of MNIST's four IDX files"
    )
    add_running(parser)
    add_dry_run(parser)


def _add_fields(parser: Parser) -> None:
    """Add an option for every field; a truth value alone means true."""
    for name in all_names():
        if name == "seeds":
            continue
        words = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(
            *words,
            dest=f"field {name}",
            nargs="*" if hint_of(name) is bool else "+",
            type=_words,
            metavar="VALUE",
            help=COMMON.get(name, argparse.SUPPRESS),
        )


def _words(text: str) -> list[str]:
    """The values of one word: it is split at commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if not all(part.strip() for part in parts):
        raise argparse.ArgumentTypeError(f"expected values between commas, got {text!r}")
    return [part.strip() for part in parts]


def _assignment(text: str) -> tuple[str, list[str]]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name.strip().replace("-", "_"), _words(value)


def _main(
    arguments: argparse.Namespace, train: Train | None, stopping: Stopping, log: RunLog
) -> int:
    if arguments.untimed and not arguments.dry_run:
        raise UsageError("--untimed: expected together with --dry-run")
    if arguments.fields:
        return _list_fields(as_json=arguments.json)
    device = chosen_device(arguments)
    sources = Sources(write=not arguments.dry_run)
    try:
        experiment = expand(
            _values(arguments, sources),
            sources=sources,
            mnist_dir=arguments.mnist_dir,
            # A dry run downloads nothing.
            skip_binding=DOWNLOADED if arguments.dry_run else (),
        )
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        raise UsageError(f"{error.filename}: {error.strerror}" if named else str(error)) from None
    except (ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None
    store = Store(arguments.out)
    if arguments.dry_run:
        told = forecast(
            experiment,
            store,
            device,
            mnist_dir=arguments.mnist_dir,
            workers=chosen_workers(arguments, device, stand_in=train is not None),
            cluster=arguments.cluster,
            timed=train is None and not arguments.untimed,
        )
        print(json.dumps(told, indent=1) if arguments.json else "\n".join(forecast_lines(told)))
        return 0
    how = chosen_running(arguments, device, stopping, log, stand_in=train is not None)
    return _run(experiment, store, arguments, device, train, how)


def _values(arguments: argparse.Namespace, sources: Sources) -> dict[str, Any]:
    """What the file and the options say, by name; an option takes the place of the file's value."""
    values = {} if arguments.sweep is None else read_sweep(arguments.sweep, sources)
    given = {
        name.removeprefix("field "): [word for words in value for word in words] or ["true"]
        for name, value in vars(arguments).items()
        if name.startswith("field ") and value is not None
    }
    for name, words in arguments.set:
        if name in given or (name == "seeds" and arguments.seeds is not None):
            raise UsageError(f"{name}: expected its values once, got them twice")
        given[name] = words
    if arguments.sweep is None and not given:
        raise UsageError("expected SWEEP.toml or --task, got neither; --help has two examples")
    if "teacher" in given:
        raise UsageError("teacher: expected it in SWEEP.toml, as a table of fields, got an option")
    # Loading the user's own classes first makes the types of their fields known.
    offered = entry_point_names(GROUP)
    for word in as_axes({"connectivity": given.get("connectivity", values.get("connectivity"))})[
        "connectivity"
    ]:
        if isinstance(word, str) and (is_import_path(word) or word in offered):
            structure_choice(word, sources)
    seeds = arguments.seeds or ("seeds" in given and _count(given.pop("seeds")))
    if seeds or "seed" in given:
        # The seeds of the options take the place of the file's, in either form.
        values = {name: of for name, of in values.items() if name not in ("seeds", "seed")}
    if seeds:
        values["seeds"] = seeds
    return {
        **values,
        **{name: [from_text(name, word) for word in of] for name, of in given.items()},
    }


def _count(words: list[str]) -> int:
    if len(words) != 1:
        raise UsageError(f"seeds: expected one number of seeds, got {', '.join(words)}")
    try:
        return integer_between(1, SEEDS)(words[0])
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"seeds: {error}") from None


def _run(
    experiment: Experiment,
    store: Store,
    arguments: argparse.Namespace,
    device: Device,
    train: Train | None,
    how: dict[str, Any],
) -> int:
    started = time.monotonic()
    stream = sys.stderr if arguments.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    try:
        store.prepare()
    except OSError as error:
        raise UsageError(str(error)) from None
    result = carry_out(experiment, store, device, say, train, **how)
    for key, reason in result.failures.items():
        print(f"hpr.run: failed: {key}: {reason}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(_plain(result), indent=1))
    else:
        _report(result, time.monotonic() - started)
    return 1 if result.failures else 0


def _report(result: SweepResult, seconds: float) -> None:
    endings = Counter(record["status"] for record in result.by_key.values())
    endings["failed"] += len(result.failures)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(endings.items()) if number)
    print("\n".join(["", *text_table(result.summary()), ""]))
    print("mean ± sd over seeds" if len(result.settings[0].runs) > 1 else "one seed: no sd")
    runs = {run.key: run for run in result.runs}
    flagged = [f"{runs[key]}: {', '.join(flags)}" for key, flags in result.flags.items()]
    for line in flagged[:MOST_FLAGGED]:
        print(f"flagged: {line}")
    if len(flagged) > MOST_FLAGGED:
        print(f"flagged: {len(flagged) - MOST_FLAGGED} more, in the field flags of their records")
    print(f"{'NOT DONE' if result.failures else 'done'} after {in_words(seconds)}: {counts}")
    if result.failures and (result.out / "failures").is_dir():
        print(
            f"reasons and tracebacks: {result.out / 'failures'}; --retry-failed tries these runs again"
        )
    again = f"{shlex.quote(str(result.sweep_file))} --out {shlex.quote(str(result.out))}"
    print(f"records: {result.out / 'runs'}; the same runs again: python -m hpr.run {again}")


def _plain(result: SweepResult) -> dict[str, Any]:
    return {
        "out": str(result.out),
        "sweep": str(result.sweep_file),
        "settings": result.summary(),
        "runs": [run.key for run in result.runs],
        "failures": dict(result.failures),
        "flags": result.flags,
    }


def _list_fields(*, as_json: bool) -> int:
    groups: dict[str, type] = {"run": RunSpec, **KINDS}
    listed = {name: fields_of(cls) for name, cls in groups.items()}
    if as_json:
        plain = {name: [vars(each) for each in fields] for name, fields in listed.items()}
        print(json.dumps(plain, indent=1))
        return 0
    for name, fields in listed.items():
        print("run" if name == "run" else f"\nconnectivity {name} ({KINDS[name].__name__})")
        for each in fields:
            if name == "run" or each.name != "gain" or name == "dense":
                default = "required" if each.default == "required" else f"default: {each.default}"
                print(f"  {each.name}  {each.type}; {default}")
                print(
                    f"      {each.meaning}" if each.meaning else "",
                    end="\n" if each.meaning else "",
                )
    print("\nEvery connectivity has the field gain. seeds: the number of seeds of each setting.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
