"""What several pictures share: sweeps, missing runs, and the small print."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from hpr.command_line import counted
from hpr.experiment.record import Record
from hpr.figures.draw import WIDTH
from hpr.figures.panel import MEASURES, Panel
from hpr.figures.settings import Settings

# Okabe and Ito's blue differs from the black means for every kind of colour vision, and in grey.
DOTS = "#0072B2"
# Measures without an upper bound, of which one outlier could flatten all other values (`show_outliers`).
UNBOUNDED = ("weight_change_norm",)
# The axis of such a measure is logarithmic where the largest value is more than this many times the median, or more
# than `WIDE` times the smallest.
OUTLYING = 4.0
WIDE = 30.0


def sweep_dots(
    axes: matplotlib.axes.Axes,
    values: NDArray[np.float64],
    levels: Sequence[str],
    gaps: Sequence[Sequence[str]],
    *,
    unbounded: bool = False,
) -> None:
    """Draw a sweep: one dot per run, bars and a thin line for the means, missing runs in words.

    Args:
        axes: where to draw.
        values: [S, L]; NaN: the run has no value. Each seed has the same place beside every tick.
        levels: the L tick labels, in order.
        gaps: for each level, why its missing runs are missing.
        unbounded: whether the axis may be logarithmic (`show_outliers`).
    """
    S, L = values.shape
    positions = np.arange(L) + offsets(S)[:, None]
    axes.scatter(positions, values, s=11, color=DOTS, alpha=0.65, linewidths=0, zorder=2)
    present = np.isfinite(values)
    means = np.array(
        [v[p].mean() if p.any() else np.nan for v, p in zip(values.T, present.T, strict=True)]
    )
    axes.plot(np.arange(L), means, color="0.55", linewidth=0.7, zorder=1)
    axes.hlines(
        means, np.arange(L) - 0.3, np.arange(L) + 0.3, color="black", linewidth=1.3, zorder=3
    )
    axes.set_xticks(np.arange(L), levels)
    axes.set_xlim(-0.6, L - 0.4)
    axes.margins(y=0.12)
    if not (unbounded and show_outliers(axes, values)):
        plain_ticks(axes)
    write_gaps(axes, gaps, S)


def plain_ticks(axes: matplotlib.axes.Axes) -> None:
    """Give a linear y axis about five ticks, without an offset."""
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)


def show_outliers(axes: matplotlib.axes.Axes, values: NDArray[np.float64]) -> bool:
    """Make the y axis logarithmic if a linear one would flatten most of the values; return whether it did.

    NaN in `values` is left out. An axis with values of zero or below stays linear.
    """
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() <= 0:
        return False
    if finite.max() <= min(OUTLYING * np.median(finite), WIDE * finite.min()):
        return False
    axes.set_yscale("log")
    decades = np.log10(finite.max() / finite.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def legend_above(axes: matplotlib.axes.Axes, *, columns: int, title: str = "") -> None:
    """Put the legend between the title and the axes, so that it covers no curve."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        title=title or None,
        title_fontsize=6,
        fontsize=6,
        frameon=False,
        handlelength=1.6,
        columnspacing=1,
        labelspacing=0.2,
        borderpad=0,
        borderaxespad=0.3,
        alignment="left",
    )
    # The title stands above the legend: a line of 6 points per row, and a gap.
    rows = -(-len(axes.get_legend_handles_labels()[1]) // columns) + bool(title)
    axes.set_title(axes.get_title("left"), loc="left", pad=5 + 8 * rows)


def offsets(S: int) -> NDArray[np.float64]:
    """Places of S dots beside a tick, within ±0.25. The place depends on the seed alone."""
    # Multiples of the golden ratio, modulo 1, are spread evenly for every S.
    return np.asarray(0.5 * ((np.arange(S) * 0.6180339887 + 0.5) % 1.0 - 0.5), dtype=np.float64)


def write_gaps(axes: matplotlib.axes.Axes, gaps: Sequence[Sequence[str]], S: int) -> None:
    """Write below the dots how many of S runs are missing at each level, and why."""
    kinds = max(len(set(reasons)) for reasons in gaps)
    low, high = axes.get_ylim()
    room = 0.18 * kinds
    logarithmic = axes.get_yscale() == "log"
    bottom = low * (low / high) ** room if logarithmic else low - room * (high - low)
    axes.set_ylim(bottom, high)
    for place, reasons in enumerate(gaps):
        if reasons:
            counts = sorted(Counter(reasons).items())
            axes.annotate(
                "\n".join(f"{count} of {S}\n{reason}" for reason, count in counts),
                (place, 0.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=5.5,
                color="#B03A00",
            )


def sweep_grid(
    panels: Sequence[Panel],
    measures: Sequence[str],
    records: Mapping[str, Record],
    small_print: str,
) -> Figure:
    """Draw sweeps: one column per panel, one row per measure, `small_print` below."""
    height = 0.55 + 1.45 * len(measures)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(len(measures), len(panels), squeeze=False, sharex="col")
    for row, measure in zip(grid, measures, strict=True):
        for axes, panel in zip(row, panels, strict=True):
            values = panel.values(records, measure)
            gaps = panel.gaps(records, measure)
            sweep_dots(axes, values, panel.levels, gaps, unbounded=measure in UNBOUNDED)
        row[0].set_ylabel(MEASURES[measure].replace(" ", "\n", 1))
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set_title(panel.title)
    for axes, panel in zip(grid[-1], panels, strict=True):
        axes.set_xlabel(panel.axis)
    figure.align_ylabels(grid[:, 0])
    write_small_print(figure, small_print)
    return figure


def write_small_print(figure: FigureBase, text: str) -> None:
    """Write the small print below a picture, in lines as wide as the picture."""
    figure.supxlabel(textwrap.fill(text, 160), fontsize=5.5, color="0.35")


def describe(settings: Settings, panels: Sequence[Panel]) -> str:
    """The small print: profile, variant, seeds, and the size and iterations of each panel."""
    stops = {panel.name: panel.runs[0][0].stop_accuracy for panel in panels}
    sooner = [
        f"; {name}: to {stop:.0%} training accuracy, if sooner"
        for name, stop in stops.items()
        if stop
    ]
    return (
        f"profile {settings.profile}, variant {settings.variant}, "
        f"NeuroGym {settings.task_version} inputs; {counted(len(settings.replicates), 'seed')} per setting, "
        f"N = {_by_panel(panels, 'N')}; {_by_panel(panels, 'iterations')} iterations{''.join(sooner)}"
    )


def _by_panel(panels: Sequence[Panel], name: str) -> str:
    """A field of the panels' runs; where panels differ in it, each number with its panels."""
    found: dict[int, list[str]] = {}
    for panel in panels:
        found.setdefault(getattr(panel.runs[0][0], name), []).append(panel.name)
    return ", ".join(
        f"{number:,}" + (f" ({', '.join(names)})" if len(found) > 1 else "")
        for number, names in found.items()
    )
