"""The picture of the figure `theory`: six of its checks, in the paper's order."""

from __future__ import annotations

import math

import matplotlib.axes
import numpy as np
import torch
from matplotlib.figure import Figure

from hpr.figures.draw import WIDTH
from hpr.figures.draw.plotting import legend_above
from hpr.theory import Size, equations, recurrent_checks, two_layer_checks
from hpr.theory.networks import isotropic_spectrum
from hpr.theory.results import Results

# Okabe and Ito's blue, vermilion and green, and black.
BLUE, RED, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "black"
DIMENSIONS = {2: BLUE, 5: RED, 20: GREEN}


def checks(results: Results, n: Size, profile: str) -> Figure:
    """Draw six panels, and write below them how much was computed."""
    panels = (_final_kernel, _constant, _expectation, _maximiser, _alignment, _frozen)
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    for axes, letter, panel in zip(figure.subplots(2, 3).flat, "ABCDEF", panels, strict=True):
        panel(axes, results)
        axes.set_title(f"{letter}  {axes.get_title()}", loc="left")
        axes.set_title("")
        if axes.get_legend_handles_labels()[1]:
            lines = "lines: bound, leading term" if panel is _final_kernel else ""
            # Two of F's long labels would be wider than its axes.
            legend_above(axes, columns=1 if panel is _frozen else 2, title=lines)
    figure.supxlabel(
        f"profile {profile}: {n.tasks:,} Monte Carlo tasks, {n.trained:,} tasks "
        f"trained per setting, {n.starts} starts, {n.networks} recurrent networks per rank; "
        f"bars: stated errors; F: medians",
        fontsize=5.5,
        color="0.35",
    )
    return figure


def _final_kernel(axes: matplotlib.axes.Axes, results: Results) -> None:
    """Largest distance of trained kernels from Eq. 8 against σ, with the leading term of the bound."""
    for d, rank in two_layer_checks.SWEPT:
        runs = [run for run in results.swept if (run.d, run.rank) == (d, rank)]
        sigma = np.array([run.sigma for run in runs])
        # The leading term of the bound. Its other terms depend on the task.
        unit = (1 + math.sqrt(d - 1) / 2) * sigma**2
        K = [(run.end.kernel(run.X), equations.final_kernel(run.X, run.beta)) for run in runs]
        filled = DIMENSIONS[d] if rank == d else "white"
        axes.plot(
            sigma,
            [float((trained - formula).norm(dim=(-2, -1)).max()) for trained, formula in K],
            "o",
            markersize=4,
            color=DIMENSIONS[d],
            markerfacecolor=filled,
            markeredgewidth=0.8,
            label=f"d = {d}, rank {rank}",
        )
        if rank == 1:
            axes.plot(sigma, unit, "-", linewidth=0.8, color=DIMENSIONS[d])
    axes.set(xscale="log", yscale="log", xlabel="initial norm σ", title="Eq. 8: what it leaves out")
    axes.set_ylabel("largest ‖$K^{(f)}$ − Eq. 8‖")


def _constant(axes: matplotlib.axes.Axes, results: Results) -> None:
    cases = results.constant.cases
    d = np.array([float(case.label.split("=")[1]) for case in cases])
    axes.errorbar(
        d,
        d * [case.measured for case in cases],
        yerr=d * [case.error for case in cases],
        fmt="o",
        color=BLUE,
        markersize=3.5,
        capsize=2,
        linewidth=0.8,
    )
    smooth = np.linspace(2, 20, 100)
    axes.axhline(1, color=BLACK, linewidth=0.8)
    axes.plot(smooth, smooth / (smooth + 1), ":", color="0.4", linewidth=0.8)
    axes.plot(smooth, 2 ** (-smooth / 2), "--", color=RED, linewidth=0.8)
    for text, place, colour in (
        ("c = 1/d", (12, 1.03), BLACK),
        ("1/(d + 1)", (12, 0.83), "0.4"),
        ("Eq. 15 as printed", (5.5, 0.24), RED),
    ):
        axes.annotate(text, place, fontsize=6.5, color=colour)
    axes.set(xlabel="input dimension d", ylabel=r"$d \cdot E[\hat\beta_1^2]$", ylim=(0, 1.2))
    axes.set_title("Lemma 2: the constant c")


def _expectation(axes: matplotlib.axes.Axes, results: Results) -> None:
    for d, colour in DIMENSIONS.items():
        ranks = np.arange(1, d + 1)
        c = equations.mean_square_direction(d)
        line = [
            float(
                equations.expected_alignment_of_spectrum(isotropic_spectrum(d, int(rank), 1.0), c)
            )
            for rank in ranks
        ]
        axes.plot(ranks / d, line, "-", color=colour, linewidth=0.8, label=f"d = {d}")
    for check, marker, filled in ((results.expected, "o", True), (results.trained, "s", False)):
        for (d, rank), case in zip(two_layer_checks.SETTINGS, check.cases, strict=True):
            axes.errorbar(
                rank / d + (0 if filled else 0.025),
                case.measured,
                yerr=case.error,
                fmt=marker,
                color=DIMENSIONS[d],
                markerfacecolor=DIMENSIONS[d] if filled else "white",
                markersize=3.5 if filled else 4,
                markeredgewidth=0.8,
                linewidth=0.8,
                capsize=2,
            )
    axes.plot([], [], "ok", markersize=3.5, label="Monte Carlo")
    axes.plot(
        [], [], "sk", markersize=4, markerfacecolor="white", markeredgewidth=0.8, label="trained"
    )
    axes.set(xlabel="rank / d", ylabel="mean KA over tasks", xlim=(0, 1.08))
    axes.set_title("Eq. 21 (lines)")


def _maximiser(axes: matplotlib.axes.Axes, results: Results) -> None:
    d = results.optimum.starts.shape[1]
    place = np.arange(1, d + 1)
    for spectra, colour, width in (
        (results.optimum.starts, "0.75", 0.6),
        (results.optimum.ends, BLUE, 1.2),
    ):
        axes.plot(
            place, -np.sort(-spectra[:12]).T, "-o", color=colour, markersize=2.5, linewidth=width
        )
    axes.axhline(1 / d, color=BLACK, linestyle="--", linewidth=0.8)
    axes.annotate("starts", (1.15, 0.9), color="0.5", fontsize=6.5)
    axes.annotate("ends, all at 1/d", (3.1, 1 / d + 0.05), color=BLUE, fontsize=6.5)
    axes.set(
        xlabel="$j$, largest first",
        ylabel=r"$s_j^2 / \sigma^2$",
        title=f"Theorem 1: SLSQP, d = {d}",
    )
    axes.set_xticks(place)


def _alignment(axes: matplotlib.axes.Axes, results: Results) -> None:
    rotated = results.rotated
    M_0 = equations.second_moment(rotated.start.W_1, rotated.start.W_2)
    direction = rotated.start.W_1[:, 0] / rotated.sigma
    cosine = torch.nn.functional.cosine_similarity(direction, rotated.beta, dim=-1).square()
    axes.plot(cosine, equations.task_alignment(M_0, rotated.beta), "-", color=BLACK, linewidth=0.8)
    axes.plot(cosine, rotated.alignment, "o", color=BLUE, markersize=3, markeredgewidth=0)
    full = equations.largest_expected_alignment(rotated.d)
    axes.axhline(full, color=GREEN, linestyle="--", linewidth=0.8)
    axes.annotate("full rank, any task", (0.02, full + 0.004), color=GREEN, fontsize=6.5)
    axes.annotate("Eq. 14", (0.42, 0.905), fontsize=6.5)
    axes.annotate(
        "Prop. 1", (1, 1), (0.72, 0.993), fontsize=6.5, arrowprops={"arrowstyle": "-", "lw": 0.5}
    )
    axes.set(xlabel=r"$\cos^2$ of the angle of $W_1$ to $\beta$", ylabel="KA of one trained task")
    axes.set_title(f"Eq. 14, Prop. 1: rank 1, d = {rotated.d}")


def _frozen(axes: matplotlib.axes.Axes, results: Results) -> None:
    place = np.arange(len(recurrent_checks.INITIAL_RANKS))
    ways = (
        (results.losses.frozen, "o-", BLUE, "frozen"),
        (results.losses.reachable, "^-", GREEN, "frozen, reachable Y"),
        (results.losses.leaky, "s-", RED, "frozen, leaky (Eq. 1)"),
        (results.losses.trained, "v-", "0.45", "trained"),
    )
    for (losses, style, colour, label), shift in zip(ways, (0, -0.12, 0, 0.12), strict=True):
        # Values below 1e-32 are rounding errors of the squares.
        median = [
            max(float(losses[rank].median()), 1e-32) for rank in recurrent_checks.INITIAL_RANKS
        ]
        axes.plot(
            place + shift, median, style, color=colour, markersize=3.5, linewidth=0.8, label=label
        )
    for value, text in (
        (recurrent_checks.N_OUT, "$N_{out}$"),
        (recurrent_checks.POINTS, "data points"),
    ):
        at = float(np.interp(value, recurrent_checks.INITIAL_RANKS, place))
        axes.axvline(at, color="0.6", linestyle=":", linewidth=0.8)
        axes.annotate(text, (at + 0.08, 1e3), color="0.35", fontsize=6.5)
    axes.set(
        yscale="log", ylim=(1e-34, 1e6), xlabel="rank of $W_h$", ylabel="relative squared error"
    )
    axes.set_yticks([1, 1e-10, 1e-20, 1e-30])
    axes.set_xticks(place, [str(rank) for rank in recurrent_checks.INITIAL_RANKS])
    axes.set_title("Prop. 2: linear RNN")
