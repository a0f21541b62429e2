"""Figure 18: the rank of the initial recurrent weights in a regression, pattern generation."""

from __future__ import annotations

from hpr.figures.definitions.rank_sweep import RankSweep, Sweep
from hpr.tasks.pattern import PatternGeneration

FIGURES = (
    RankSweep(
        "18",
        "Figure 1 for pattern generation, a regression",
        # Over ten time constants a network of low rank can explode. From rank 5 on, as in sMNIST, few do: at N = 300,
        # one of ten seeds does and is recorded as diverged.
        (Sweep(PatternGeneration.name, (5, 30, 100), quick={"N": 100, "iterations": 2000}),),
        # All trials of a seed are the same.
        run={"dt": 20.0, "batch": 1, "trials": 1, "kernel_trials": 1},
        note=(
            "The sweep begins at rank 5: networks of rank 1 diverged in trials. "
            "RA compares the time steps of the one trial."
        ),
    ),
)
