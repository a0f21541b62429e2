"""Panels of runs: how they are built from the settings, and how their records are read as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.claims import Kind
from hpr.figures.settings import Settings
from hpr.tasks import task_version

# What a table or an axis calls a measure of the run's record.
MEASURES: dict[str, str] = {
    "weight_change_norm": "weight change norm",
    "representation_alignment": "representation alignment",
    "kernel_alignment": "kernel alignment",
    "final_loss": "final loss",
    "final_accuracy": "final accuracy",
    "connectivity_effective_rank": "effective rank of the connectivity",
}
# Some claims are about these measures, too; the tables of means leave them out.
WORDS: dict[str, str] = {
    **MEASURES,
    "connectivity_effective_rank_singular": "effective rank of the connectivity by singular values",
    "centred_kernel_alignment_final": "centred kernel alignment (CKA) with the labels at the end",
}


@dataclass(frozen=True)
class Panel:
    """One sweep. `runs[l][s]` is the run of level l and replicate s; runs of one s are paired."""

    name: str
    title: str
    axis: str
    levels: tuple[str, ...]
    runs: tuple[tuple[RunSpec, ...], ...]  # [L][S]

    def only(self, levels: Sequence[str]) -> Panel:
        """The panel with these of its levels, in this order; with all of them where `levels` is empty."""
        places = [self.levels.index(level) for level in levels or self.levels]
        return replace(
            self,
            levels=tuple(self.levels[place] for place in places),
            runs=tuple(self.runs[place] for place in places),
        )

    def missing(self, records: Mapping[str, Record], measure: str) -> list[str]:
        """Each run without a value, with the reason."""
        return [
            f"{spec.label} seed {spec.seed}: {why}"
            for level in self.runs
            for spec in level
            if (why := reason(records, spec, measure))
        ]

    def values(self, records: Mapping[str, Record], measure: str) -> NDArray[np.float64]:
        """The measure of every run, [S, L]; NaN where `reason` says why there is none."""
        table = [
            [
                np.nan if reason(records, spec, measure) else records[spec.key]["measures"][measure]
                for spec in level
            ]
            for level in self.runs
        ]
        return np.array(table, dtype=np.float64).T

    def gaps(self, records: Mapping[str, Record], measure: str) -> list[list[str]]:
        """For each level, the reasons of its runs without a value."""
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


@dataclass(frozen=True)
class PanelBuilder:
    """Makes the runs of a panel: what the settings set, and the fields of RunSpec that a figure sets.

    `quick` are the fields that the profile `quick` changes. Leak, kernel parameters and the gain of structures that
    name none follow from the settings' variant (`RunSpec`).
    """

    settings: Settings
    task: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The fields that all runs of the panel share."""
        settings = self.settings
        return {
            "task": self.task,
            "variant": settings.variant,
            "task_version": task_version(self.task, settings.task_version),
            "content": settings.content(self.task),
            **self.fields,
            **(self.quick if settings.profile == "quick" else {}),
            **({"iterations": settings.iterations} if settings.iterations else {}),
        }

    @property
    def N(self) -> int:
        """How many units the networks have."""
        size: int = self.shared.get("N", RunSpec.N)
        return size

    def run(self, seed: int, **level: Any) -> RunSpec:
        """One run; `level`: the fields that differ within the panel, `connectivity` among them."""
        return RunSpec(seed=seed, **self.shared, **level)

    def panel(
        self, name: str, title: str, axis: str, levels: Mapping[str, Mapping[str, Any]]
    ) -> Panel:
        """The panel whose levels have these names and fields, each with all seeds of the settings."""
        runs = tuple(
            tuple(first.at_seed(seed) for seed in self.settings.replicates)
            for first in (self.run(0, **level) for level in levels.values())
        )
        return Panel(name, title, axis, tuple(levels), runs)


@dataclass(frozen=True)
class Curve:
    """One plot of a measure in the course of training: of which sweep, and what the paper says of it."""

    letter: str
    sweep: int
    measure: str
    label: str
    # Each claim: its measure, how the paper has the measure move, and the paper's statement in words.
    claims: tuple[tuple[str, Kind, str], ...] = ()
