"""Figures of structures taken from biology, each beside a null of its own size (Figures 2, 5, 6, 16, 17, 19)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpr.connectivity import EM, CellTypes, ChainMotif, Connectivity, Dale, LowRank, spectrum_rank
from hpr.connectivity.connectome import CELEGANS
from hpr.experiment.specification import GAIN, VARIANTS, RunSpec
from hpr.figures.claims import Claim, Direction, Finding, judge
from hpr.figures.definitions.rank_sweep import QUICK_ITERATIONS
from hpr.figures.figure import Figure, Panel, Record, Settings
from hpr.figures.spectrum import spectrum

if TYPE_CHECKING:
    import matplotlib.figure

NULL = "null"
# Measure, where the paper has it beside the null's, and in words.
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
    """Structures by the names on an axis, compared with the null of their size N (None: the connectome's)."""

    name: str
    structures: Mapping[str, Connectivity]
    N: int | None = 300

    def size(self, settings: Settings) -> int:
        """How many units."""
        return EM(connectome=settings.connectome).N if self.N is None else self.N

    def levels(self, settings: Settings) -> dict[str, Connectivity]:
        """The null and the structures, at the variant's gain and from the connectome at hand."""
        gain = GAIN[settings.variant]
        # At full rank the SVD is the Gaussian null, and the runs of Figure 1 and this one are the same.
        levels: dict[str, Connectivity] = {NULL: LowRank(gain=gain, rank=self.size(settings))}
        for name, structure in self.structures.items():
            if isinstance(structure, EM):
                structure = replace(structure, connectome=settings.connectome)
                name = name if structure.shuffled else structure.label
            levels[name] = replace(structure, gain=gain)
        return levels

    def names(self, settings: Settings) -> list[str]:
        """The structures, by the levels' names."""
        return [name for name in self.levels(settings) if name != NULL]

    def stands_in(self, settings: Settings) -> bool:
        """Whether C. elegans is where the paper has cortex."""
        return self.N is None and settings.connectome == CELEGANS

    def label(self, settings: Settings) -> str:
        """The comparison's name; a stand-in is called one."""
        return f"{self.name} stand-in" if self.stands_in(settings) else self.name

    def title(self, settings: Settings) -> str:
        """The name, the stand-in's own, and the size."""
        species = ":\nC. elegans" if self.stands_in(settings) else ""
        return f"{self.label(settings)}{species} (N = {self.size(settings)})"


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
        """Whether one of the structures is electron microscopy's."""
        return any(comparison.N is None for comparison in self.comparisons)

    def notes(self, settings: Settings) -> list[str]:
        """What the seeds of electron microscopy are."""
        return [ONE_CONNECTOME] if self.shows_connectome else []

    def panels(self, settings: Settings) -> list[Panel]:
        """One a comparison, the null first."""
        return [self._panel(comparison, settings) for comparison in self.comparisons]

    def claims(self, settings: Settings) -> list[Claim]:
        """For each structure: lower effective rank, richer learning; and comparable losses."""
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
        """A row a comparison: its spectra, then box plots of the three measures."""
        from hpr.figures.draw.plotting import describe
        from hpr.figures.draw.spectra import structure_grid

        panels = self.panels(settings)
        measures = [measure for measure, _, _ in RICHER]
        small_print = f"{self.task}; {describe(settings, panels)}; boxes are quartiles, thin lines are single seeds"
        return structure_grid(panels, measures, records, small_print)

    def _panel(self, comparison: Comparison, settings: Settings) -> Panel:
        levels = comparison.levels(settings)
        fields: dict[str, Any] = {
            "variant": settings.variant,
            "task_version": settings.version(self.task),
            **VARIANTS[settings.variant],
            "N": comparison.size(settings),
            **({"iterations": self.quick_iterations} if settings.profile == "quick" else {}),
            **({"iterations": settings.iterations} if settings.iterations else {}),
        }
        return Panel(
            name=comparison.label(settings),
            title=comparison.title(settings),
            axis="initial weights",
            levels=tuple(levels),
            runs=tuple(
                tuple(
                    RunSpec(task=self.task, connectivity=structure, seed=seed, **fields)
                    for seed in settings.replicates
                )
                for structure in levels.values()
            ),
        )


@dataclass(frozen=True)
class Shuffled(Structures):
    """A structure, and the same shuffled, of which the paper says that the effects are gone."""

    def claims(self, settings: Settings) -> list[Claim]:
        """That each difference of the structure from the null vanishes; and comparable losses."""
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
        """None: there are no runs."""
        return []

    def claims(self, settings: Settings) -> list[Claim]:
        """For each structure: lower effective rank."""
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
        """A column a comparison: its spectra above its effective ranks."""
        from hpr.figures.draw.spectra import spectra_grid

        panels = super().panels(settings)
        small_print = (
            f"variant {settings.variant}; {len(settings.replicates)} draws of each; thin lines are "
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
    # Figure 1's full-rank runs are nulls here.
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
