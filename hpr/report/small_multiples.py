"""Learning curves of every run and spectra of every structure, as many small plots of lines."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hpr.command_line import counted
from hpr.connectivity import Connectivity, spectrum_rank
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.figures.spectrum import spectrum

# The size of a plot in units of its lines' points, and the most points of a line.
WIDTH, HEIGHT = 100.0, 50.0
POINTS = 100
# The report computes no spectrum of a larger network, which would take more than a few seconds.
LARGEST = 700
# Fields of a run by which the page names its shape in any case, and their words.
NAMED = {"task": "", "N": "N = ", "iterations": "iterations ", "learning_rate": "learning rate "}


@dataclass(frozen=True)
class Plot:
    """One small plot.

    Attributes:
        name: what its lines have in common.
        lines: the points of each line, for the `points` of an SVG's polyline.
        dots: the point (x, y) of each curve that has no other, of which a line would show nothing.
        ends: the last point (x, y) of each line that ended before its time.
        caption: what the plot shows, in numbers.
        description: the same for those who do not see it.
    """

    name: str
    lines: list[str]
    dots: list[tuple[float, float]]
    ends: list[tuple[float, float]]
    caption: str
    description: str


@dataclass(frozen=True)
class Shape:
    """The learning curves of all runs of one shape; `low`, `high` are the ends of the axis of the loss."""

    name: str
    runs: int
    iterations: int
    low: float | None
    high: float | None
    plots: list[Plot]


def learning_curves(records: Iterable[Record]) -> list[Shape]:
    """One `Shape` per shape of run, with one plot per kind of initial weights."""
    shapes: dict[RunSpec, dict[tuple[Any, ...], list[Record]]] = {}
    for record in records:
        spec = RunSpec.from_dict(record["spec"])
        kind = (spec.connectivity, spec.aligned, spec.teacher is not None)
        shapes.setdefault(spec.shape, {}).setdefault(kind, []).append(record)
    names = _shape_names(list(shapes))
    return [_shape(names[shape], shape, kinds) for shape, kinds in shapes.items()]


def spectra(records: Iterable[Record]) -> tuple[list[Plot], list[str]]:
    """The spectrum of each structure's first seed, and the names of the structures whose spectrum is left out.

    Two-layer networks and weights aligned with a task have no spectrum of their own here.
    """
    first: dict[tuple[int, Connectivity], RunSpec] = {}
    for record in records:
        spec = RunSpec.from_dict(record["spec"])
        if spec.model == "leaky_rnn" and spec.aligned is None:
            known = first.setdefault((spec.N, spec.connectivity), spec)
            if spec.seed < known.seed:
                first[spec.N, spec.connectivity] = spec
    ordered = sorted(first, key=_order)
    names = kind_names([connectivity for _, connectivity in ordered])
    plots, left_out = [], []
    for N, connectivity in ordered:
        name = f"{names[connectivity]}, N = {N}"
        if N > LARGEST:
            left_out.append(name)
        else:
            plots.append(_spectrum(name, first[N, connectivity]))
    return plots, left_out


def _order(pair: tuple[int, Connectivity]) -> tuple[str, int, list[float], str]:
    """The sort key of a size and structure: the kind, the size, then the numbers in the label by their value."""
    N, connectivity = pair
    label = connectivity.label
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", label)]
    return re.sub(r"[-+]?\d.*", "", label), N, numbers, label


def kind_names(kinds: Iterable[Connectivity]) -> dict[Connectivity, str]:
    """A name of each structure: its label, and the fields in which it differs from most others of its type."""
    names = {}
    distinct = [*dict.fromkeys(kinds)]
    for kind in distinct:
        alike = [each for each in distinct if type(each) is type(kind)]
        told = _unusual(kind, alike)
        names[kind] = kind.label
        # The label tells of some fields already: those are not repeated where labels differ.
        for name, value in told.items():
            twins = [each for each in alike if each.label == kind.label]
            if len({repr(getattr(each, name)) for each in twins}) > 1:
                names[kind] += f", {name} {_plain(value)}"
    return names


def _unusual(one: Any, alike: Sequence[Any]) -> dict[str, Any]:
    """The fields of a dataclass whose value is not the commonest among others of its type."""
    found = {}
    for field in fields(one):
        counts = Counter(repr(getattr(each, field.name)) for each in alike)
        value = getattr(one, field.name)
        if repr(value) != counts.most_common(1)[0][0]:
            found[field.name] = value
    return found


def _shape_names(shapes: Sequence[RunSpec]) -> dict[RunSpec, str]:
    """A name of each shape: the fields `NAMED`, and those in which it differs from most of the alike ones."""
    names = {}
    for shape in shapes:
        same = [
            s for s in shapes if all(getattr(s, name) == getattr(shape, name) for name in NAMED)
        ]
        parts = [f"{words}{_plain(getattr(shape, name))}" for name, words in NAMED.items()]
        parts += [f"{name} {_plain(value)}" for name, value in _unusual(shape, same).items()]
        names[shape] = ", ".join(parts)
    return names


def _shape(name: str, shape: RunSpec, kinds: Mapping[tuple[Any, ...], list[Record]]) -> Shape:
    losses = [
        loss
        for records in kinds.values()
        for record in records
        for loss in record["curves"].get("loss", [])
        if loss > 0
    ]
    low, high = (min(losses), max(losses)) if losses else (None, None)
    structures = kind_names([connectivity for connectivity, _, _ in kinds])
    plots = []
    for (connectivity, aligned, taught), records in kinds.items():
        parts = [structures[connectivity], *([aligned] if aligned else [])]
        title = ", ".join([*parts, *(["taught"] if taught and not aligned else [])])
        plots.append(_curves(title, records, shape.iterations, low, high))
    runs = sum(len(records) for records in kinds.values())
    return Shape(name, runs, shape.iterations, low, high, plots)


def _curves(
    name: str, records: Sequence[Record], iterations: int, low: float | None, high: float | None
) -> Plot:
    """The losses of runs of one kind against iterations, by the logarithm from `low` to `high`."""
    lines, dots, ends = [], [], []
    for record in records:
        curve = record["curves"]
        pairs = zip(curve.get("iteration", []), curve.get("loss", []), strict=True)
        points = [
            (WIDTH * iteration / iterations, HEIGHT * (1 - _share(loss, low, high)))
            for iteration, loss in pairs
        ]
        if len(points) > 1:
            lines.append(_polyline(points))
        dots += points if len(points) == 1 else []
        if record["status"] == "diverged":
            ends.append(points[-1] if points else (0.0, HEIGHT / 2))
    finals = {
        measure: [
            record["measures"][measure]
            for record in records
            if record["measures"].get(measure) is not None
        ]
        for measure in ("final_loss", "final_accuracy")
    }
    parts = [counted(len(records), "run")]
    parts += [
        f"{words} {np.mean(finals[measure]):.3g}"
        for measure, words in (("final_loss", "loss"), ("final_accuracy", "accuracy"))
        if finals[measure]
    ]
    parts += [f"{len(ends)} diverged"] if ends else []
    caption = ", ".join(parts)
    return Plot(
        name, lines, dots, ends, caption, f"Loss during training, {name}: {caption} at the end"
    )


def _spectrum(name: str, spec: RunSpec) -> Plot:
    values = spectrum(spec)
    rank = spectrum_rank(values)
    places = np.unique(np.linspace(0, len(values) - 1, POINTS).round().astype(int))
    largest = values[0] or 1.0
    points = [
        (WIDTH * (place + 1) / len(values), HEIGHT * (1 - float(values[place] / largest)))
        for place in places
    ]
    caption = f"effective rank {rank:.3g}" if math.isfinite(rank) else "all zero"
    description = f"Magnitudes of the eigenvalues over the largest, {name}: {caption}"
    return Plot(name, [_polyline(points)], [], [], caption, description)


def _share(loss: float, low: float | None, high: float | None) -> float:
    """The place of a loss between the ends of a logarithmic axis, from 0 to 1."""
    if low is None or high is None or loss <= low:
        return 0.0
    return math.log(loss / low) / math.log(high / low)


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    step = -(-len(points) // POINTS)
    # The last point is kept, whatever the step.
    chosen = [*points[:-1:step], points[-1]]
    return " ".join(f"{x:.4g},{y:.4g}" for x, y in chosen)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
