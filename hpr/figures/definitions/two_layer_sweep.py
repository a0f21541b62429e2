"""Figure 4: the rank of the first layer of two-layer networks, linear and ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpr.connectivity import Connectivity, LowRank
from hpr.figures.claims import Claim
from hpr.figures.definitions.rank_sweep import (
    PICTURED,
    SEQUENTIAL_MNIST,
    TRENDS,
    RankSweep,
    Sweep,
)
from hpr.figures.settings import Settings
from hpr.tasks.student_teacher import StudentTeacher

# σ of Appendix C.2, the standard deviation of the readout weights.
SIGMA = 0.001
# Fields that all two-layer linear networks share. They descend by the plain gradient, as in Eq. 3 and the theory:
# momentum overshoots where kappa and d are large.
LINEAR: dict[str, Any] = {
    "model": "two_layer",
    "activation": "linear",
    "readout_deviation": SIGMA,
    "momentum": 0.0,
    "N": 1000,
    "batch": 256,
    "trials": 256,
    "kernel_trials": 256,
    "iterations": 3000,
}
# The larger d, the larger the teacher's norm, and the fewer iterations learning takes.
QUICK_LINEAR: dict[int, dict[str, int]] = {
    d: {"N": 300, "iterations": iterations} for d, iterations in ((2, 1500), (20, 500), (100, 300))
}
MOMENTUM = "Two-layer linear networks train by the plain gradient, with momentum 0."
# Figures 3, 14 and 15 train sMNIST with these fields. In `quick` they compute kernels on a quarter of the pictures, for
# a sixteenth of the cost. The stand-in's 600 iterations are enough for most of the change.
_FEW = {"kernel_trials": 50}
SEQUENTIAL = replace(
    SEQUENTIAL_MNIST,
    quick={**SEQUENTIAL_MNIST.quick, **_FEW},
    stand_in={"quick": {"iterations": 600, **_FEW}},
)


@dataclass(frozen=True)
class TwoLayerSweep(RankSweep):
    """Sweeps over the rank of W_1; for two-layer linear networks, the two measures of the theorem are claimed."""

    note: str = MOMENTUM

    def claims(self, settings: Settings) -> list[Claim]:
        """The claims of Figure 1, but for linear networks none on weight change (equal) and final loss (vanishing)."""
        found = []
        for panel in self.panels(settings):
            linear = panel.runs[0][0].activation == "linear"
            for measure, kind, says in TRENDS:
                if linear and measure == "weight_change_norm":
                    continue
                if len(panel.levels) == 2:
                    found.append(Claim(panel.name, measure, "higher", says, panel.levels))
                else:
                    found.append(Claim(panel.name, measure, kind, says))
            if not linear:
                says = "losses at the end are comparable"
                found.append(Claim(panel.name, "final_loss", "comparable", says))
        return found

    def levels(self, sweep: Sweep, N: int, weights: Mapping[str, Any]) -> dict[str, Connectivity]:
        """The ranks as given: W_1 has full rank at the number of inputs or of units, whichever is smaller."""
        return {str(rank): LowRank(rank=rank, **weights) for rank in sweep.ranks}


def linear_sweep(
    name: str, d: int, ranks: tuple[int, ...], *, whitened: bool = False, **run: Any
) -> Sweep:
    """A panel of two-layer linear networks with entries N(0, σ²) in W_1, as in Appendix C.2."""
    return Sweep(
        StudentTeacher(d, whitened=whitened).name,
        ranks,
        quick=QUICK_LINEAR[d],
        run={**LINEAR, **run},
        weights={"gain": SIGMA * d**0.5},
        name=name,
    )


MNIST = Sweep(
    "MNIST",
    ranks=(1, 30, 100, 300),
    quick={"iterations": 1000},
    run={**PICTURED, "model": "two_layer"},
    # The entries of W_1 are drawn like the input weights of the recurrent networks (Appendix C.2).
    weights={"gain": 1.0, "distribution": "uniform"},
    name="B MNIST",
    # Pictures of 8 x 8 pixels have 64 inputs.
    stand_in={"ranks": (1, 8, 24, 64)},
)

FIGURES = (
    TwoLayerSweep(
        "4",
        "Rank of the first layer of two-layer networks: linear, and ReLU on MNIST",
        (
            linear_sweep("A linear, d = 2", 2, (1, 2)),
            linear_sweep("A linear, d = 20", 20, (1, 5, 20)),
            linear_sweep("A linear, d = 100", 100, (1, 10, 100)),
            MNIST,
        ),
    ),
)
