"""Figures 2, 5, 6, 16, 17 and 19: structures from biology, each compared with a null of its own size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpr.command_line import counted
from hpr.connectivity import EM, CellTypes, ChainMotif, Connectivity, Dale, LowRank, spectrum_rank
from hpr.experiment.record import Record
from hpr.figures.claims import Claim, Direction, Finding, judge
from hpr.figures.definitions.rank_sweep import QUICK_ITERATIONS
from hpr.figures.figure import Figure
from hpr.figures.panel import Panel, PanelBuilder
from hpr.figures.settings import Settings
from hpr.figures.spectrum import spectrum

if TYPE_CHECKING:
    import matplotlib.figure

NULL = "null"
# Each measure, how the paper has it differ from the null's, and the paper's statement in words.
RICHER: tuple[tuple[str, Direction, str], ...] = (
    ("weight_change_norm", "higher", "weights change more than from the null"),
    ("representation_alignment", "lower", "the representation changes more than from the null"),
    ("kernel_alignment", "lower", "the tangent kernel changes more than from the null"),
)
LOWER_RANK: tuple[str, Direction, str] = (
    "connectivity_effective_rank",
    "lower",
    "the effective rank is below the null's",
)
SINGULAR_RANK = "connectivity_effective_rank_singular"
LOSSES = "losses at the end are comparable"
ONE_CONNECTOME = (
    "The EM structure is one connectome, the same for every seed: seeds vary its null, the other weights and the "
    "trials only."
)


@dataclass(frozen=True)
class Comparison:
    """Structures by their names on an axis, compared with a null of N units; N None: as many as the connectome has."""

    name: str
    structures: Mapping[str, Connectivity]
    N: int | None = 300

    def size(self, settings: Settings) -> int:
        """How many units the networks have."""
        return EM(connectome=settings.connectome).N if self.N is None else self.N

    def levels(self, settings: Settings) -> dict[str, Connectivity]:
        """The null and the structures; EM is that of the settings' connectome."""
        # A low-rank structure of full rank is the Gaussian null, so this run is one of Figure 1's.
        levels: dict[str, Connectivity] = {NULL: LowRank(rank=self.size(settings))}
        for name, structure in self.structures.items():
            if isinstance(structure, EM):
                structure = replace(structure, connectome=settings.connectome)
                name = name if structure.shuffled else structure.label
            levels[name] = structure
        return levels

    def names(self, settings: Settings) -> list[str]:
        """The levels' names without the null's."""
        return [name for name in self.levels(settings) if name != NULL]

    def label(self, settings: Settings) -> str:
        """The comparison's name; a stand-in is called one."""
        found = settings.stand_in("EM") if self.N is None else None
        return found.named(self.name) if found else self.name

    def title(self, settings: Settings) -> str:
        """The name, the stand-in where one is used, and the size."""
        found = settings.stand_in("EM") if self.N is None else None
        return f"{found.title(self.name) if found else self.name} (N = {self.size(settings)})"

    def panel(self, settings: Settings, task: str, quick_iterations: int) -> Panel:
        """The panel of the null and the structures, trained on a task."""
        runs = PanelBuilder(
            settings, task, {"N": self.size(settings)}, {"iterations": quick_iterations}
        )
        levels = {name: {"connectivity": each} for name, each in self.levels(settings).items()}
        return runs.panel(self.label(settings), self.title(settings), "initial weights", levels)


@dataclass(frozen=True)
class Structures(Figure):
    """Spectra of structures and nulls, and how far training on a task moves each network."""

    name: str
    title: str
    comparisons: tuple[Comparison, ...]
    task: str
    quick_iterations: int

    @property
    def shows_connectome(self) -> bool:
        """Whether one of the structures comes from electron microscopy."""
        return any(comparison.N is None for comparison in self.comparisons)

    def notes(self, settings: Settings) -> list[str]:
        """What differs between seeds where a structure comes from electron microscopy."""
        return [ONE_CONNECTOME] if self.shows_connectome else []

    def panels(self, settings: Settings) -> list[Panel]:
        """One panel per comparison; the null is its first level."""
        return [
            comparison.panel(settings, self.task, self.quick_iterations)
            for comparison in self.comparisons
        ]

    def claims(self, settings: Settings) -> list[Claim]:
        """For each structure, a lower effective rank and richer learning; and comparable losses."""
        return [
            claim
            for comparison in self.comparisons
            for claim in (
                *(
                    Claim(comparison.label(settings), measure, kind, says, (NULL, name))
                    for name in comparison.names(settings)
                    for measure, kind, says in (LOWER_RANK, *RICHER)
                ),
                Claim(comparison.label(settings), "final_loss", "comparable", LOSSES),
            )
        ]

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """One row per comparison: its spectra, then box plots of the three measures."""
        from hpr.figures.draw.plotting import describe
        from hpr.figures.draw.spectra import structure_grid

        panels = self.panels(settings)
        measures = [measure for measure, _, _ in RICHER]
        small_print = f"{self.task}; {describe(settings, panels)}; boxes are quartiles, thin lines are single seeds"
        return structure_grid(panels, measures, records, small_print)


@dataclass(frozen=True)
class Shuffled(Structures):
    """A structure and the same structure shuffled, in which the paper no longer sees the effects."""

    def claims(self, settings: Settings) -> list[Claim]:
        """Shuffling removes each difference of the structure from the null; and comparable losses."""
        return [
            claim
            for comparison in self.comparisons
            for claim in (
                *(
                    Claim(
                        comparison.label(settings),
                        measure,
                        "vanishes",
                        f"shuffling undoes that {says}",
                        was=was,
                    )
                    for measure, was, says in (LOWER_RANK, *RICHER)
                ),
                Claim(comparison.label(settings), "final_loss", "comparable", LOSSES),
            )
        ]


@dataclass(frozen=True)
class SingularSpectra(Structures):
    """The spectra of the same structures by singular values; nothing is trained."""

    task: str = "2AF"
    quick_iterations: int = 1

    def panels(self, settings: Settings) -> list[Panel]:
        """No panel, as nothing is trained."""
        return []

    def claims(self, settings: Settings) -> list[Claim]:
        """For each structure, a lower effective rank."""
        _, kind, says = LOWER_RANK
        return [
            Claim(comparison.label(settings), SINGULAR_RANK, kind, says, (NULL, name))
            for comparison in self.comparisons
            for name in comparison.names(settings)
        ]

    def judge(self, settings: Settings, records: Mapping[str, Record]) -> list[Finding]:
        """Test the claims on the matrices that the runs of Figure 2 start from."""
        drawn = {panel.name: panel for panel in super().panels(settings)}
        findings = []
        for claim in self.claims(settings):
            panel = drawn[claim.panel].only(claim.levels)
            ranks = [
                [spectrum_rank(spectrum(spec, singular=True)) for spec in level]
                for level in panel.runs
            ]
            findings.append(judge(claim, np.array(ranks).T, panel.levels))
        return findings

    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """One column per comparison: its spectra above its effective ranks."""
        from hpr.figures.draw.spectra import spectra_grid

        panels = super().panels(settings)
        small_print = (
            f"variant {settings.variant}; {counted(len(settings.replicates), 'draw')} of each; thin lines are "
            "single draws"
        )
        return spectra_grid(panels, small_print)


EXPERIMENTAL = (
    Comparison(
        "A cell types",
        {"touching": CellTypes(), "within": CellTypes(connections="within")},
    ),
    Comparison("B EM", {"EM": EM()}, N=None),
    Comparison("C Dale's law", {"Dale": Dale()}),
    Comparison(
        "D chain motifs",
        {"over": ChainMotif(tau_chn=0.03), "under": ChainMotif(tau_chn=-0.1)},
        N=100,
    ),
)

FIGURES = (
    # It trains as long as Figure 1 in `quick`, so that Figure 1's full-rank runs are its nulls.
    Structures(
        "2",
        "Structures from biology: spectra, and learning 2AF",
        EXPERIMENTAL,
        "2AF",
        QUICK_ITERATIONS,
    ),
    Structures("5", "Figure 2 for DMS", EXPERIMENTAL, "DMS", 1000),
    Structures("6", "Figure 2 for CXT", EXPERIMENTAL, "CXT", 1000),
    SingularSpectra("16", "The spectra of Figure 2 by singular values", EXPERIMENTAL),
    Structures(
        "17",
        "Dale's law kept throughout training on 2AF",
        (Comparison("Dale's law", {"Dale": Dale(dale_throughout=True)}),),
        "2AF",
        QUICK_ITERATIONS,
    ),
    Shuffled(
        "19",
        "Shuffled EM: the effects of Figure 2 B are gone",
        (Comparison("EM", {"EM": EM(), "shuffled": EM(shuffled=True)}, N=None),),
        "2AF",
        QUICK_ITERATIONS,
    ),
)
