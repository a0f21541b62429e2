"""`python -m benchmarks COMMAND …`: every comparison and the gate, behind one parser.

A command is a module with two functions, `add_arguments(parser)` and `run(arguments)`. Its module is imported when its
name is given, so that `--help` needs neither torch nor asv.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

from hpr.command_line import Parser


class Command(NamedTuple):
    """The module of a command, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "engine": Command(
        "benchmarks.engine_table", "time the C kernels beside torch and the peak of the CPU"
    ),
    "forecast": Command(
        "benchmarks.forecast_table", "run ten sweeps beside what a dry run has foretold of them"
    ),
    "gate": Command("benchmarks.gate", "exit with 1 where an asv result is beyond its floors"),
    "gpu": Command("benchmarks.gpu", "time the Triton kernels on a card beside their floors"),
    "gpu-day": Command(
        "benchmarks.gpu_day", "all that is worth doing with a card in ten minutes, in one folder"
    ),
    "gpu-prediction": Command(
        "benchmarks.gpu_prediction", "predict what the whole paper takes on one H100"
    ),
    "gpu-probes": Command(
        "benchmarks.gpu_probes", "rounding of a card, and sweeps by programs and by precision"
    ),
    "planner": Command(
        "benchmarks.planner", "time every order of contraction beside the one that is chosen"
    ),
    "tables": Command("benchmarks.tables", "measure all of docs/benchmarks.md and write it"),
}
PEERS = {
    "ntk": Command("benchmarks.peers.ntk_table", "the exact NTK by torch, jax and other libraries"),
    "training": Command("benchmarks.peers.training_table", "one SGD iteration of a pack by torch"),
    "tasks": Command("benchmarks.peers.trials_table", "trials of the paper's tasks by NeuroGym"),
}


class CommandParser(Parser):
    """The parser of one command, which takes its arguments from the command's module when it first parses."""

    def __init__(self, *, module: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Import the command's module, add its arguments, and parse."""
        if self.module is not None:
            command, self.module = importlib.import_module(self.module), None
            self.description = (command.__doc__ or "").split("\n")[0]
            command.add_arguments(self)
            self.set_defaults(
                carry_out=lambda arguments: self.run(lambda: command.run(arguments) or 0)
            )
        return super().parse_known_args(args, namespace)


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = CommandParser(prog="benchmarks", description="Measure, and compare what was measured.")
    commands = add_commands(parser, COMMANDS)
    peers = commands.add_parser(
        "peers", help="compare with other libraries", description="Compare with other libraries."
    )
    add_commands(peers, PEERS)
    return parser


def add_commands(parser: Parser, commands: dict[str, Command]) -> Any:
    """Add one parser per command; returns argparse's action, to which more can be added."""
    action = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, command in commands.items():
        action.add_parser(name, help=command.summary, module=command.module)
    return action


def main(argv: list[str] | None = None) -> int:
    """Parse, and carry out the command."""
    arguments = build_parser().parse_args(argv)
    return arguments.carry_out(arguments)


if __name__ == "__main__":
    sys.exit(main())
