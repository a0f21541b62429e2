"""Bind a run to what it depends on by content, so that its key says all that its result depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hpr.connectivity import drawn
from hpr.experiment.specification import RunSpec

if TYPE_CHECKING:
    from hpr.tasks import Task


def bind(spec: RunSpec, task: Task) -> RunSpec:
    """The run with what it depends on by content, its teacher with the same; what it already has it keeps.

    That is its task's content and, of a structure of your own, the weights that it draws. A run that was trained on
    other trials or from other weights under the same names has another key, hence another record.

    Raises:
        ValueError: one line, where the structure's weights are none or not to be drawn again.
    """
    content = spec.content or task.content
    weights = spec.drawn or drawn(spec.connectivity, spec.N, spec.seed)
    teacher = None if spec.teacher is None else bind(spec.teacher, task)
    if (content, weights, teacher) == (spec.content, spec.drawn, spec.teacher):
        return spec
    return replace(spec, content=content, drawn=weights, teacher=teacher)
