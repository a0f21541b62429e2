"""Stand-ins for the data that the package does not carry: one table of what they replace and how they are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpr.connectivity.connectome import CELEGANS

DIGITS_NOTE = (
    "MNIST is replaced by a stand-in, the UCI optical digits (1,797 images of 8 x 8): what its "
    "panels show is not a result on MNIST."
)


@dataclass(frozen=True)
class StandIn:
    """A task or connectome of the package, and the one of the paper whose place it takes.

    Attributes:
        replaces: the paper's task, or "EM".
        name: the task of the stand-in, or the connectome that `hpr.connectivity.EM` takes.
        label: what a panel's name has in place of `replaces`.
        shown: the second line of a panel's title; empty: the title has one line.
        announced: what the command line says in place of `replaces`.
        remedy: how to get the paper's own, for the command line.
        note: the sentence in a figure's notes.
        run: fields of `RunSpec` that differ from those of the paper's own task.
    """

    replaces: str
    name: str
    label: str
    shown: str
    announced: str
    remedy: str
    note: str
    run: Mapping[str, Any] = field(default_factory=dict)

    def named(self, name: str) -> str:
        """The name of a panel or level, with the label in place of what is replaced."""
        return name.replace(self.replaces, self.label)

    def title(self, name: str) -> str:
        """The title of the panel of this name."""
        return f"{self.named(name)}:\n{self.shown}" if self.shown else self.named(name)

    @property
    def announcement(self) -> str:
        """The beginning of the line that the command line prints about the stand-in."""
        return f"{self.replaces}: replaced by the stand-in {self.announced}"


MNIST_REMEDY = "for the real one give --mnist-dir DIR, or use --profile paper, which downloads it"
# 1,500 digits are for training: an epoch would have few batches of the 200 trials that MNIST's batches have.
DIGITS_RUN = {"batch": 32}

STAND_INS: dict[str, StandIn] = {
    stand_in.replaces: stand_in
    for stand_in in (
        StandIn(
            replaces="sMNIST",
            name="sDigits",
            label="sMNIST stand-in",
            shown="8 x 8 digits (sDigits)",
            announced="sDigits (8 x 8 digits)",
            remedy=MNIST_REMEDY,
            note=DIGITS_NOTE,
            run=DIGITS_RUN,
        ),
        StandIn(
            replaces="MNIST",
            name="Digits",
            label="digits (MNIST stand-in)",
            shown="",
            announced="Digits (8 x 8 digits)",
            remedy=MNIST_REMEDY,
            note=DIGITS_NOTE,
            run=DIGITS_RUN,
        ),
        StandIn(
            replaces="EM",
            name=CELEGANS,
            label="EM stand-in",
            shown="C. elegans",
            announced="C. elegans",
            remedy=(
                "for cortex give --em-dir DIR, which python -m hpr.connectivity.cave DIR fills"
            ),
            note=(
                "The electron microscopy of mouse visual cortex is replaced by a stand-in, the chemical "
                "connectome of C. elegans (297 neurons): what its panel shows is not a result on cortex."
            ),
        ),
    )
}
# The paper's tasks of pictures: the files of MNIST that a user gives are their content.
MNIST_TASKS = ("sMNIST", "MNIST")
