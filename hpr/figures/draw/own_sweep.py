"""The picture of a sweep of one's own: a measure against a field, one panel per combination of the others."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.figures.draw import STYLE, WIDTH
from hpr.figures.draw.plotting import DOTS, offsets, sweep_dots, write_gaps
from hpr.figures.panel import WORDS, Panel

# Panels in a row.
COLUMNS = 4


def styled(draw: Callable[[], Figure]) -> Figure:
    """Call a function that draws, with the style of the paper's figures."""
    with matplotlib.rc_context(STYLE):
        return draw()


def draw_panels(
    panels: Sequence[Panel], measure: str, records: Mapping[str, Record], kind: str
) -> Figure:
    """Draw a measure of the panels' runs as "dots", "boxes" or "lines"."""
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    width = WIDTH * max(columns, 2) / COLUMNS
    figure = Figure(figsize=(width, 0.75 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn = list(grid.flat[: len(panels)])
    for axes, panel in zip(drawn, panels, strict=True):
        _panel(axes, panel, measure, records, kind)
        axes.set_title(_wrapped(panel.title, width / columns))
    # Each panel has chosen its limits, with room for the missing runs; all get the widest. Panels without a value have
    # no limits of their own.
    chosen = [
        axes.get_ylim()
        for axes, panel in zip(drawn, panels, strict=True)
        if np.isfinite(panel.values(records, measure)).any()
    ]
    limits = np.array(chosen or [(0.0, 1.0)])
    for axes in drawn:
        axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel(WORDS.get(measure, measure.replace("_", " ")))
        for axes in row[1:]:
            axes.tick_params(axis="y", labelleft=False)
    text = textwrap.fill(_small_print(panels, kind), int(22 * width))
    figure.supxlabel(text, fontsize=5.5, color="0.35")
    return figure


def _wrapped(title: str, inches: float) -> str:
    """A title in lines that fit into a panel's width; a name and its value stay on one line."""
    # A letter takes about a sixteenth of an inch. `textwrap` does not break at no-break spaces.
    lines = textwrap.fill(title.replace(" = ", "\xa0=\xa0"), int(16 * inches))
    return lines.replace("\xa0", " ")


def _panel(
    axes: matplotlib.axes.Axes,
    panel: Panel,
    measure: str,
    records: Mapping[str, Record],
    kind: str,
) -> None:
    values = panel.values(records, measure)
    gaps = panel.gaps(records, measure)
    if kind == "dots":
        sweep_dots(axes, values, panel.levels, gaps)
    else:
        _boxes(axes, values) if kind == "boxes" else _lines(axes, values)
        axes.set_xticks(np.arange(len(panel.levels)), panel.levels)
        axes.set_xlim(-0.6, len(panel.levels) - 0.4)
        axes.margins(y=0.12)
        axes.locator_params(axis="y", nbins=5)
        write_gaps(axes, gaps, len(values))
    if max(map(len, panel.levels)) > 8:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(panel.axis.replace("_", " "))


def _boxes(axes: matplotlib.axes.Axes, values: NDArray[np.float64]) -> None:
    """Median, quartiles and whiskers of at most 1.5 times their distance, with one dot per run."""
    L = values.shape[1]
    line = {"linewidth": 0.8, "color": "black"}
    axes.boxplot(
        [column[np.isfinite(column)] for column in values.T],
        positions=np.arange(L),
        widths=0.55,
        showfliers=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"linewidth": 1.3, "color": "black"},
        manage_ticks=False,
    )
    positions = np.arange(L) + offsets(len(values))[:, None]
    axes.scatter(positions, values, s=8, color=DOTS, alpha=0.65, linewidths=0, zorder=3)


def _lines(axes: matplotlib.axes.Axes, values: NDArray[np.float64]) -> None:
    """Means with a band of one sd on either side; a level with one run has no band."""
    places = np.arange(values.shape[1])
    present = [column[np.isfinite(column)] for column in values.T]
    means = np.array([each.mean() if len(each) else np.nan for each in present])
    spread = np.array([each.std(ddof=1) if len(each) > 1 else 0.0 for each in present])
    axes.fill_between(places, means - spread, means + spread, color=DOTS, alpha=0.2, linewidth=0)
    axes.plot(places, means, color=DOTS, linewidth=1.3, marker="o", markersize=3)


def _small_print(panels: Sequence[Panel], kind: str) -> str:
    run = panels[0].runs[0][0]
    what = {"dots": "dots: runs; bars: means", "boxes": "boxes: quartiles", "lines": "band: one sd"}
    number = f"{counted(len(panels[0].runs[0]), 'seed')} per setting"
    tasks = sorted({each.task for panel in panels for level in panel.runs for each in level})
    return f"{what[kind]}; {', '.join(tasks)}; {number}; {counted(run.iterations, 'iteration')}"
