"""Figures 1 and 7 to 13: sweeps over the rank of the initial recurrent weights, one panel per task or setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpr.connectivity import Connectivity, LowRank, SoftRank
from hpr.experiment.record import Record
from hpr.figures.claims import Claim, Kind
from hpr.figures.figure import Figure
from hpr.figures.panel import Panel, PanelBuilder
from hpr.figures.settings import Settings

if TYPE_CHECKING:
    import matplotlib.figure

# Each measure, how the paper has it move as the rank rises, and the paper's statement in words.
TRENDS: tuple[tuple[str, Kind, str], ...] = (
    ("weight_change_norm", "falls", "weights of low initial rank change more"),
    ("representation_alignment", "rises", "low initial rank changes the representation more"),
    ("kernel_alignment", "rises", "low initial rank changes the tangent kernel more"),
)


@dataclass(frozen=True)
class Sweep:
    """One panel: a task, the ranks, and the fields of its RunSpec (`run`) and of its structures (`weights`).

    `quick` has the fields of RunSpec that the profile `quick` changes. Every sweep ends at full rank N; of `ranks` it
    takes those below N. `name` is the panel's name, by default the task's. `stand_in` has the fields of this class that
    change where the settings use the task's stand-in; name, task and batch size then follow from
    `hpr.figures.stand_ins`.
    """

    task: str
    ranks: tuple[int, ...]
    quick: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    stand_in: Mapping[str, Any] = field(default_factory=dict)

    def under(self, settings: Settings) -> Sweep:
        """The sweep that the settings train: this one, or its task's stand-in."""
        found = settings.stand_in(self.task)
        if found is None:
            return self
        run = {**self.run, **found.run}
        return replace(self, **{"task": found.name, "run": run, **self.stand_in})

    def label(self, settings: Settings) -> str:
        """The panel's name; a stand-in is called one."""
        found = settings.stand_in(self.task)
        return found.named(self.name or self.task) if found else self.name or self.task

    def title(self, settings: Settings) -> str:
        """The panel's title; a stand-in is called one."""
        found = settings.stand_in(self.task)
        return found.title(self.name or self.task) if found else self.name or self.task


@dataclass(frozen=True)
class RankSweep(Figure):
    """Sweeps over rank; `run` and `weights` are fields of RunSpec and of structures that all panels share."""

    name: str
    title: str
    sweeps: tuple[Sweep, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    axis: str = "initial weight rank"
    note: str = ""

    def notes(self, settings: Settings) -> list[str]:
        """The figure's own note, if it has one."""
        return [self.note] if self.note else []

    def panels(self, settings: Settings) -> list[Panel]:
        """One panel per sweep, ranks ascending."""
        found = []
        for sweep in self.sweeps:
            used = sweep.under(settings)
            runs = PanelBuilder(settings, used.task, {**self.run, **used.run}, used.quick)
            structures = self.levels(used, runs.N, {**self.weights, **used.weights})
            levels = {name: {"connectivity": each} for name, each in structures.items()}
            found.append(
                runs.panel(sweep.label(settings), sweep.title(settings), self.axis, levels)
            )
        return found

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
        """One dot per run, one column per panel and one row per measure."""
        from hpr.figures.draw.plotting import describe, sweep_grid

        panels = self.panels(settings)
        measures = [measure for measure, _, _ in TRENDS]
        small_print = f"{describe(settings, panels)}; bars are means"
        return sweep_grid(panels, measures, records, small_print)

    def levels(self, sweep: Sweep, N: int, weights: Mapping[str, Any]) -> dict[str, Connectivity]:
        """The sweep's structures by the names on its axis, from low rank to high."""
        ranks = [*(rank for rank in sweep.ranks if rank < N), N]
        return {str(rank): LowRank(rank=rank, **weights) for rank in ranks}


@dataclass(frozen=True)
class SoftRankSweep(RankSweep):
    """Sweeps over the exponent k of a soft rank. They begin at the largest k, which has the lowest effective rank."""

    exponents: tuple[float, ...] = ()
    axis: str = "exponent k of the decay"

    def levels(self, sweep: Sweep, N: int, weights: Mapping[str, Any]) -> dict[str, Connectivity]:
        """The structures by k."""
        return {f"{k:g}": SoftRank(k=k, **weights) for k in self.exponents}


@dataclass(frozen=True)
class GainSweep(RankSweep):
    """Panels of different gains; in the panels `weak`, the claim is that the trends are weaker than in `reference`."""

    weak: tuple[str, ...] = ()
    reference: str = ""

    def claims(self, settings: Settings) -> list[Claim]:
        """The claims of `RankSweep` on all other panels, and that the trends are smaller in the panels `weak`."""
        usual = [claim for claim in super().claims(settings) if claim.panel not in self.weak]
        return usual + [
            Claim(weak, measure, "lower", f"weaker for g < 1: {says}", (self.reference, weak))
            for weak in self.weak
            for measure, _, says in TRENDS
        ]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """For a claim of a weaker trend: the trend's size in both panels.

        The size is the difference of last and first level, positive in the paper's direction.
        """
        if not claim.levels:
            return super().table(claim, panels, records)
        [sign] = [-1 if kind == "falls" else 1 for name, kind, _ in TRENDS if name == claim.measure]
        both = [panels[name] for name in claim.levels]
        values = [panel.values(records, claim.measure) for panel in both]
        sizes = np.stack([sign * (each[:, -1] - each[:, 0]) for each in values], axis=1)
        missing = [why for panel in both for why in panel.missing(records, claim.measure)]
        return sizes, claim.levels, missing


RANKS = (1, 30, 100, 300)
# The length in `quick` of Figure 1, and of figures that share its runs or vary them.
QUICK_ITERATIONS = 1500
NEUROGYM = tuple(
    Sweep(task, RANKS, quick={"iterations": QUICK_ITERATIONS}) for task in ("2AF", "DMS", "CXT")
)
# Fields of runs that classify pictures.
PICTURED = {"batch": 200, "trials": 200, "kernel_trials": 200}
SEQUENTIAL_MNIST = Sweep(
    "sMNIST",
    ranks=(5, 30),
    quick={"iterations": 300},
    run={**PICTURED, "stop_accuracy": 0.97},
    # All runs of the stand-in reach 97 % in this length.
    stand_in={"quick": {"iterations": 1500}},
)

# In `quick`, the figures that vary Figure 1 take a third of its network size, which costs a twelfth.
SMALL = {"N": 100, "iterations": QUICK_ITERATIONS}
SMALL_NEUROGYM = tuple(replace(sweep, quick=SMALL) for sweep in NEUROGYM)
CXT = SMALL_NEUROGYM[-1]

FIGURES = (
    RankSweep(
        "1",
        "Rank of the initial recurrent weights, and how far training moves the network",
        (*NEUROGYM, SEQUENTIAL_MNIST),
    ),
    RankSweep(
        "7",
        "Figure 1 from uniform instead of Gaussian weights",
        (*SMALL_NEUROGYM, SEQUENTIAL_MNIST),
        weights={"distribution": "uniform"},
    ),
    SoftRankSweep(
        "8",
        "Soft rank: singular values s_1 (1 - i/N)^k",
        SMALL_NEUROGYM,
        # The paper does not name its values of k. With 300 singular values, these have Σs / s_1 of about 18, 60, 150
        # and 240.
        exponents=(16.0, 4.0, 1.0, 0.25),
    ),
    RankSweep(
        "9",
        "Figure 1's CXT at other network sizes",
        (
            replace(CXT, name="N = 100", run={"N": 100}),
            # These are Figure 1's own runs in both profiles.
            replace(CXT, name="N = 300", quick=NEUROGYM[-1].quick),
            replace(CXT, name="N = 600", run={"N": 600}, quick={"iterations": 200}),
        ),
    ),
    RankSweep(
        "10",
        "Figure 1's CXT at other learning rates",
        tuple(
            replace(CXT, name=f"learning rate {rate:g}", run={"learning_rate": rate})
            for rate in (1e-3, 3e-3, 1e-2)
        ),
    ),
    GainSweep(
        "11",
        "Figure 1's CXT at other gains",
        tuple(
            replace(CXT, name=f"g = {gain:g}", weights={"gain": gain})
            for gain in (0.5, 1.0, 1.5, 2.0)
        ),
        weak=("g = 0.5",),
        reference="g = 1.5",
    ),
    RankSweep(
        "12",
        "Figure 1 at a time step of 20 ms: 40 steps",
        tuple(
            # A kernel has five times as many rows, as trials have five times as many steps; `quick` takes fewer trials.
            replace(sweep, quick={"N": 100, "iterations": 1000, "kernel_trials": 8})
            for sweep in NEUROGYM
        ),
        run={"dt": 20.0},
    ),
    RankSweep(
        "13",
        "Figure 1 with the leading |eigenvalue| kept instead of the Frobenius norm",
        SMALL_NEUROGYM,
        weights={"rescale": "eigenvalue"},
    ),
)
