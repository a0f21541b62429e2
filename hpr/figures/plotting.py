"""Drawing that figures share; the files depend on the records alone and hold no dates."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpr.figures.figure import MEASURES, Panel, Record, Settings
from hpr.store import write_atomically

# Okabe and Ito's blue: distinct from the black means for every kind of colour vision, and in grey.
DOTS = "#0072B2"
WIDTH = 7.0  # inches, a page's two columns
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Letters stay text in the PDF.
    "pdf.fonttype": 42,
}


def sweep_dots(
    axes: matplotlib.axes.Axes,
    values: NDArray[np.float64],
    levels: Sequence[str],
    gaps: Sequence[Sequence[str]],
) -> None:
    """Draw a sweep: a dot a run, bars and a thin line for the means, missing runs in words.

    Args:
        axes: where to draw.
        values: [S, L]; a NaN is a run without a value. A seed keeps its place beside the tick.
        levels: the L tick labels, in order.
        gaps: of each level, why its missing runs are missing.
    """
    S, L = values.shape
    # Multiples of the golden ratio, modulo 1, spread evenly whatever S is.
    offsets = 0.5 * ((np.arange(S) * 0.6180339887 + 0.5) % 1.0 - 0.5)
    positions = np.arange(L) + offsets[:, None]
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
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    _write_gaps(axes, gaps, S)


def _write_gaps(axes: matplotlib.axes.Axes, gaps: Sequence[Sequence[str]], S: int) -> None:
    """Say below the dots how many of S runs are missing at each level, and why."""
    kinds = max(len(set(reasons)) for reasons in gaps)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.18 * kinds * (high - low), high)
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
    """Draw sweeps: a column a panel, a row a measure, `small_print` below."""
    with matplotlib.rc_context(STYLE):
        height = 0.55 + 1.45 * len(measures)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        grid = figure.subplots(len(measures), len(panels), squeeze=False, sharex="col")
        for row, measure in zip(grid, measures, strict=True):
            for axes, panel in zip(row, panels, strict=True):
                values = panel.values(records, measure)
                sweep_dots(axes, values, panel.levels, panel.gaps(records, measure))
            row[0].set_ylabel(MEASURES[measure].replace(" ", "\n", 1))
        for axes, panel in zip(grid[0], panels, strict=True):
            axes.set_title(panel.title)
        for axes, panel in zip(grid[-1], panels, strict=True):
            axes.set_xlabel(panel.axis)
        figure.align_ylabels(grid[:, 0])
        figure.supxlabel(small_print, fontsize=5.5, color="0.35")
    return figure


def describe(settings: Settings, panels: Sequence[Panel]) -> str:
    """The small print: profile, variant, seeds, and the iterations of each panel."""
    lengths: dict[int, list[str]] = {}
    for panel in panels:
        lengths.setdefault(panel.runs[0][0].iterations, []).append(panel.name)
    iterations = ", ".join(
        f"{length:,} iterations" + (f" ({', '.join(names)})" if len(lengths) > 1 else "")
        for length, names in lengths.items()
    )
    return (
        f"profile {settings.profile}, variant {settings.variant}, "
        f"NeuroGym {settings.task_version} inputs; {len(settings.replicates)} seeds a setting, "
        f"{iterations}; bars are means"
    )


def save(figure: Figure, path: Path) -> None:
    """Write `path` with the endings .png (200 dpi) and .pdf."""
    dateless = {"CreationDate": None, "Producer": None, "Creator": None}
    for ending, metadata in ((".png", {"Software": None}), (".pdf", dateless)):
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(content, format=ending[1:], dpi=200, metadata=metadata)
        write_atomically(path.with_suffix(ending), content.getvalue())
