"""Figure 3: students whose initial weights are aligned with their teacher, beside random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpr.connectivity import Dense, LowRank
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.claims import Claim
from hpr.figures.definitions.two_layer_sweep import (
    LINEAR,
    MOMENTUM,
    QUICK_LINEAR,
    SEQUENTIAL,
    SIGMA,
)
from hpr.figures.figure import Figure
from hpr.figures.panel import Panel, PanelBuilder
from hpr.figures.settings import Settings
from hpr.tasks.student_teacher import StudentTeacher

if TYPE_CHECKING:
    import matplotlib.figure

# No student has the teacher's seed, so that teacher and students share no random numbers.
TEACHER_SEED = 1000
BALANCED = (
    "In B both layers have one norm, as Proposition 1 takes them: entries of W_1 are N(0, σ²/d). "
    "With the N(0, σ²) of Appendix C.2, as in Figure 4, aligned directions would count d times too much in the kernel."
)
TEACHERS_INPUT = (
    "In C every student, random ones too, has the input weights of the trained teacher."
)

RANDOM, LOW_RANK, PARTIAL, ALIGNED = "random", "random low-rank", "partially aligned", "aligned"
# What students of C take from their teacher, and how the title of the panel says it.
READINGS = {"features": "teacher's $W_h$", "directions": "Proposition 1"}


@dataclass(frozen=True)
class Students(Figure):
    """Alignment with a teacher: two-layer linear networks by d and kappa (B), recurrent networks on sMNIST (C).

    The paper names random, partially aligned and aligned weights. A fourth kind, random weights of low rank, separates
    the effect of alignment from that of low rank. It has the rank of the aligned directions. Weights aligned with all
    features are the teacher's matrix and have full rank; there the low-rank weights have the rank of the dominant half.
    The paper does not say what F is in a recurrent network. Here it is the teacher's recurrent weight matrix, from
    which the student takes the features (`features`) or the directions of Proposition 1 (`directions`).
    """

    name: str
    title: str
    kappas: Mapping[int, tuple[float, ...]]  # by d

    def panels(self, settings: Settings) -> list[Panel]:
        """B: one panel per d and kappa; C: one per reading. Their levels are the kinds of initial weights."""
        linear = [
            self._linear(d, kappa, settings)
            for d, kappas in self.kappas.items()
            for kappa in kappas
        ]
        return [*linear, *(self._recurrent(kind, settings) for kind in READINGS)]

    def claims(self, settings: Settings) -> list[Claim]:
        """Aligned weights keep a higher kernel alignment than random ones, and so do partially aligned ones.

        Partially aligned weights are claimed to do so where some features dominate, by more the larger kappa is.
        """
        aligned = "low-rank weights aligned with the task change the kernel less"
        partly = "weights aligned with the dominant features change the kernel less"
        measure = "kernel_alignment"
        found = []
        for d, kappas in self.kappas.items():
            top = _linear_name(d, kappas[-1])
            found += [
                Claim(top, measure, "higher", aligned, (RANDOM, ALIGNED)),
                Claim(top, measure, "higher", aligned, (LOW_RANK, ALIGNED)),
                Claim(top, measure, "higher", partly, (RANDOM, PARTIAL)),
                Claim(
                    f"B d={d}", measure, "rises", "the more so, the stronger those features are",
                    tuple(f"{kappa:g}" for kappa in kappas),
                ),
            ]  # fmt: skip
        for kind, says, low_rank in (
            ("features", "weights aligned with the task change the kernel less", (partly, PARTIAL)),
            ("directions", aligned, (aligned, ALIGNED)),
        ):
            name = _recurrent_name(kind, settings)
            found += [
                Claim(name, measure, "higher", says, (RANDOM, ALIGNED)),
                Claim(name, measure, "higher", low_rank[0], (LOW_RANK, low_rank[1])),
                Claim(name, measure, "higher", partly, (RANDOM, PARTIAL)),
            ]
        return found

    def notes(self, settings: Settings) -> list[str]:
        """What differs from the paper, and which weights students share with their teacher."""
        return [f"{MOMENTUM} At d = 100, κ goes up to 5.", BALANCED, TEACHERS_INPUT]

    def runs(self, settings: Settings) -> list[RunSpec]:
        """All runs, the teacher before its students."""
        return [self._teacher(settings), *super().runs(settings)]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """For a claim along kappa: by how much the measure of partially aligned weights exceeds that of random ones."""
        if claim.kind != "rises":
            return super().table(claim, panels, records)
        pairs = [
            panels[f"{claim.panel} kappa={kappa}"].only((RANDOM, PARTIAL)) for kappa in claim.levels
        ]
        values = [np.diff(panel.values(records, claim.measure))[:, 0] for panel in pairs]
        missing = [why for panel in pairs for why in panel.missing(records, claim.measure)]
        return np.stack(values, axis=1), claim.levels, missing

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """B: kernel alignment by kappa, one colour per kind of weights, one column per d; C: by kind of weights."""
        from hpr.figures.draw.alignment_panels import alignment_grid

        panels = {panel.name: panel for panel in self.panels(settings)}
        linear = {
            d: [panels[_linear_name(d, kappa)] for kappa in kappas]
            for d, kappas in self.kappas.items()
        }
        recurrent = [panels[_recurrent_name(kind, settings)] for kind in READINGS]
        return alignment_grid(settings, linear, recurrent, records)

    def _linear(self, d: int, kappa: float, settings: Settings) -> Panel:
        # Both layers have one norm, as in Proposition 1: entries of W_1 are N(0, σ²/d).
        levels = _kinds(Dense(gain=SIGMA), LowRank(gain=SIGMA, rank=1), "directions")
        runs = PanelBuilder(settings, StudentTeacher(d, kappa).name, LINEAR, QUICK_LINEAR[d])
        return runs.panel(
            _linear_name(d, kappa), f"d = {d}, κ = {kappa:g}", "initial weights", levels
        )

    def _recurrent(self, kind: str, settings: Settings) -> Panel:
        teacher = self._teacher(settings)
        # The rank of what is aligned: N_out directions; half of the teacher's features in the partial case.
        rank = {"features": teacher.N // 2, "directions": 10}[kind]
        levels = _kinds(Dense(), LowRank(rank=rank), kind)
        stand_in = settings.stand_in(SEQUENTIAL.task)
        task = f"{stand_in.name} ({stand_in.label})" if stand_in else SEQUENTIAL.task
        return _sequential(settings, teacher=teacher).panel(
            _recurrent_name(kind, settings), f"{task}: {READINGS[kind]}", "initial weights", levels
        )

    def _teacher(self, settings: Settings) -> RunSpec:
        """The network that is trained once for all students of C."""
        return _sequential(settings).run(TEACHER_SEED, connectivity=Dense(), keep_weights=True)


def _sequential(settings: Settings, **fields: Any) -> PanelBuilder:
    """The runs of C; `fields`: what students have besides."""
    sweep = SEQUENTIAL.under(settings)
    return PanelBuilder(settings, sweep.task, {**sweep.run, **fields}, sweep.quick)


def _kinds(random: Dense, low_rank: LowRank, kind: str) -> dict[str, dict[str, Any]]:
    """The kinds of initial weights; `kind`: the part of the teacher with which they are aligned."""
    return {
        RANDOM: {"connectivity": random},
        LOW_RANK: {"connectivity": low_rank},
        PARTIAL: {"connectivity": random, "aligned": f"dominant {kind}"},
        ALIGNED: {"connectivity": random, "aligned": kind},
    }


def _linear_name(d: int, kappa: float) -> str:
    return f"B d={d} kappa={kappa:g}"


def _recurrent_name(kind: str, settings: Settings) -> str:
    stand_in = settings.stand_in(SEQUENTIAL.task)
    return f"C {kind}" + (f", {stand_in.label}" if stand_in else "")


FIGURES = (
    Students(
        "3",
        "Low-rank weights that are aligned with the task",
        kappas={2: (1, 2, 5, 10), 20: (1, 2, 5, 10), 100: (1, 2, 5)},
    ),
)
