"""The picture of Figure 3: kernel alignment by condition number and by kind of initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure

from hpr.experiment.record import Record
from hpr.figures.draw import WIDTH
from hpr.figures.draw.plotting import describe, offsets, sweep_dots, write_gaps, write_small_print
from hpr.figures.panel import Panel
from hpr.figures.settings import Settings

MEASURE = "kernel_alignment"
# Okabe and Ito's colours; as in the paper, aligned weights are green and partially aligned ones blue.
KIND_COLOURS = ("0.25", "#E69F00", "#0072B2", "#009E73")


def alignment_grid(
    settings: Settings,
    linear: Mapping[int, Sequence[Panel]],
    recurrent: Sequence[Panel],
    records: Mapping[str, Record],
) -> Figure:
    """Draw B, with one column per number of inputs d, above C, with one column per reading.

    Args:
        settings: the settings of the runs.
        linear: for each d, the panels of B by kappa.
        recurrent: the panels of C.
        records: the records, by key.
    """
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    row = above.subplots(1, len(linear), squeeze=False)[0]
    for axes, (d, panels) in zip(row, linear.items(), strict=True):
        _series(axes, panels, records)
        axes.set_title(f"B  two-layer linear, d = {d}")
        axes.set_xlabel("condition number κ")
    row[0].set_ylabel("kernel alignment")
    handles, labels = row[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    row = below.subplots(1, len(recurrent), squeeze=False)[0]
    for axes, panel in zip(row, recurrent, strict=True):
        levels = [level.replace(" ", "\n", 1) for level in panel.levels]
        sweep_dots(axes, panel.values(records, MEASURE), levels, panel.gaps(records, MEASURE))
        axes.set_title(f"C  {panel.title}")
    row[0].set_ylabel("kernel alignment")
    # The numbers in the small print are the same for all panels of one d, and for all of C.
    alike = [replace(panels[0], name=f"B d = {d}") for d, panels in linear.items()]
    alike.append(replace(recurrent[0], name="C"))
    small_print = f"{describe(settings, alike)}; bars and lines are means"
    write_small_print(below, small_print)
    return figure


def _series(
    axes: matplotlib.axes.Axes, panels: Sequence[Panel], records: Mapping[str, Record]
) -> None:
    """Draw panels by kappa: one dot per run, one colour per kind of weights, lines through the means."""
    values = np.stack([panel.values(records, MEASURE) for panel in panels])  # [K, S, kinds]
    K, S, kinds = values.shape
    for k, (kind, colour) in enumerate(zip(panels[0].levels, KIND_COLOURS, strict=True)):
        # Kinds are side by side; within a kind, each seed has its own place.
        middle = np.arange(K) + 0.14 * (k - (kinds - 1) / 2)
        places = middle[:, None] + 0.2 * offsets(S)
        axes.scatter(places, values[..., k], s=7, color=colour, alpha=0.6, linewidths=0, zorder=2)
        finite = [column[np.isfinite(column)] for column in values[..., k]]
        means = [column.mean() if len(column) else np.nan for column in finite]
        axes.plot(middle, means, color=colour, linewidth=1.2, label=kind)
    axes.set_xticks(np.arange(K), [panel.title.rpartition(" ")[2] for panel in panels])
    axes.margins(y=0.08)
    gaps = [[why for level in panel.gaps(records, MEASURE) for why in level] for panel in panels]
    write_gaps(axes, gaps, S * kinds)
