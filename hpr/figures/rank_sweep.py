"""Figures that sweep the rank of the initial recurrent weights, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpr.connectivity import SVD
from hpr.figures.claims import Claim, Kind
from hpr.figures.figure import Figure, Panel, Record, Settings
from hpr.runs import GAIN, VARIANTS, RunSpec

if TYPE_CHECKING:
    import matplotlib.figure

# Measure, how the paper has it move as the rank rises, and in words.
TRENDS: tuple[tuple[str, Kind, str], ...] = (
    ("weight_change_norm", "falls", "weights of low initial rank change more"),
    ("representation_alignment", "rises", "low initial rank changes the representation more"),
    ("kernel_alignment", "rises", "low initial rank changes the tangent kernel more"),
)
STAND_IN_TITLE = "sMNIST stand-in:\n8 x 8 digits (sDigits)"


@dataclass(frozen=True)
class Sweep:
    """One panel: a task, its ranks, its length in `quick`, and other fields of its RunSpec.

    `stand_in` takes its place where `Settings.smnist` says so.
    """

    task: str
    ranks: tuple[int, ...]
    quick_iterations: int
    run: Mapping[str, Any] = field(default_factory=dict)
    stand_in: Sweep | None = None


@dataclass(frozen=True)
class RankSweep(Figure):
    """Sweeps over rank; `run` and `weights`: fields of RunSpec and SVD that all panels share."""

    name: str
    title: str
    sweeps: tuple[Sweep, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    def panels(self, settings: Settings) -> list[Panel]:
        """One a task, ranks ascending."""
        return [self._panel(sweep, settings) for sweep in self.sweeps]

    def claims(self, settings: Settings) -> list[Claim]:
        """The three trends, and comparable losses, in each panel."""
        return [
            claim
            for panel in self.panels(settings)
            for claim in (
                *(Claim(panel.name, measure, kind, says) for measure, kind, says in TRENDS),
                Claim(panel.name, "final_loss", "comparable", "losses at the end are comparable"),
            )
        ]

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """Dots, a column a task and a row a measure."""
        from hpr.figures.plotting import describe, sweep_grid

        panels = self.panels(settings)
        measures = [measure for measure, _, _ in TRENDS]
        return sweep_grid(panels, measures, records, small_print=describe(settings, panels))

    def _panel(self, sweep: Sweep, settings: Settings) -> Panel:
        if sweep.stand_in is not None and settings.smnist == "sDigits":
            sweep = sweep.stand_in
        length = {"quick": {"iterations": sweep.quick_iterations}, "paper": {}}[settings.profile]
        if settings.iterations:
            length = {"iterations": settings.iterations}
        fields: dict[str, Any] = {
            "variant": settings.variant,
            "task_version": settings.version(sweep.task),
            **VARIANTS[settings.variant],
            **self.run,
            **sweep.run,
            **length,
        }
        runs = tuple(
            tuple(
                RunSpec(task=sweep.task, connectivity=connectivity, seed=seed, **fields)
                for seed in settings.replicates
            )
            for rank in sweep.ranks
            for connectivity in [
                SVD(**{"gain": GAIN[settings.variant], "rank": rank, **self.weights})
            ]
        )
        return Panel(
            name=sweep.task,
            title=STAND_IN_TITLE if sweep.task == "sDigits" else sweep.task,
            axis="initial weight rank",
            levels=tuple(str(rank) for rank in sweep.ranks),
            runs=runs,
        )


NEUROGYM = tuple(
    Sweep(task, ranks=(1, 30, 100, 300), quick_iterations=3000) for task in ("2AF", "DMS", "CXT")
)
LAST_STEP = {"batch": 200, "stop_accuracy": 0.97, "trials": 200, "kernel_trials": 200}
SEQUENTIAL_MNIST = Sweep(
    "sMNIST",
    ranks=(5, 30, 300),
    quick_iterations=300,
    run=LAST_STEP,
    # 1,500 pictures train: batches of 200 would be few and slow. All runs reach 97 % in this length.
    stand_in=Sweep(
        "sDigits", ranks=(5, 30, 300), quick_iterations=1500, run={**LAST_STEP, "batch": 32}
    ),
)

FIGURES = (
    RankSweep(
        "1",
        "Rank of the initial recurrent weights, and how far training moves the network",
        (*NEUROGYM, SEQUENTIAL_MNIST),
    ),
)
