"""What the command lines that train share: where and how runs are trained, and what a signal does."""

from __future__ import annotations

import argparse
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpr import __version__
from hpr.command_line import Parser, UsageError, integer_between, one_line, path, server_address
from hpr.experiment.execution import default_workers
from hpr.experiment.run_log import RunLog
from hpr.system.devices import Device, choose_device, use_own_cores
from hpr.system.signals import Stopping, in_words_of

# At most this many worker processes.
WORKERS = 4096


def add_running(parser: Parser) -> None:
    """Add the options that say where and how runs are trained."""
    parser.add_argument(
        "--workers",
        type=integer_between(1, WORKERS),
        metavar="N",
        help="processes of one thread that train; default: one per core or card",
    )
    parser.add_argument(
        "--cluster",
        type=server_address,
        metavar="ADDRESS",
        help="of a Dask scheduler, as tcp://host:8786, whose workers train instead",
    )
    parser.add_argument(
        "--checkpoint-period",
        type=integer_between(1, 86_400),
        metavar="SECONDS",
        help="what a killed process loses at most; default: 30",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try runs again that failed before"
    )
    parser.add_argument(
        "--log-json",
        type=lambda text: text if text == "-" else str(path(text)),
        metavar="PATH",
        help="append what happens to this file, a JSON object per line; its folder is made, as that of --out; "
        "- is stderr",
    )


def add_dry_run(parser: Parser) -> None:
    """Add the options that ask what would run."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run and what it costs; write nothing"
    )
    parser.add_argument(
        "--untimed",
        action="store_true",
        help="with --dry-run: assume the speed, without any timing",
    )


def chosen_device(arguments: argparse.Namespace) -> Device:
    """The device of --device.

    Raises:
        UsageError: there is none.
    """
    try:
        return choose_device(arguments.device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None


def chosen_running(
    arguments: argparse.Namespace,
    device: Device,
    stopping: Stopping,
    log: RunLog,
    *,
    stand_in: bool,
) -> dict[str, Any]:
    """The options as arguments of `run_local`. A stand-in for training works in this process, unless told otherwise.

    The log is opened, since what follows is no longer a check of the arguments alone.

    Raises:
        UsageError: the log can't be written.
    """

    try:
        log.begin()
    except OSError as error:
        # Where the parent is a file, making it as a folder says that it exists.
        why = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--log-json: {arguments.log_json} can't be written: {why}") from None
    use_own_cores()
    return {
        "workers": chosen_workers(arguments, device, stand_in=stand_in),
        "cluster": arguments.cluster,
        "retry_failed": arguments.retry_failed,
        "checkpoint_period": arguments.checkpoint_period,
        "stopping": stopping,
        "log": log,
    }


def chosen_workers(arguments: argparse.Namespace, device: Device, *, stand_in: bool) -> int:
    """The number of processes that train; 1: this one."""
    return arguments.workers or (1 if stand_in else default_workers(device))


def run_until_stopped(
    parser: Parser,
    arguments: argparse.Namespace,
    command: Callable[[Stopping, RunLog], int],
) -> int:
    """Run a command that trains into `arguments.out`; a signal or an error ends it with one line.

    Returns:
        What `command` returns, or another status; see `Parser.run`.
    """
    out: Path = arguments.out
    log = RunLog(
        arguments.log_json,
        program=parser.prog,
        version=__version__,
        arguments=list(parser.words),
        pid=os.getpid(),
        out=str(out),
    )

    def leaving(number: int) -> str:
        """Log the signal, and return the line that says how to go on."""
        log.event("stopped", signal=signal.Signals(number).name)
        folder = out / "checkpoints"
        unfinished = f", unfinished ones in {folder}" if any(folder.glob("*.safetensors")) else ""
        return (
            f"{parser.prog}: {in_words_of(number)}: finished runs are kept in {out / 'runs'}"
            f"{unfinished}; the same command goes on from there"
        )

    def logged() -> int:
        try:
            return command(stopping, log)
        except Exception as error:
            log.error = one_line(str(error)) or type(error).__name__
            raise

    status = 1
    try:
        with Stopping(leaving) as stopping:
            status = parser.run(logged, leaving)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        log.end(status)
    return status
