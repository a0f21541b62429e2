"""What a figure is: panels of runs, claims about them, and a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec, distinct
from hpr.figures.claims import RULE, Claim, Finding, judge
from hpr.figures.panel import Panel
from hpr.figures.settings import Settings

if TYPE_CHECKING:
    import matplotlib.figure


class Figure(ABC):
    """One figure of the paper. A figure without runs has no panels and overrides `judge`."""

    name: str
    title: str
    # How a verdict is reached, in words.
    rule = RULE

    @property
    def shows_connectome(self) -> bool:
        """Whether it shows electron microscopy, whose stand-in must be labelled."""
        return False

    def notes(self, settings: Settings) -> list[str]:
        """What a reader must know about how the figure was made, in sentences."""
        return []

    def panels(self, settings: Settings) -> list[Panel]:
        """The sweeps of runs that the figure shows."""
        return []

    def runs(self, settings: Settings) -> list[RunSpec]:
        """All runs that the figure needs, each once."""
        return distinct(
            spec for panel in self.panels(settings) for level in panel.runs for spec in level
        )

    @abstractmethod
    def claims(self, settings: Settings) -> list[Claim]:
        """What the paper says, fixed before anything is measured."""

    def judge(self, settings: Settings, records: Mapping[str, Record]) -> list[Finding]:
        """Test each claim on the records (by key); the finding names the runs that are missing."""
        panels = {panel.name: panel for panel in self.panels(settings)}
        return [
            judge(claim, *self.table(claim, panels, records)) for claim in self.claims(settings)
        ]

    def table(
        self, claim: Claim, panels: Mapping[str, Panel], records: Mapping[str, Record]
    ) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
        """The table on which a claim is tested: values [S, L], the levels' names, and the missing runs."""
        panel = panels[claim.panel].only(claim.levels)
        values = panel.values(records, claim.measure)
        return values, panel.levels, panel.missing(records, claim.measure)

    @abstractmethod
    def plot(self, settings: Settings, records: Mapping[str, Record]) -> matplotlib.figure.Figure:
        """Draw the figure with matplotlib's present parameters; `hpr.figures.draw.save` sets the package's before.

        The same records give the same picture. The drawing modules and matplotlib are imported inside this method.
        """
