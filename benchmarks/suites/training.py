"""Training: one iteration of a pack, by its number of networks, its task and its networks' size."""

from __future__ import annotations

from typing import Any

from .calls import training_call
from .measure import Timed, device

PACKS: dict[str, dict[str, Any]] = {
    "R = 1": {"R": 1},
    "R = 10": {"R": 10},
    "R = 40": {"R": 40},
    "N = 100": {"N": 100},
    "T = 40": {"R": 10, "dt": 20.0},
    "sMNIST": {"R": 2, "task": "sDigits", "B": 200},
}


class Training(Timed):
    """An SGD iteration on trials drawn beforehand."""

    param_names = ("pack", "device")
    params = (
        tuple(PACKS),
        ("cpu", "cuda"),
    )

    def setup(self, pack: str, where: str) -> None:
        """Make forty networks of 300 units on 2AF, except for what the pack's name says."""
        self.iterate, _ = training_call(**PACKS[pack], device=device(where))

    def time_iteration(self, *_: Any) -> None:
        """Forward, loss, backward, momentum step."""
        self.iterate()
