"""Figures 14 and 15: the kernel in the course of training, by the rank of the initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.claims import Claim, Kind
from hpr.figures.definitions.rank_sweep import Sweep
from hpr.figures.definitions.two_layer_sweep import SEQUENTIAL, TwoLayerSweep, linear_sweep
from hpr.figures.panel import Curve, Panel, reason
from hpr.figures.settings import Settings
from hpr.tasks.student_teacher import student_teacher

if TYPE_CHECKING:
    import matplotlib.figure

# A trajectory has settled when it stays within this share of its last value.
SETTLED = 0.05
DISTANCE = "distance of the kernel's effective rank from the task's"
SETTLING = "iterations until the task kernel alignment settles"


@dataclass(frozen=True)
class Trajectories(TwoLayerSweep):
    """Measures of the kernel against iterations, one colour per rank."""

    curves: tuple[Curve, ...] = ()

    def claims(self, settings: Settings) -> list[Claim]:
        """The claims of each curve: along the ranks, or about the start and end of training at each rank."""
        panels = self.panels(settings)
        found = []
        for curve in self.curves:
            panel = panels[curve.sweep]
            for measure, kind, says in curve.claims:
                if kind in ("higher", "lower"):
                    ends = [(f"start, rank {rank}", f"end, rank {rank}") for rank in panel.levels]
                    found += [Claim(panel.name, measure, kind, says, levels) for levels in ends]
                else:
                    found.append(Claim(panel.name, measure, kind, says))
        return found

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """One value per run and rank; for a claim about start and end, two values per run of one rank."""
        panel = panels[claim.panel]
        if claim.measure == SETTLING:
            missing = panel.missing(records, "task_kernel_alignment_final")
            return _of_runs(panel, records, settling), panel.levels, missing
        if claim.levels:
            panel = panel.only((claim.levels[0].removeprefix("start, rank "),))
            both = [_of_runs(panel, records, rank_left(end)) for end in ("initial", "final")]
            missing = panel.missing(records, "kernel_effective_rank_final")
            return np.concatenate(both, axis=1), claim.levels, missing
        return super().table(claim, panels, records)

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """One plot per curve: a thin line per run, bold lines for the means."""
        from hpr.figures.draw.curves import curve_grid

        return curve_grid(self.curves, self.panels(settings), settings, records)


def settling(run: RunSpec, record: Record) -> float:
    """Iterations after which the task kernel alignment stays within 5 % of its last value.

    Between two points of the trajectory, the value is interpolated linearly in the logarithm of iterations.
    """
    iterations = np.log(np.maximum(np.array(record["trajectory"]["iteration"], float), 0.5))
    course = np.array(record["trajectory"]["task_kernel_alignment"], float)
    excess = np.abs(course / course[-1] - 1) - SETTLED
    outside = np.flatnonzero(excess > 0)
    if not len(outside):
        return 0.0
    last = outside[-1]
    share = excess[last] / (excess[last] - excess[last + 1])
    return float(np.exp(iterations[last] + share * (iterations[last + 1] - iterations[last])))


def rank_left(end: str) -> Callable[[RunSpec, Record], float]:
    """How far the kernel's effective rank is from the task's, at the "initial" or "final" point of training.

    For two-layer linear networks on whitened inputs, the task's effective rank is that of Eq. 8,
    X^T (ββ^T / |β|² + 1) X, which is (d + 1) / 2. For other networks it is not known, and the kernel's effective rank
    itself is returned.
    """

    def left(run: RunSpec, record: Record) -> float:
        rank = float(record["measures"][f"kernel_effective_rank_{end}"])
        return abs(rank - task_rank(run)) if run.activation == "linear" else rank

    return left


def task_rank(run: RunSpec) -> float:
    """The effective rank (d + 1) / 2 of a linear student's final kernel."""
    return (student_teacher(run.task).N_in + 1) / 2


def _of_runs(
    panel: Panel, records: Mapping[str, Record], of_run: Callable[[RunSpec, Record], float]
) -> NDArray[np.float64]:
    """`of_run` of every run, [S, L]; NaN for runs whose trajectory does not reach the end."""
    known = "kernel_effective_rank_final"
    table = [
        [np.nan if reason(records, run, known) else of_run(run, records[run.key]) for run in level]
        for level in panel.runs
    ]
    return np.array(table, np.float64).T


def _with_points(sweep: Sweep, checkpoints: int) -> Sweep:
    """The sweep with trajectories. Full rank is added, which `TwoLayerSweep` does not add by itself."""
    return replace(
        sweep,
        ranks=(*sweep.ranks, RunSpec.N),
        run={**sweep.run, "checkpoints": checkpoints},
    )


# The linear networks' inputs are whitened, as in the theory.
SWEEPS = (
    linear_sweep("two-layer linear, d = 20", 20, (1, 5, 20), whitened=True, checkpoints=32),
    _with_points(SEQUENTIAL, checkpoints=16),
)
ALIGNMENT: tuple[tuple[str, Kind, str], ...] = (
    ("kernel_alignment", "rises", "low initial rank changes the kernel more"),
)
FIGURES = (
    Trajectories(
        "14",
        "Alignment of the kernel with its start and with the task through training",
        SWEEPS,
        curves=(
            Curve("A", 0, "kernel_alignment", "alignment with\ninitial kernel", ALIGNMENT),
            Curve(
                "B",
                0,
                "task_kernel_alignment",
                "task kernel\nalignment",
                ((SETTLING, "falls", "low initial rank takes longer to align with the task"),),
            ),
            Curve("C", 1, "kernel_alignment", "alignment with\ninitial kernel", ALIGNMENT),
            Curve(
                "D",
                1,
                "centred_kernel_alignment",
                "CKA with labels",
                (
                    (
                        "centred_kernel_alignment_final",
                        "rises",
                        "low initial rank does not achieve as high an alignment with the task",
                    ),
                ),
            ),
        ),
    ),
    Trajectories(
        "15",
        "Effective rank of the kernel through training",
        SWEEPS,
        curves=(
            Curve(
                "A",
                0,
                "kernel_effective_rank",
                "kernel effective rank",
                ((DISTANCE, "lower", "the kernel's effective rank approaches the task's"),),
            ),
            Curve(
                "B",
                1,
                "kernel_effective_rank",
                "kernel effective rank",
                (
                    (
                        "kernel effective rank",
                        "lower",
                        "the kernel's effective rank falls towards the task's",
                    ),
                ),
            ),
        ),
    ),
)
