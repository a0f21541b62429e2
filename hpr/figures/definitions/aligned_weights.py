"""Figures 3 and 4: students of a teacher, whose initial weights know it or do not; two-layer networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpr.connectivity import Connectivity, Dense, LowRank
from hpr.experiment.specification import GAIN, VARIANTS, RunSpec
from hpr.figures.claims import Claim
from hpr.figures.definitions.rank_sweep import (
    LAST_STEP,
    SEQUENTIAL_MNIST,
    TRENDS,
    RankSweep,
    Sweep,
)
from hpr.figures.figure import Figure, Panel, Record, Settings
from hpr.tasks.student_teacher import StudentTeacher

if TYPE_CHECKING:
    import matplotlib.figure

# σ of Appendix C.2, the standard deviation of the readout weights.
SIGMA = 0.001
# What two-layer linear networks have in common. They descend by the plain gradient, as Eq. 3 and the theory have it:
# momentum overshoots where kappa and d are great.
LINEAR: dict[str, Any] = {
    "model": "two_layer",
    "activation": "linear",
    "task_version": "1",
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
# A teacher shares no stream with its students.
TEACHER_SEED = 1000
# In `quick` a quarter of the pictures must do, for a sixteenth of the kernel's cost. The stand-in's students, and its
# trajectories, have done most of their way in this length.
_FEW = {"kernel_trials": 50}
assert SEQUENTIAL_MNIST.stand_in is not None
SEQUENTIAL = replace(
    SEQUENTIAL_MNIST,
    quick={**SEQUENTIAL_MNIST.quick, **_FEW},
    stand_in=replace(SEQUENTIAL_MNIST.stand_in, quick={"iterations": 600, **_FEW}),
)
MOMENTUM = "Two-layer linear networks train by the plain gradient, with momentum 0."
BALANCED = (
    "In B both layers have one norm, as Proposition 1 takes them: entries of W_1 are N(0, σ²/d). "
    "With the N(0, σ²) of Appendix C.2, as in Figure 4, aligned directions would count d times too much in the kernel."
)
TEACHERS_INPUT = (
    "In C every student, random ones too, has the input weights of the trained teacher."
)

RANDOM, LOW_RANK, PARTIAL, ALIGNED = "random", "random low-rank", "partially aligned", "aligned"
KA = "kernel_alignment"


@dataclass(frozen=True)
class Students(Figure):
    """Alignment with a teacher: two-layer linear networks by d and kappa (B), recurrent ones on sMNIST (C).

    The paper names random, partially aligned and aligned weights. A fourth kind, random of low rank, tells alignment
    from low rank: it has the rank of the aligned directions, or of the dominant half of the features, as all of them
    are the teacher's matrix at its full rank. Of C it does not say what F is in a recurrent network: here the teacher's
    recurrent weights, which the student takes as they are (`features`) or as Proposition 1 has it (`directions`).
    """

    name: str
    title: str
    kappas: Mapping[int, tuple[float, ...]]  # by d

    def panels(self, settings: Settings) -> list[Panel]:
        """B: one for each d and kappa; C: one for each reading; their levels are the kinds of initial weights."""
        linear = [
            self._linear(d, kappa, settings)
            for d, kappas in self.kappas.items()
            for kappa in kappas
        ]
        return [*linear, *(self._recurrent(kind, settings) for kind in ("features", "directions"))]

    def claims(self, settings: Settings) -> list[Claim]:
        """Aligned is lazier than random, partially aligned too where features dominate, the more so the more."""
        aligned = "low-rank weights aligned with the task change the kernel less"
        partly = "weights aligned with the dominant features change the kernel less"
        found = []
        for d, kappas in self.kappas.items():
            top = _name(d, kappas[-1])
            found += [
                Claim(top, KA, "higher", aligned, (RANDOM, ALIGNED)),
                Claim(top, KA, "higher", aligned, (LOW_RANK, ALIGNED)),
                Claim(top, KA, "higher", partly, (RANDOM, PARTIAL)),
                Claim(
                    f"B d={d}", KA, "rises", "the more so, the stronger those features are",
                    tuple(f"{kappa:g}" for kappa in kappas),
                ),
            ]  # fmt: skip
        for kind, says, low_rank in (
            ("features", "weights aligned with the task change the kernel less", (partly, PARTIAL)),
            ("directions", aligned, (aligned, ALIGNED)),
        ):
            name = _recurrent_name(kind, settings)
            found += [
                Claim(name, KA, "higher", says, (RANDOM, ALIGNED)),
                Claim(name, KA, "higher", low_rank[0], (LOW_RANK, low_rank[1])),
                Claim(name, KA, "higher", partly, (RANDOM, PARTIAL)),
            ]
        return found

    def notes(self, settings: Settings) -> list[str]:
        """What differs from the paper's, and what students share with their teacher."""
        return [f"{MOMENTUM} At d = 100, κ goes up to 5.", BALANCED, TEACHERS_INPUT]

    def runs(self, settings: Settings) -> list[RunSpec]:
        """All runs, the teacher before its students."""
        return [self._teacher(settings), *super().runs(settings)]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """Along kappa: by how much partly aligned weights exceed random ones."""
        if claim.kind != "rises":
            return super().table(claim, panels, records)
        pairs = [
            panels[f"{claim.panel} kappa={kappa}"].only((RANDOM, PARTIAL)) for kappa in claim.levels
        ]
        values = [np.diff(panel.values(records, claim.measure))[:, 0] for panel in pairs]
        missing = [why for panel in pairs for why in panel.missing(records, claim.measure)]
        return np.stack(values, axis=1), claim.levels, missing

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """B: kernel alignment by kappa, a colour a kind of weights, a column a d; C: by kind of weights."""
        from hpr.figures.draw.alignment import alignment

        panels = {panel.name: panel for panel in self.panels(settings)}
        linear = {
            d: [panels[_name(d, kappa)] for kappa in kappas] for d, kappas in self.kappas.items()
        }
        recurrent = [panels[_recurrent_name(kind, settings)] for kind in ("features", "directions")]
        return alignment(settings, linear, recurrent, records)

    def _linear(self, d: int, kappa: float, settings: Settings) -> Panel:
        # Both layers have one norm, as in Proposition 1: entries of W_1 are N(0, σ²/d).
        initial: dict[str, dict[str, Any]] = {
            RANDOM: {"connectivity": Dense(gain=SIGMA)},
            LOW_RANK: {"connectivity": LowRank(gain=SIGMA, rank=1)},
            PARTIAL: {"connectivity": Dense(gain=SIGMA), "aligned": "dominant directions"},
            ALIGNED: {"connectivity": Dense(gain=SIGMA), "aligned": "directions"},
        }
        quick = QUICK_LINEAR[d] if settings.profile == "quick" else {}
        fields = {
            "task": StudentTeacher(d, kappa).name,
            **LINEAR,
            **quick,
            **self._common(settings),
        }
        return _panel(_name(d, kappa), f"d = {d}, κ = {kappa:g}", initial, fields, settings)

    def _recurrent(self, kind: str, settings: Settings) -> Panel:
        teacher = self._teacher(settings)
        gain = GAIN[settings.variant]
        # The rank of what is aligned: N_out directions; half of the teacher's features in the partial case.
        rank = {"features": teacher.N // 2, "directions": 10}[kind]
        initial: dict[str, dict[str, Any]] = {
            RANDOM: {"connectivity": Dense(gain=gain)},
            LOW_RANK: {"connectivity": LowRank(gain=gain, rank=rank)},
            PARTIAL: {"connectivity": Dense(gain=gain), "aligned": f"dominant {kind}"},
            ALIGNED: {"connectivity": Dense(gain=gain), "aligned": kind},
        }
        title = "sMNIST" if settings.smnist == "sMNIST" else "sDigits (sMNIST stand-in)"
        reading = {
            "features": "teacher's $W_h$",
            "directions": "Proposition 1",
        }[kind]
        fields = {**self._sequential(settings), "teacher": teacher}
        return _panel(
            _recurrent_name(kind, settings), f"{title}: {reading}", initial, fields, settings
        )

    def _teacher(self, settings: Settings) -> RunSpec:
        """The network that is trained once for all students of C."""
        null = Dense(gain=GAIN[settings.variant])
        fields = self._sequential(settings)
        return RunSpec(connectivity=null, seed=TEACHER_SEED, keep_weights=True, **fields)

    def _sequential(self, settings: Settings) -> dict[str, Any]:
        sweep = SEQUENTIAL
        if settings.smnist == "sDigits":
            assert sweep.stand_in is not None
            sweep = sweep.stand_in
        quick = sweep.quick if settings.profile == "quick" else {}
        return {
            "task": sweep.task,
            "task_version": "1",
            "content": settings.content(sweep.task),
            **sweep.run,
            **quick,
            **self._common(settings),
        }

    def _common(self, settings: Settings) -> dict[str, Any]:
        length = {"iterations": settings.iterations} if settings.iterations else {}
        return {"variant": settings.variant, **VARIANTS[settings.variant], **length}


def _name(d: int, kappa: float) -> str:
    return f"B d={d} kappa={kappa:g}"


def _recurrent_name(kind: str, settings: Settings) -> str:
    return f"C {kind}" + ("" if settings.smnist == "sMNIST" else ", sMNIST stand-in")


def _panel(
    name: str,
    title: str,
    initial: Mapping[str, Mapping[str, Any]],
    fields: Mapping[str, Any],
    settings: Settings,
) -> Panel:
    runs = tuple(
        tuple(RunSpec(seed=seed, **fields, **kind) for seed in settings.replicates)
        for kind in initial.values()
    )
    return Panel(name, title, "initial weights", tuple(initial), runs)


@dataclass(frozen=True)
class TwoLayer(RankSweep):
    """Sweeps over the rank of W_1; of two-layer linear networks, the theorem's two measures are claimed."""

    note: str = MOMENTUM

    def claims(self, settings: Settings) -> list[Claim]:
        """As in Figure 1, but for linear networks, whose weights change as much and whose losses vanish."""
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
        """The ranks as given: W_1 is of full rank at the number of inputs or of units, whichever is less."""
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


# The weights of W_1 are drawn like the input weights of the recurrent networks (Appendix C.2).
UNIFORM = {"gain": 1.0, "distribution": "uniform"}
MNIST = Sweep(
    "MNIST",
    ranks=(1, 30, 100, 300),
    quick={"iterations": 1000},
    run={**LAST_STEP, "model": "two_layer", "stop_accuracy": None, "task_version": "1"},
    weights=UNIFORM,
    name="B MNIST",
    stand_in=Sweep(
        "Digits",
        ranks=(1, 8, 24, 64),
        quick={"iterations": 1000},
        run={
            **LAST_STEP,
            "model": "two_layer",
            "stop_accuracy": None,
            "task_version": "1",
            "batch": 32,
        },
        weights=UNIFORM,
        name="B digits (MNIST stand-in)",
    ),
)

FIGURES = (
    Students(
        "3",
        "Low-rank weights that are aligned with the task",
        kappas={2: (1, 2, 5, 10), 20: (1, 2, 5, 10), 100: (1, 2, 5)},
    ),
    TwoLayer(
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
