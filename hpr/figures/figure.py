"""What a figure is: panels of runs, claims about them, and a picture; and how figures are found."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import hpr.figures.definitions
from hpr.connectivity.connectome import CELEGANS
from hpr.experiment.specification import VARIANTS, RunSpec, distinct
from hpr.figures.claims import FEWEST, RULE, Claim, Finding, judge

if TYPE_CHECKING:
    import matplotlib.figure

Record = dict[str, Any]
Profile = Literal["quick", "paper"]
SMNIST = Literal["sMNIST", "sDigits"]

# Seeds of a setting: the fewest that a verdict needs, and the paper's.
SEEDS: dict[str, int] = {"quick": FEWEST, "paper": 10}

# What a table or an axis calls a measure of the run's record.
MEASURES: dict[str, str] = {
    "weight_change_norm": "weight change norm",
    "representation_alignment": "representation alignment",
    "kernel_alignment": "kernel alignment",
    "final_loss": "final loss",
    "final_accuracy": "final accuracy",
    "connectivity_effective_rank": "effective rank of the connectivity",
}
# What is claimed of single figures besides, and in no table.
WORDS: dict[str, str] = {
    **MEASURES,
    "connectivity_effective_rank_singular": "effective rank of the connectivity by singular values",
    "centred_kernel_alignment_final": "centred kernel alignment (CKA) with the labels at the end",
}


@dataclass(frozen=True)
class Settings:
    """What a whole reproduction has in common.

    `seeds` and `iterations` are the profile's where they are None. `smnist` names the task that
    stands where the paper has sMNIST, the real one or the embedded stand-in, and `smnist_content` is
    the content of that task where its pictures are not MNIST's own (`hpr.tasks.Task`); `connectome` the
    one that stands where it has electron microscopy (see `hpr.connectivity.EM`).
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

    def version(self, task: str) -> str:
        """The version of a task; the digits have but one."""
        return "1" if task == self.smnist else self.task_version

    def content(self, task: str) -> str | None:
        """What the runs of a task carry of its content (`hpr.experiment.specification.RunSpec`)."""
        return self.smnist_content if task in ("sMNIST", "MNIST") else None

    @property
    def replicates(self) -> range:
        """The seeds of each setting."""
        return range(self.seeds or SEEDS[self.profile])


@dataclass(frozen=True)
class Panel:
    """One sweep: `runs[l][s]` is that of level l and replicate s; those of one s are paired."""

    name: str
    title: str
    axis: str
    levels: tuple[str, ...]
    runs: tuple[tuple[RunSpec, ...], ...]  # [L][S]

    def only(self, levels: Sequence[str]) -> Panel:
        """The panel with these of its levels, in this order; all of them where none is named."""
        places = [self.levels.index(level) for level in levels or self.levels]
        return replace(
            self,
            levels=tuple(self.levels[place] for place in places),
            runs=tuple(self.runs[place] for place in places),
        )

    def missing(self, records: Mapping[str, Record], measure: str) -> list[str]:
        """Each run without a value, and why."""
        return [
            f"{spec.label} seed {spec.seed}: {why}"
            for level in self.runs
            for spec in level
            if (why := reason(records, spec, measure))
        ]

    def values(self, records: Mapping[str, Record], measure: str) -> NDArray[np.float64]:
        """The measure of every run, [S, L]; NaN where there is none (`reason` tells why)."""
        table = [
            [
                np.nan if reason(records, spec, measure) else records[spec.key]["measures"][measure]
                for spec in level
            ]
            for level in self.runs
        ]
        return np.array(table, dtype=np.float64).T

    def gaps(self, records: Mapping[str, Record], measure: str) -> list[list[str]]:
        """Of each level, why its runs without a value have none."""
        found = ([reason(records, spec, measure) for spec in level] for level in self.runs)
        return [[why for why in level if why] for level in found]


def reason(records: Mapping[str, Record], spec: RunSpec, measure: str) -> str:
    """Why a run has no value of a measure; empty where it has one."""
    record = records.get(spec.key)
    if record is None:
        return "not run"
    if record["status"] == "diverged":
        return "diverged"
    return "undefined" if record["measures"].get(measure) is None else ""


class Figure(ABC):
    """One figure of the paper. A figure without runs has no panels and overrides `judge`."""

    name: str
    title: str
    # How a verdict is reached, in words.
    rule = RULE

    @property
    def shows_connectome(self) -> bool:
        """Whether electron microscopy is in it, whose stand-in must be labelled."""
        return False

    def notes(self, settings: Settings) -> list[str]:
        """What a reader must know of how the figure was made, in sentences."""
        return []

    def panels(self, settings: Settings) -> list[Panel]:
        """The sweeps of runs that the figure shows."""
        return []

    def runs(self, settings: Settings) -> list[RunSpec]:
        """All runs that it needs, each once."""
        return distinct(
            spec for panel in self.panels(settings) for level in panel.runs for spec in level
        )

    @abstractmethod
    def claims(self, settings: Settings) -> list[Claim]:
        """What the paper says, fixed before anything is measured."""

    def judge(self, settings: Settings, records: Mapping[str, Record]) -> list[Finding]:
        """Test each claim on the records (by key); the finding names what is missing."""
        panels = {panel.name: panel for panel in self.panels(settings)}
        return [
            judge(claim, *self.table(claim, panels, records)) for claim in self.claims(settings)
        ]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """What a claim is tested on: values [S, L], the levels' names, and what is missing."""
        panel = panels[claim.panel].only(claim.levels)
        values = panel.values(records, claim.measure)
        return values, panel.levels, panel.missing(records, claim.measure)

    @abstractmethod
    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """Draw it with matplotlib's parameters as they are; `hpr.figures.draw.save` calls it in the house's style.

        The same records give the same picture. What draws, matplotlib too, is imported in here.
        """


def discover() -> dict[str, Figure]:
    """Every figure by name, numbers first: those in the FIGURES of `hpr.figures.definitions`' modules."""
    found: dict[str, Figure] = {}
    for module in pkgutil.iter_modules(hpr.figures.definitions.__path__):
        members = importlib.import_module(f"hpr.figures.definitions.{module.name}")
        for figure in getattr(members, "FIGURES", ()):
            if figure.name in found:
                raise ValueError(f"figure {figure.name}: expected one definition, got a second")
            found[figure.name] = figure
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> tuple[bool, int, str]:
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
