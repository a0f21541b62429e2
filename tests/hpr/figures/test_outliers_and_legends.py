"""An outlier does not flatten the axis of the weight change, and legends cover none of what is drawn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.legend import Legend
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import hpr.theory.results
from hpr.experiment.specification import RunSpec
from hpr.figures import Settings, discover
from hpr.figures.definitions import theory_figure
from hpr.figures.draw import STYLE
from hpr.figures.draw.plotting import sweep_dots
from hpr.figures.panel import MEASURES
from hpr.theory import Size

CURVES = (
    "kernel_alignment",
    "task_kernel_alignment",
    "centred_kernel_alignment",
    "kernel_effective_rank",
)
SETTINGS = Settings(seeds=3)


def record(spec: RunSpec) -> dict[str, Any]:
    """Return a record with random measures; one in sixteen has diverged."""
    if int(spec.key[0], 16) == 0:
        return {"status": "diverged", "measures": {}}
    draw = np.random.default_rng(int(spec.key, 16)).uniform
    course = {name: [1.0, draw(0.5, 1), draw(0.5, 1)] for name in CURVES}
    return {
        "status": "finished",
        "measures": {name: draw(0.5, 1) for name in MEASURES},
        "trajectory": {"iteration": [0, 10, 100], **course},
    }


def drawn(name: str) -> Picture:
    """Return the picture of a figure, laid out as it is written."""
    figure = discover()[name]
    records = {spec.key: record(spec) for spec in figure.runs(SETTINGS)}
    with rc_context(STYLE):
        picture = figure.plot(SETTINGS, records)
        picture.set_dpi(200)
        FigureCanvasAgg(picture).draw()
    return picture


def legends(picture: Picture) -> Iterator[Legend]:
    for artist in picture.findobj(Legend):
        assert isinstance(artist, Legend)
        yield artist


def covered(axes: Axes, box: Bbox) -> list[str]:
    """Return the names of what is drawn in the axes and is, at least in part, under the box."""
    found = []
    for line in axes.lines:
        course = line.get_transform().transform_path(line.get_path())
        vertices = course.vertices[np.isfinite(course.vertices).all(axis=1)]
        joined = line.get_linestyle() not in ("None", "")
        hit = Outline(vertices).intersects_bbox(box, filled=False) if joined else False
        if len(vertices) and (hit or box.count_contains(vertices)):
            found.append(str(line))
    for collection in axes.collections:
        offsets = collection.get_offset_transform().transform(collection.get_offsets())
        if box.count_contains(np.ma.filled(offsets, np.nan)):
            found.append(str(collection))
    others = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    found += [text.get_text() for text in others if text.get_text() and overlap(text, box)]
    return found


def beyond(picture: Picture) -> set[Text]:
    """Return the labels of ticks beyond the limits of their axis, which matplotlib makes and does not draw."""
    found = set()
    for axis in (one for axes in picture.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                found |= {tick.label1, tick.label2}
    return found


def cut_off(picture: Picture) -> list[str]:
    """Return the texts that leave the picture at a side."""
    texts = set(picture.findobj(Text)) - beyond(picture)
    ends = [(t, t.get_window_extent()) for t in texts if t.get_visible() and t.get_text()]
    return [text.get_text() for text, box in ends if box.x0 < 0 or box.x1 > picture.bbox.x1]


def overlap(text: Any, box: Bbox) -> bool:
    return bool(Bbox.intersection(text.get_window_extent(), box))


@pytest.mark.parametrize("name", ["2", "3", "14", "15", "16"])
def test_legends_cover_nothing(name: str) -> None:
    picture = drawn(name)
    boxes = [legend.get_window_extent() for legend in legends(picture)]
    assert boxes
    for box in boxes:
        assert [what for axes in picture.axes for what in covered(axes, box)] == []
    assert cut_off(picture) == []


@pytest.mark.nightly
def test_legends_of_the_theory_cover_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Size(20_000, 20, 2, 2)
    monkeypatch.setattr(theory_figure, "QUICK", small)
    computed = hpr.theory.results.run_checks(small)
    monkeypatch.setattr(hpr.theory.results, "run_checks", lambda size: copy.copy(computed))
    picture = drawn("theory")
    boxes = [legend.get_window_extent() for legend in legends(picture)]
    assert len(boxes) == 3
    for box in boxes:
        assert [what for axes in picture.axes for what in covered(axes, box)] == []
    assert cut_off(picture) == []


def test_a_covered_curve_is_found() -> None:
    picture = Picture(layout="constrained")
    axes = picture.subplots()
    axes.plot([0, 1], [0, 1], label="a line that ends under its legend")
    axes.legend(loc="upper right")
    FigureCanvasAgg(picture).draw()
    (legend,) = legends(picture)
    assert len(covered(axes, legend.get_window_extent())) == 1


def test_one_outlier_does_not_flatten_the_others() -> None:
    """The other values keep a seventh of the axis; on a linear axis they would have a twentieth."""
    values = np.array([[11.0, 1.10], [1.6, 1.05], [1.5, 1.00], [1.4, 1.15]])
    axes = Picture().subplots()
    sweep_dots(axes, values, ("1", "300"), [[], []], unbounded=True)
    assert axes.get_yscale() == "log"
    ends, others = axes.transAxes.inverted(), np.array([1.0, 1.6])
    height = ends.transform(axes.transData.transform(np.column_stack([[0, 0], others])))[:, 1]
    assert height[1] - height[0] > 1 / 7
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert {"1", "2", "5", "10"} <= set(labels)


@pytest.mark.parametrize(
    ("values", "unbounded"),
    [
        # No value stands out.
        ([[1.2, 1.0], [1.3, 1.1]], True),
        # The measure has a bound.
        ([[11.0, 1.0], [1.3, 1.1], [1.3, 1.1]], False),
        # A logarithm needs values above zero.
        ([[11.0, 0.0], [1.3, 1.1], [1.3, 1.1]], True),
        ([[np.nan, np.nan]], True),
    ],
)
def test_other_axes_stay_linear(values: list[list[float]], unbounded: bool) -> None:
    axes = Picture().subplots()
    sweep_dots(axes, np.array(values), ("1", "300"), [[], []], unbounded=unbounded)
    assert axes.get_yscale() == "linear"
