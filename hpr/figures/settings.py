"""The settings that all figures of a reproduction share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hpr.connectivity.connectome import CELEGANS
from hpr.experiment.specification import VARIANTS
from hpr.figures.claims import FEWEST
from hpr.figures.stand_ins import MNIST_TASKS, STAND_INS, StandIn

Profile = Literal["quick", "paper"]
SMNIST = Literal["sMNIST", "sDigits"]

# Seeds per setting: the fewest that a verdict needs, and the paper's number.
SEEDS: dict[str, int] = {"quick": FEWEST, "paper": 10}


@dataclass(frozen=True)
class Settings:
    """What all figures of one reproduction have in common.

    `seeds` and `iterations` are the profile's where they are None. `smnist` is the task that is trained where the paper
    has sMNIST: the real one or the embedded stand-in. `smnist_content` is the content of that task where its pictures
    are not MNIST's own (`hpr.tasks.Task`). `connectome` is the one that is used where the paper has electron microscopy
    (see `hpr.connectivity.EM`). `task_version` is the version of NeuroGym whose behaviour its tasks show.
    """

    profile: Profile = "quick"
    variant: str = "paper"
    task_version: str = "0.0.2"
    seeds: int | None = None
    iterations: int | None = None
    smnist: SMNIST = "sDigits"
    connectome: str = CELEGANS
    smnist_content: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("profile", get_args(Profile)),
            ("variant", tuple(VARIANTS)),
            ("smnist", get_args(SMNIST)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {getattr(self, name)!r}")
        for name in ("seeds", "iterations"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")

    def stand_in(self, of: str) -> StandIn | None:
        """The stand-in that these settings use in the place of a task or of "EM"; None: they use the paper's own."""
        if of in MNIST_TASKS:
            return STAND_INS[of] if self.smnist == STAND_INS["sMNIST"].name else None
        if of == "EM":
            return STAND_INS[of] if self.connectome == STAND_INS[of].name else None
        return None

    def content(self, task: str) -> str | None:
        """The `content` of the runs of a task (`hpr.experiment.specification.RunSpec`)."""
        return self.smnist_content if task in MNIST_TASKS else None

    @property
    def replicates(self) -> range:
        """The seeds of each setting."""
        return range(self.seeds or SEEDS[self.profile])
