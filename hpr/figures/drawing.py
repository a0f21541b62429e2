"""What a figure is drawn from, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpr.experiment.record import Record
from hpr.experiment.run_outcome import Failure, disk_full
from hpr.figures.figure import Figure
from hpr.figures.settings import Settings
from hpr.figures.summary import write_figure

# What a figure's JSON holds, or why the figure failed; the error of a full disk, which takes no other figure either.
Drawn = dict[str, Any] | Failure | OSError


@dataclass(frozen=True)
class Drawing:
    """What figures are drawn from, and where to: the arguments of `hpr.figures.summary.write_figure`."""

    settings: Settings
    records: Mapping[str, Record]
    failures: Mapping[str, str]
    out: Path

    def of(self, figure: Figure) -> Drawing:
        """With the records and failures of one figure's runs alone."""
        keys = {spec.key for spec in figure.runs(self.settings)}
        return replace(
            self,
            records={key: each for key, each in self.records.items() if key in keys},
            failures={key: each for key, each in self.failures.items() if key in keys},
        )

    def write(self, figure: Figure) -> Drawn:
        """Write a figure's files."""
        try:
            return write_figure(figure, self.settings, self.records, self.failures, self.out)
        except Exception as error:
            if isinstance(error, OSError) and disk_full(error):
                return error
            return Failure.of(f"figure {figure.name}", error)
