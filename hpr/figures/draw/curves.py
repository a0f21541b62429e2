"""Pictures of trajectories: a measure against iterations, one colour per level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.draw import WIDTH
from hpr.figures.draw.plotting import describe, legend_above, write_small_print
from hpr.figures.panel import Curve, Panel
from hpr.figures.settings import Settings

# From low rank to high: Okabe and Ito's vermilion, orange and blue, which differ in grey, too.
RANK_COLOURS = ("#D55E00", "#E69F00", "#0072B2")


def curve_grid(
    curves: Sequence[Curve],
    panels: Sequence[Panel],
    settings: Settings,
    records: Mapping[str, Record],
) -> Figure:
    """Draw each curve, two per row: thin lines that end in dots are runs, bold lines are means."""
    rows = len(curves) // 2
    figure = Figure(figsize=(WIDTH, 0.4 + 2.0 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=True):
        panel = panels[curve.sweep]
        for colour, rank, level in zip(RANK_COLOURS, panel.levels, panel.runs, strict=True):
            _level(axes, level, records, curve.measure, colour, f"rank {rank}")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
        title = panel.title.replace("\n", " ")
        axes.set_title(f"{curve.letter}  {title}", loc="left")
        axes.set_ylabel(curve.label)
        legend_above(axes, columns=3)
    for axes in grid[-1]:
        axes.set_xlabel("iterations")
    small_print = f"{describe(settings, panels)}; thin lines are runs, bold ones means"
    write_small_print(figure, small_print)
    return figure


def _level(
    axes: matplotlib.axes.Axes,
    runs: Sequence[RunSpec],
    records: Mapping[str, Record],
    measure: str,
    colour: str,
    label: str,
) -> None:
    """Draw one level's runs and their mean, which ends with the shortest run.

    The legend says how many runs have a trajectory, where some have none.
    """
    courses = []
    for run in runs:
        record = records.get(run.key)
        if record is None or record["status"] == "diverged":
            continue
        trajectory = record["trajectory"]
        iterations = np.array(trajectory["iteration"])
        values = np.array(trajectory[measure], float)
        axes.plot(iterations, values, color=colour, linewidth=0.5, alpha=0.5, zorder=1)
        axes.plot(iterations[-1], values[-1], ".", color=colour, markersize=4, zorder=2)
        courses.append(dict(zip(iterations.tolist(), values.tolist(), strict=True)))
    common = sorted(set.intersection(*map(set, courses))) if courses else []
    means = [np.mean([course[i] for course in courses]) for i in common]
    if len(courses) < len(runs):
        label += f" ({len(courses)} of {counted(len(runs), 'run')})"
    axes.plot(common, means, color=colour, linewidth=1.6, zorder=3, label=label)
