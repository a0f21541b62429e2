"""The amount of computation in the checks of the theory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The amount of computation.

    Attributes:
        tasks: Monte Carlo tasks.
        trained: tasks trained per setting.
        starts: starts of the optimiser.
        networks: recurrent networks per rank.
    """

    tasks: int
    trained: int
    starts: int
    networks: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"{name}: expected an integer of at least 2, got {value!r}")


QUICK = Size(tasks=200_000, trained=300, starts=8, networks=6)
PAPER = Size(tasks=4_000_000, trained=4000, starts=64, networks=40)
