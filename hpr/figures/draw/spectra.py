"""Pictures of structures beside their nulls: spectra, and box plots with one dot per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpr.connectivity import spectrum_rank
from hpr.experiment.record import Record
from hpr.figures.draw import WIDTH
from hpr.figures.draw.plotting import (
    UNBOUNDED,
    legend_above,
    offsets,
    plain_ticks,
    show_outliers,
    write_gaps,
    write_small_print,
)
from hpr.figures.panel import MEASURES, Panel
from hpr.figures.spectrum import spectrum

# Grey for the null, then Okabe and Ito's blue and vermilion. Dashes distinguish the lines in grey.
LEVEL_COLOURS = ("0.35", "#0072B2", "#D55E00")
DASHES = ("-", "--", ":")


def structure_grid(
    panels: Sequence[Panel],
    measures: Sequence[str],
    records: Mapping[str, Record],
    small_print: str,
) -> Figure:
    """Draw one row per panel: the eigenvalue spectra, then each measure."""
    height = 0.5 + 1.75 * len(panels)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(
        len(panels),
        1 + len(measures),
        squeeze=False,
        width_ratios=[1.5, *[1.0] * len(measures)],
    )
    for row, panel in zip(grid, panels, strict=True):
        draw_spectra(row[0], panel, singular=False, columns=2)
        row[0].set_ylabel("eigval magnitude\n/ largest")
        for axes, measure in zip(row[1:], measures, strict=True):
            values, gaps = panel.values(records, measure), panel.gaps(records, measure)
            draw_boxes(axes, values, panel.levels, gaps, unbounded=measure in UNBOUNDED)
    for axes, measure in zip(grid[0, 1:], measures, strict=True):
        axes.set_title(MEASURES[measure].replace(" ", "\n", 1))
    write_small_print(figure, small_print)
    return figure


def spectra_grid(panels: Sequence[Panel], small_print: str) -> Figure:
    """Draw one column per panel: the singular spectra above the effective ranks."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    for (above, below), panel in zip(grid.T, panels, strict=True):
        # A title on one line would be wider than the column.
        named = replace(panel, title=panel.title.replace(" (", "\n("))
        draw_spectra(above, named, singular=True, columns=1)
        draw_boxes(below, ranks(panel, singular=True), panel.levels, [[] for _ in panel.levels])
    grid[0, 0].set_ylabel("singular value\n/ largest")
    grid[1, 0].set_ylabel("effective rank")
    write_small_print(figure, small_print)
    return figure


def ranks(panel: Panel, *, singular: bool) -> NDArray[np.float64]:
    """Effective rank of every run's initial weights, [S, L]."""
    return np.array(
        [
            [spectrum_rank(spectrum(spec, singular=singular)) for spec in level]
            for level in panel.runs
        ]
    ).T


def draw_spectra(axes: matplotlib.axes.Axes, panel: Panel, *, singular: bool, columns: int) -> None:
    """Draw magnitude / largest against index / N: thin lines are draws, thick lines are means.

    The legend above the axes has this number of columns.
    """
    means = ranks(panel, singular=singular).mean(axis=0)
    for level, runs, colour, dash, rank in zip(
        panel.levels, panel.runs, LEVEL_COLOURS, DASHES, means, strict=False
    ):
        curves = np.array([spectrum(spec, singular=singular) for spec in runs])
        curves /= curves[:, :1]
        index = np.arange(1, curves.shape[1] + 1) / curves.shape[1]
        axes.plot(index, curves.T, color=colour, linewidth=0.4, alpha=0.35)
        label = f"{level} {rank:.2f}"
        axes.plot(index, curves.mean(axis=0), dash, color=colour, linewidth=1.4, label=label)
    kind = "singular value" if singular else "eigval"
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(f"{kind} index / N")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    legend_above(axes, columns=columns, title="effective rank")


def draw_boxes(
    axes: matplotlib.axes.Axes,
    values: NDArray[np.float64],
    levels: Sequence[str],
    gaps: Sequence[Sequence[str]],
    *,
    unbounded: bool = False,
) -> None:
    """Draw one box per level under one dot per run.

    Boxes are quartiles; whiskers end within 1.5 times the distance of the quartiles.

    Args:
        axes: where to draw.
        values: [S, L]; NaN: the run has no value.
        levels: the L tick labels.
        gaps: for each level, why its missing runs are missing.
        unbounded: whether the axis may be logarithmic (`show_outliers`).
    """
    S, L = values.shape
    present = [column[np.isfinite(column)] for column in values.T]
    axes.boxplot(
        present,
        positions=range(L),
        widths=0.6,
        showfliers=False,
        medianprops={"color": "black", "linewidth": 1.2},
        boxprops={"linewidth": 0.7},
        whiskerprops={"linewidth": 0.7},
        capprops={"linewidth": 0.7},
    )
    for place, (column, colour) in enumerate(zip(values.T, LEVEL_COLOURS, strict=False)):
        axes.scatter(
            place + offsets(S), column, s=9, color=colour, alpha=0.65, linewidths=0, zorder=3
        )
    axes.set_xticks(range(L), [level.replace(" ", "\n") for level in levels], fontsize=6)
    axes.set_xlim(-0.6, L - 0.4)
    axes.margins(y=0.12)
    if not (unbounded and show_outliers(axes, values)):
        plain_ticks(axes)
    write_gaps(axes, gaps, S)
