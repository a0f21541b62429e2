"""What the command lines that train share: where and how runs are trained, and what a signal does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpr.command_line import Parser, integer_between, server_address
from hpr.experiment.execution import default_workers
from hpr.system.devices import Device
from hpr.system.extras import install
from hpr.system.signals import Stopping, in_words_of, stop_status

if TYPE_CHECKING:
    import torch

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


def chosen_running(
    arguments: argparse.Namespace, device: torch.device, stopping: Stopping, *, stand_in: bool
) -> dict[str, Any]:
    """The options as arguments of `run_local`. A stand-in for training works in this process, unless told otherwise."""
    return {
        "workers": chosen_workers(arguments, device, stand_in=stand_in),
        "cluster": arguments.cluster,
        "retry_failed": arguments.retry_failed,
        "checkpoint_period": arguments.checkpoint_period,
        "stopping": stopping,
    }


def chosen_workers(
    arguments: argparse.Namespace, device: torch.device | Device, *, stand_in: bool
) -> int:
    """The number of processes that train; 1: this one."""
    return arguments.workers or (1 if stand_in else default_workers(device))


def run_until_stopped(parser: Parser, out: Path, command: Callable[[Stopping], int]) -> int:
    """Run a command that trains into `out`; a signal or a missing package ends it with one line.

    Returns:
        What `command` returns, or 128 plus the number of the signal that stopped it; see `Parser.run` for the others.
    """

    def line(number: int) -> str:
        folder = out / "checkpoints"
        unfinished = f", unfinished ones in {folder}" if any(folder.glob("*.safetensors")) else ""
        return (
            f"{parser.prog}: {in_words_of(number)}: finished runs are kept in {out / 'runs'}"
            f"{unfinished}; the same command goes on from there"
        )

    with Stopping(line) as stopping:
        try:
            return parser.run(lambda: command(stopping))
        except ModuleNotFoundError as error:
            parser.error(f"{error}; install what it needs: {install('repro')}")
        except ImportError as error:
            parser.error(str(error))
        except KeyboardInterrupt as error:
            print(line(stop_status(error) - 128), file=sys.stderr)
            return stop_status(error)
