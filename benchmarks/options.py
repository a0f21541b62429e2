"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from hpr.command_line import Parser, UsageError, positive

if TYPE_CHECKING:
    from hpr.tasks import Task


def duration(text: str) -> float:
    """A positive and finite number of seconds, for `type=` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value


def add_pack(parser: Parser, networks: int) -> None:
    """--networks, --hidden and --task: what a pack of networks is made of."""
    parser.add_argument(
        "--networks", type=positive, default=networks, help=f"networks of the pack ({networks})"
    )
    parser.add_argument("--hidden", type=positive, default=300, help="units per network (300)")
    parser.add_argument("--task", default="2AF", help="the task's name (2AF)")


def named_task(name: str) -> Task:
    """The task that --task names.

    Raises:
        UsageError: there is no such task.
    """
    from hpr.tasks import make_task

    try:
        return make_task(name)
    except ValueError as error:
        raise UsageError(f"--task: {str(error).removeprefix('task: ')}") from None
