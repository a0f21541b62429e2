"""Figures that sweep the rank of the initial recurrent weights, a panel a task or a setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpr.connectivity import Connectivity, LowRank, SoftRank
from hpr.experiment.specification import GAIN, VARIANTS, RunSpec
from hpr.figures.claims import Claim, Kind
from hpr.figures.figure import Figure, Panel, Record, Settings

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
    """One panel: a task, its ranks, and fields of its RunSpec (`run`) and of its weights (`weights`).

    `quick`: the fields of RunSpec that the `quick` profile changes. Every sweep ends at full rank N, whatever N; of
    `ranks` it takes those below. `name`: the panel's, by default the task's. `stand_in` takes its place where
    `Settings.smnist` says so.
    """

    task: str
    ranks: tuple[int, ...]
    quick: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    stand_in: Sweep | None = None


@dataclass(frozen=True)
class RankSweep(Figure):
    """Sweeps over rank; `run` and `weights`: fields of RunSpec and SVD that all panels share."""

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
        """One a sweep, ranks ascending."""
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
        """Dots, a column a panel and a row a measure."""
        from hpr.figures.draw.plotting import describe, sweep_grid

        panels = self.panels(settings)
        measures = [measure for measure, _, _ in TRENDS]
        small_print = f"{describe(settings, panels)}; bars are means"
        return sweep_grid(panels, measures, records, small_print)

    def levels(self, sweep: Sweep, N: int, weights: Mapping[str, Any]) -> dict[str, Connectivity]:
        """The sweep's structures by the names on its axis, from low rank to high."""
        ranks = [*(rank for rank in sweep.ranks if rank < N), N]
        return {str(rank): LowRank(rank=rank, **weights) for rank in ranks}

    def _panel(self, sweep: Sweep, settings: Settings) -> Panel:
        if sweep.stand_in is not None and settings.smnist == "sDigits":
            sweep = sweep.stand_in
        fields: dict[str, Any] = {
            "variant": settings.variant,
            "task_version": settings.version(sweep.task),
            "content": settings.content(sweep.task),
            **VARIANTS[settings.variant],
            **self.run,
            **sweep.run,
            **(sweep.quick if settings.profile == "quick" else {}),
            **({"iterations": settings.iterations} if settings.iterations else {}),
        }
        weights = {"gain": GAIN[settings.variant], **self.weights, **sweep.weights}
        levels = self.levels(sweep, fields.get("N", RunSpec.N), weights)
        runs = tuple(
            tuple(
                RunSpec(task=sweep.task, connectivity=connectivity, seed=seed, **fields)
                for seed in settings.replicates
            )
            for connectivity in levels.values()
        )
        name = sweep.name or sweep.task
        return Panel(
            name=name,
            title=STAND_IN_TITLE if sweep.task == "sDigits" else name,
            axis=self.axis,
            levels=tuple(levels),
            runs=runs,
        )


@dataclass(frozen=True)
class SoftRankSweep(RankSweep):
    """Sweeps over the exponent of a soft rank, from the greatest, whose effective rank is the lowest."""

    exponents: tuple[float, ...] = ()
    axis: str = "exponent k of the decay"

    def levels(self, sweep: Sweep, N: int, weights: Mapping[str, Any]) -> dict[str, Connectivity]:
        """The structures by k."""
        return {f"{k:g}": SoftRank(k=k, **weights) for k in self.exponents}


@dataclass(frozen=True)
class GainSweep(RankSweep):
    """Panels of unlike gain; in those of `weak` the trends need only be weaker than in `reference`."""

    weak: tuple[str, ...] = ()
    reference: str = ""

    def claims(self, settings: Settings) -> list[Claim]:
        """The trends and losses of all other panels, and that the trends of `weak` are smaller."""
        usual = [claim for claim in super().claims(settings) if claim.panel not in self.weak]
        return usual + [
            Claim(weak, measure, "lower", f"weaker for g < 1: {says}", (self.reference, weak))
            for weak in self.weak
            for measure, _, says in TRENDS
        ]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """For a weaker trend: its size in both panels, last level less first in the paper's direction."""
        if not claim.levels:
            return super().table(claim, panels, records)
        [sign] = [-1 if kind == "falls" else 1 for name, kind, _ in TRENDS if name == claim.measure]
        both = [panels[name] for name in claim.levels]
        values = [panel.values(records, claim.measure) for panel in both]
        sizes = np.stack([sign * (each[:, -1] - each[:, 0]) for each in values], axis=1)
        missing = [why for panel in both for why in panel.missing(records, claim.measure)]
        return sizes, claim.levels, missing


RANKS = (1, 30, 100, 300)
# Of Figure 1 in `quick`, and of those that share its runs or vary them.
QUICK_ITERATIONS = 1500
NEUROGYM = tuple(
    Sweep(task, RANKS, quick={"iterations": QUICK_ITERATIONS}) for task in ("2AF", "DMS", "CXT")
)
LAST_STEP = {"batch": 200, "stop_accuracy": 0.97, "trials": 200, "kernel_trials": 200}
SEQUENTIAL_MNIST = Sweep(
    "sMNIST",
    ranks=(5, 30),
    quick={"iterations": 300},
    run=LAST_STEP,
    # 1,500 pictures train: batches of 200 would be few and slow. All runs reach 97 % in this length.
    stand_in=Sweep(
        "sDigits",
        ranks=(5, 30),
        quick={"iterations": 1500},
        run={**LAST_STEP, "batch": 32},
        name="sMNIST stand-in",
    ),
)

# In `quick`, what varies Figure 1 does so at a third of its size, for a twelfth of its cost.
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
        # The paper doesn't name its k: of 300 singular values these have Σs / s_1 of about 18, 60, 150 and 240.
        exponents=(16.0, 4.0, 1.0, 0.25),
    ),
    RankSweep(
        "9",
        "Figure 1's CXT at other network sizes",
        (
            replace(CXT, name="N = 100", run={"N": 100}),
            # Figure 1's own runs, in both profiles.
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
            # Five times the steps make five times the rows of a kernel: fewer trials in `quick`.
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
